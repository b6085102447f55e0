//! Bounds the memory of a mirror by evicting unused directories.
//!
//! A directory is evicted with all its names, because listings are complete or absent, and refetched on demand.
//! It stays while the kernel holds a reference to it or one of its names: kernel caches never expire, and
//! changes below an unknown directory are ignored. Items that a running walk may have seen stay as well, up to
//! twice the bound, so that its changes can be compared with what it found. Beyond that they count as
//! changed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::Mirror;
use super::item::Item;
use super::model::{Invalidation, Node, ROOT};

/// Fraction of the names that is evicted at once, to amortize the search.
pub(super) const PART: usize = 8;
/// Multiple of the bound beyond which items that running walks may have seen are evicted, too: a walk may run
/// for days while others look up other files.
pub(super) const SEEN_FACTOR: usize = 2;

impl Mirror {
    /// Records that the kernel gets a reference to a node.
    pub fn tell(&mut self, node: Node) {
        self.kernel.tell(node);
    }

    /// Records that the kernel has dropped `count` references to a node.
    pub fn kernel_forgot(&mut self, node: Node, count: u64) {
        self.kernel.forget(node, count);
        // Until now the kernel may have answered a walk from its cache.
        if !self.gone.is_idle() {
            self.use_node(node);
        }
    }

    /// Marks a directory and its ancestors as used.
    pub(super) fn use_dir(&mut self, dir: Node) {
        let (mut at, now) = (dir, self.batches);
        while let Some(item) = self.items.get_mut(&at)
            && item.used < now
        {
            item.used = now;
            at = item.parent;
        }
    }

    /// Marks the directories of a node's paths as used.
    fn use_node(&mut self, node: Node) {
        let paths =
            self.links.sharing(node).map_or_else(|| vec![node], |it| it.iter().copied().collect());
        for path in paths {
            self.use_dir(path);
            let dir = self.items.get(&path).map(|item| item.parent);
            dir.into_iter().for_each(|dir| self.use_dir(dir));
        }
    }

    /// Evicts unused directories if there are too many names.
    pub(super) fn evict(&mut self, forget: &mut BTreeSet<Invalidation>) {
        if self.items.len() <= self.evict_beyond {
            return;
        }
        let enough = self.names_max - self.names_max / PART;
        let unseen = self.gone.oldest().unwrap_or(self.batches);
        self.evict_unused(enough, unseen, forget);
        if self.items.len() > self.names_max * SEEN_FACTOR {
            let now = self.batches;
            // Walks that begin from now on find refetched data.
            self.batches += 1;
            self.evict_unused(self.names_max * SEEN_FACTOR, now, forget);
        }
        self.evict_beyond = self.names_max.max(self.items.len() + self.names_max / PART);
        self.asked = false;
    }

    /// Makes the kernel drop all unused names if there are too many and no walk runs, once per eviction. With free
    /// memory the kernel drops nothing by itself. It looks used names up again, so that the next eviction can tell
    /// which are unused.
    pub(super) fn ask_kernel(&mut self, forget: &mut BTreeSet<Invalidation>) {
        if self.asked || !self.gone.is_idle() || self.items.len() <= self.names_max {
            return;
        }
        self.asked = true;
        let names = self.items.get(&ROOT).into_iter().flat_map(|root| root.children.keys());
        forget.extend(names.map(|name| Invalidation::Entry(ROOT, name.clone())));
        self.evict_beyond = self.items.len() + self.names_max / PART;
    }

    /// Evicts directories that were last used before a batch, least recently used first, until `enough` names are
    /// left.
    fn evict_unused(&mut self, enough: usize, before: u64, forget: &mut BTreeSet<Invalidation>) {
        let is_old =
            |node, item: &Item| node != ROOT && !item.children.is_empty() && item.used < before;
        let all = self.items.iter().map(|(&node, item)| (node, item));
        let old = all.filter(|&(node, item)| is_old(node, item));
        let mut dirs: Vec<_> = old.map(|(node, item)| (item.used, Reverse(node))).collect();
        // A subdirectory has a larger number, and was not used later.
        dirs.sort_unstable();
        for (_, Reverse(dir)) in dirs {
            if self.items.len() <= enough {
                return;
            }
            if !self.is_held(dir) {
                self.evict_dir(dir, forget);
            }
        }
    }

    /// Tells whether the kernel holds a reference to a directory or one of its names, or whether a subdirectory has
    /// known contents.
    fn is_held(&self, dir: Node) -> bool {
        let is_held = |path: &Node| {
            let has_names = self.items.get(path).is_some_and(|item| !item.children.is_empty());
            has_names || self.kernel.knows(self.links.shown(*path))
        };
        let names = self.items.get(&dir).into_iter().flat_map(|item| &item.order);
        self.kernel.knows(dir) || names.into_iter().any(is_held)
    }

    /// Evicts the names of a directory.
    fn evict_dir(&mut self, dir: Node, forget: &mut BTreeSet<Invalidation>) {
        let (oldest, batches) = (self.gone.oldest(), self.batches);
        let Some(item) = self.items.get_mut(&dir) else { return };
        item.children = HashMap::new();
        item.listed = false;
        item.seen = false;
        if oldest.is_some_and(|oldest| item.used >= oldest) {
            item.lost = batches;
        }
        for path in std::mem::take(&mut item.order) {
            self.drop_all(path, forget);
        }
    }
}
