//! Decides when a mirror may drop removed names: once all walks that began before the removal have ended,
//! because they may have seen them.

use std::collections::{BTreeMap, VecDeque};

use super::model::Node;

/// Most removed names that are kept, some 16 MB: a walk may run for days while other processes create temporary
/// files.
pub(super) const GONE_MAX: usize = 65_536;

/// The removed names, and the walks that may have seen them.
#[derive(Debug, Default)]
pub(super) struct Gone {
    /// Each with the batch of its removal, the oldest first.
    queue: VecDeque<(u64, Node)>,
    /// The number of running walks by the batch after which they began.
    running: BTreeMap<u64, usize>,
}

/// A path that may be dropped.
#[derive(Debug)]
pub(super) struct Went {
    pub(super) path: Node,
    /// The batch of its removal.
    pub(super) batch: u64,
    /// Whether a running walk may have seen it.
    pub(super) was_seen: bool,
}

impl Gone {
    /// Records that a path was removed in a batch.
    pub(super) fn note(&mut self, batch: u64, path: Node) {
        self.queue.push_back((batch, path));
    }

    /// Records the begin of a walk after so many batches.
    pub(super) fn begin(&mut self, batches: u64) {
        *self.running.entry(batches).or_default() += 1;
    }

    /// Records its end.
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

    /// Returns the batch after which the oldest running walk began.
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
