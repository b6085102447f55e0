//! When a mirror may drop what it knows of names that are gone: once every walk that runs has begun
//! after that, for those before may have seen them.

use std::collections::{BTreeMap, VecDeque};

use super::model::Node;

/// Names that are gone and are kept all the same, at most, some 16 MB: a walk may run for days, and
/// somebody else make temporary files all the while.
pub(super) const GONE_MAX: usize = 65_536;

/// The paths whose names are gone, and the walks that may have seen them.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Each with the batch of changes in which it went, the oldest first.
    queue: VecDeque<(u64, Node)>,
    /// How many walks began after so many batches, and run still.
    running: BTreeMap<u64, usize>,
}

/// A path that may be dropped.
#[derive(Debug)]
pub(super) struct Went {
    pub(super) path: Node,
    /// In which batch of changes its name went.
    pub(super) batch: u64,
    /// A walk that runs may have seen it.
    pub(super) was_seen: bool,
}

impl Gone {
    /// Notes that a path went in a batch.
    pub(super) fn note(&mut self, batch: u64, path: Node) {
        self.queue.push_back((batch, path));
    }

    /// Notes that a walk begins after so many batches.
    pub(super) fn begin(&mut self, batches: u64) {
        *self.running.entry(batches).or_default() += 1;
    }

    /// Notes that it is over.
    pub(super) fn end(&mut self, batches: u64) {
        if let Some(count) = self.running.get_mut(&batches) {
            *count -= 1;
            if *count == 0 {
                self.running.remove(&batches);
            }
        }
    }

    /// Tells whether no walk runs.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Returns how many batches there were before the first of the running walks began.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.running.first_key_value().map(|(&batches, _)| batches)
    }

    /// Returns the next path that may be dropped.
    pub(super) fn next(&mut self) -> Option<Went> {
        let &(batch, path) = self.queue.front()?;
        let was_seen = self.oldest().is_some_and(|oldest| oldest < batch);
        if was_seen && self.queue.len() <= GONE_MAX {
            return None;
        }
        self.queue.pop_front();
        Some(Went { path, batch, was_seen })
    }
}
