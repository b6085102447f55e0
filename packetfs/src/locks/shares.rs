//! What each user of a node has of what all have together.

use std::collections::BTreeMap;

use super::limits::{
    COMING_LOCKS, NODE_LOCKS_MAX, ROOT_LOCKS, ROOT_WAITERS, USER_LOCKS_MAX, USER_WAITERS_MAX,
    WAITERS_MAX,
};

/// The number of root.
const ROOT: u32 = 0;

/// What a user has.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Share {
    locks: usize,
    waiters: usize,
    releases: usize,
}

/// The shares of all users.
#[derive(Debug, Default)]
pub(super) struct Shares {
    users: BTreeMap<u32, Share>,
    all: Share,
}

impl Shares {
    fn of(&self, user: u32) -> Share {
        self.users.get(&user).copied().unwrap_or_default()
    }

    /// Returns how many releases of a user are under way.
    pub(super) fn releases(&self, user: u32) -> usize {
        self.of(user).releases
    }

    /// Tells whether one more program of a user may wait.
    pub(super) fn may_wait(&self, user: u32) -> bool {
        match user {
            ROOT => self.all.waiters < WAITERS_MAX,
            _ => {
                self.of(user).waiters < USER_WAITERS_MAX
                    && self.all.waiters < WAITERS_MAX - ROOT_WAITERS
            }
        }
    }

    /// Tells whether a user may have more locks.
    pub(super) fn may_lock(&self, user: u32) -> bool {
        let most = NODE_LOCKS_MAX - COMING_LOCKS;
        match user {
            ROOT => self.all.locks < most,
            _ => self.of(user).locks < USER_LOCKS_MAX && self.all.locks < most - ROOT_LOCKS,
        }
    }

    /// A request begins.
    pub(super) fn begin(&mut self, user: u32, is_release: bool) {
        self.change(user, |it| if is_release { it.releases += 1 } else { it.waiters += 1 });
    }

    /// A request ends.
    pub(super) fn end(&mut self, user: u32, is_release: bool) {
        self.change(user, |it| if is_release { it.releases -= 1 } else { it.waiters -= 1 });
    }

    /// A user's program has more or fewer locks than before.
    pub(super) fn note_locks(&mut self, user: u32, before: usize, after: usize) {
        self.change(user, |it| it.locks = (it.locks + after).saturating_sub(before));
    }

    fn change(&mut self, user: u32, change: impl Fn(&mut Share)) {
        change(&mut self.all);
        let it = self.users.entry(user).or_default();
        change(it);
        if *it == Share::default() {
            self.users.remove(&user);
        }
    }
}
