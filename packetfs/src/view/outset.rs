//! The tree as a walk found it when it began.

use std::sync::Arc;

use super::answer::View;
use crate::change::Base;
use crate::packet::Digest;
use crate::tree::Time;

/// The tree as a walk found it. What the walk may have seen and is gone by now is kept until this is dropped.
pub struct Outset {
    view: Arc<View>,
    batches: u64,
}

impl std::fmt::Debug for Outset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outset").field("batches", &self.batches).finish_non_exhaustive()
    }
}

impl Outset {
    /// Notes that a walk begins.
    pub(crate) fn new(view: &Arc<View>) -> Self {
        let view = Arc::clone(view);
        let batches = view.mirror().begin();
        Self { view, batches }
    }

    /// Returns what was found at a path, unless it has changed since.
    #[must_use]
    pub fn base(&self, path: &[u8]) -> Base {
        self.view.mirror().base_since(self.batches, path)
    }

    /// Returns the digest of what was found in a directory, unless that has changed since.
    #[must_use]
    pub fn contents(&self, path: &[u8]) -> Option<Digest> {
        self.view.mirror().contents_since(self.batches, path)
    }

    /// Tells whether the walk may have found a directory with this modification time, though it has
    /// another by now.
    #[must_use]
    pub fn had_time(&self, path: &[u8], time: Time) -> bool {
        self.view.mirror().had_time_since(self.batches, path, time)
    }
}

impl Drop for Outset {
    fn drop(&mut self) {
        let forget = self.view.mirror().end(self.batches);
        self.view.forget(forget);
    }
}
