//! What is to be given to other nodes before locks go to them: which files programs of each user have closed, what waits for them,
//! and which threads are left for whom. [`super::givers`] gives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use worknode::history::{Author, FileId};

use crate::locks::Ticket;

/// Most threads that give.
pub(super) const GIVERS_MAX: usize = 16;
/// Most of them for one user.
const USER_GIVERS_MAX: usize = 2;
/// Most files of a user of which it is remembered that programs have closed them. Beyond that all open files are looked at.
const CLOSED_MAX: usize = 4096;
/// Most files of which it is remembered who gave back locks on them.
const FILES_MAX: usize = 4096;
/// The user of what is done for all.
pub(super) const ALL: u32 = u32::MAX;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Task {
    /// A lock on a file waits.
    Lock(Ticket, FileId),
    /// The claims to a master wait.
    Claim(Author),
    /// Others wait for what a user has closed.
    Closed(u32),
}

/// What is to be given, and who gives.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// What programs of each user have closed.
    pub(super) closed: BTreeMap<u32, BTreeSet<u64>>,
    /// There is more, whose owners count as the users.
    pub(super) is_all: bool,
    /// Files that are being given, and who has closed them.
    pub(super) in_work: BTreeMap<u64, BTreeSet<u32>>,
    /// Those that others have waited for in vain: they do not wait again.
    pub(super) slow: BTreeSet<u64>,
    /// Who has given back locks on a file that other nodes have not got since.
    pub(super) releasers: BTreeMap<FileId, BTreeSet<u32>>,
    pub(super) tasks: VecDeque<(u32, Task)>,
    /// How many threads each user has.
    busy: BTreeMap<u32, usize>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) idle: usize,
    pub(super) is_closed: bool,
}

impl Work {
    /// Returns the next task of a user who has a thread left.
    pub(super) fn next(&mut self) -> Option<(u32, Task)> {
        let has_thread = |user: &u32| self.busy.get(user).is_none_or(|it| *it < USER_GIVERS_MAX);
        let at = self.tasks.iter().position(|(user, _)| has_thread(user))?;
        let task = self.tasks.remove(at)?;
        *self.busy.entry(task.0).or_default() += 1;
        Some(task)
    }

    pub(super) fn end(&mut self, user: u32) {
        let left = self.busy.get(&user).map_or(0, |it| it - 1);
        match left {
            0 => drop(self.busy.remove(&user)),
            _ => drop(self.busy.insert(user, left)),
        }
    }

    /// Returns what users have closed, or all but these.
    pub(super) fn files(&self, users: &BTreeSet<u32>, are_meant: bool) -> BTreeSet<u64> {
        let is_meant = |user: &u32| users.contains(user) == are_meant;
        let closed = self.closed.iter().filter(|(user, _)| is_meant(user)).flat_map(|(_, it)| it);
        let in_work = self.in_work.iter().filter(|(_, users)| users.iter().any(is_meant));
        let files = closed.chain(in_work.map(|(ino, _)| ino)).copied();
        files.filter(|ino| are_meant || !self.slow.contains(ino)).collect()
    }

    pub(super) fn is_left(&self, ino: u64) -> bool {
        self.in_work.contains_key(&ino) || self.closed.values().any(|it| it.contains(&ino))
    }

    /// Has files of other users given, by threads of theirs.
    pub(super) fn ask_others(&mut self, users: &BTreeSet<u32>) {
        let others: Vec<u32> =
            self.closed.keys().filter(|user| !users.contains(user)).copied().collect();
        for user in others {
            let task = (user, Task::Closed(user));
            if !self.tasks.contains(&task) {
                self.tasks.push_back(task);
            }
        }
    }
}

/// What is given to other nodes.
#[derive(Debug, Default)]
pub(super) struct Giving {
    work: Mutex<Work>,
    pub(super) changed: Condvar,
}

impl Giving {
    pub(super) fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn wait<'a>(
        &self,
        work: MutexGuard<'a, Work>,
        time: Duration,
    ) -> MutexGuard<'a, Work> {
        self.changed.wait_timeout(work, time).unwrap_or_else(PoisonError::into_inner).0
    }

    /// Takes note that a user's program has closed a file that it may have written.
    pub(super) fn note_closed(&self, ino: u64, user: u32) {
        let mut work = self.lock();
        let files = work.closed.entry(user).or_default();
        if files.len() < CLOSED_MAX {
            files.insert(ino);
        } else {
            work.is_all = true;
        }
    }

    /// Takes note that what programs have written so far is to be given all.
    pub(super) fn note_all(&self) {
        self.lock().is_all = true;
    }

    /// Takes note that a user's program has a lock on a file that other nodes may get here.
    pub(super) fn note_user(&self, file: FileId, user: u32) {
        let mut work = self.lock();
        if work.releasers.len() >= FILES_MAX && !work.releasers.contains_key(&file) {
            work.releasers.pop_first();
        }
        work.releasers.entry(file).or_default().insert(user);
    }

    /// Ends the threads when they have done what they do.
    pub(super) fn close(&self) {
        let threads = {
            let mut work = self.lock();
            work.is_closed = true;
            std::mem::take(&mut work.threads)
        };
        self.changed.notify_all();
        for thread in threads {
            // It has said what has failed.
            let _ = thread.join();
        }
    }
}
