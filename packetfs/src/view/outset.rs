//! The state of the tree when a walk began.

use std::sync::Arc;

use super::answer::View;
use crate::change::Base;
use crate::packet::Digest;
use crate::tree::Time;

/// The tree as a walk found it. Items that the walk may have seen are kept until this is dropped, even if they are
/// removed meanwhile.
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
    /// Records that a walk begins.
    pub(crate) fn new(view: &Arc<View>) -> Self {
        let view = Arc::clone(view);
        let batches = view.mirror().begin();
        Self { view, batches }
    }

    /// Returns what the walk found at a path, unless it has changed since.
    #[must_use]
    pub fn base(&self, path: &[u8]) -> Base {
        self.view.mirror().base_since(self.batches, path)
    }

    /// Returns the digest of the names that the walk found in a directory, unless they have changed since.
    #[must_use]
    pub fn contents(&self, path: &[u8]) -> Option<Digest> {
        self.view.mirror().contents_since(self.batches, path)
    }

    /// Tells whether the walk may have found a directory with this modification time, even if it has
    /// changed since.
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
