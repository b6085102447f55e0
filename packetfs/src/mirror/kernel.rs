//! The kernel's references to nodes (FUSE's `nlookup`). Until the kernel drops them with `forget`, a number must keep
//! its meaning.

use std::collections::HashMap;

use super::model::Node;

/// Reference counts by node, summed over all mounts of the mirror.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    told: HashMap<Node, u64>,
}

impl Kernel {
    /// Adds a reference.
    pub(super) fn tell(&mut self, node: Node) {
        *self.told.entry(node).or_default() += 1;
    }

    /// Drops `count` references.
    pub(super) fn forget(&mut self, node: Node, count: u64) {
        let Some(told) = self.told.get_mut(&node) else { return };
        *told = told.saturating_sub(count);
        if *told == 0 {
            self.told.remove(&node);
        }
        // The kernel drops many references under memory pressure.
        if self.told.capacity() > 1024 && self.told.len() < self.told.capacity() / 8 {
            self.told.shrink_to(self.told.len() * 2);
        }
    }

    /// Tells whether the kernel holds a reference.
    pub(super) fn knows(&self, node: Node) -> bool {
        self.told.contains_key(&node)
    }
}
