//! Which numbers the kernel knows. It counts how often it was told each, and says when it has forgotten
//! them; until then they must stand for what they stood for.

use std::collections::HashMap;

use super::model::Node;

/// How often the kernel was told each number that it has not forgotten. A mirror's mounts share the counts:
/// a number is forgotten once all of them have forgotten it.
#[derive(Debug, Default)]
pub(super) struct Kernel {
    told: HashMap<Node, u64>,
}

impl Kernel {
    /// Notes that the kernel is told a number once more.
    pub(super) fn tell(&mut self, node: Node) {
        *self.told.entry(node).or_default() += 1;
    }

    /// Notes that the kernel has forgotten a number that it was told `count` times.
    pub(super) fn forget(&mut self, node: Node, count: u64) {
        let Some(told) = self.told.get_mut(&node) else { return };
        *told = told.saturating_sub(count);
        if *told == 0 {
            self.told.remove(&node);
        }
        // The table follows the kernel's, which shrinks under pressure.
        if self.told.capacity() > 1024 && self.told.len() < self.told.capacity() / 8 {
            self.told.shrink_to(self.told.len() * 2);
        }
    }

    /// Tells whether the kernel knows a number.
    pub(super) fn knows(&self, node: Node) -> bool {
        self.told.contains_key(&node)
    }
}
