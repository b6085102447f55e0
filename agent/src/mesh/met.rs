//! Which volumes are or were linked with this node's, and so who counts as a keeper of contents.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use worknode::history::Author;

/// Time for which a member that is not linked still counts: a machine that starts again needs no other keepers.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(15 * 60);

/// The volumes of other nodes.
#[derive(Debug)]
pub(super) struct Met(Mutex<State>);

#[derive(Debug)]
struct State {
    /// When it was begun to look. Who was not seen since counts as seen then.
    begun: Instant,
    linked: HashMap<u32, Author>,
    /// When links ended.
    seen: HashMap<Author, Instant>,
}

impl Met {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(State { begun: now, linked: HashMap::new(), seen: HashMap::new() }))
    }

    /// Notes whose volume a link leads to.
    pub(super) fn begin(&self, link: u32, author: Author) {
        self.lock().linked.insert(link, author);
    }

    /// Notes the end of a link.
    pub(super) fn end(&self, link: u32, now: Instant) {
        let mut state = self.lock();
        if let Some(author) = state.linked.remove(&link) {
            state.seen.insert(author, now);
        }
    }

    /// Notes that a link does not lead to the volume that it was said to lead to.
    pub(super) fn retract(&self, link: u32) {
        self.lock().linked.remove(&link);
    }

    /// Tells whether a link leads to a volume.
    pub(super) fn is_linked(&self, link: u32) -> bool {
        self.lock().linked.contains_key(&link)
    }

    /// Returns who counts: all that are linked, and those members that were not long ago.
    pub(super) fn counted(
        &self,
        members: impl IntoIterator<Item = Author>,
        now: Instant,
    ) -> BTreeSet<Author> {
        let state = self.lock();
        let is_recent = |author: &Author| {
            let seen = state.seen.get(author).copied().unwrap_or(state.begun);
            now.saturating_duration_since(seen) < GONE_AFTER
        };
        members.into_iter().filter(is_recent).chain(state.linked.values().copied()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_gone_for_long_does_not_count() {
        let [one, two, three] = [1, 2, 3].map(|number| Author([number; 16]));
        let begun = Instant::now();
        let met = Met::new(begun);
        met.begin(7, one);
        met.begin(8, two);
        assert!(met.is_linked(8) && !met.is_linked(9));
        let half = begun + GONE_AFTER / 2;
        met.end(8, half);
        let counted = |members: &[Author], now| met.counted(members.iter().copied(), now);
        assert_eq!(counted(&[one, two, three], half), [one, two, three].into());
        assert_eq!(counted(&[one, three], half), [one, three].into(), "the other was removed");
        assert_eq!(counted(&[one, two, three], begun + GONE_AFTER), [one, two].into());
        assert_eq!(counted(&[one, two, three], half + GONE_AFTER), [one].into());
        met.retract(7);
        assert_eq!(counted(&[one, two, three], half + GONE_AFTER), [].into(), "it was a lie");
    }
}
