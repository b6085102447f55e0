//! Keeps a mirror small: drops what it knows of directories that are not in use.
//!
//! A directory is dropped with all its names, for what is known of a directory is known whole. It is fetched
//! again when somebody asks. Nothing is dropped while the kernel knows the number of the directory or of one
//! of its names: its caches never expire, and changes below a directory that is not known are ignored. What a
//! running walk may have seen stays as well, so that its changes can be held against what it found, up to
//! twice the bound; beyond that it counts as changed.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};

use super::Mirror;
use super::item::Item;
use super::model::{Invalidation, Node, ROOT};

/// One part in this many is dropped at once, so that the search for it costs little for each name.
pub(super) const PART: usize = 8;
/// Beyond this many times the bound, what running walks may have seen is dropped, too: a walk may run for
/// days, and others look at other files all the while.
pub(super) const SEEN_FACTOR: usize = 2;

impl Mirror {
    /// Notes that the kernel is told a number, and knows it until it has forgotten it.
    pub fn tell(&mut self, node: Node) {
        self.kernel.tell(node);
    }

    /// Notes that the kernel has forgotten a number that it was told `count` times.
    pub fn kernel_forgot(&mut self, node: Node, count: u64) {
        self.kernel.forget(node, count);
        // It may have answered a walk until now.
        if !self.gone.is_idle() {
            self.use_node(node);
        }
    }

    /// Notes that a directory is in use, and with it those above.
    pub(super) fn use_dir(&mut self, dir: Node) {
        let (mut at, now) = (dir, self.batches);
        while let Some(item) = self.items.get_mut(&at)
            && item.used < now
        {
            item.used = now;
            at = item.parent;
        }
    }

    /// Notes that the directories of a number's paths are in use.
    fn use_node(&mut self, node: Node) {
        let paths =
            self.links.sharing(node).map_or_else(|| vec![node], |it| it.iter().copied().collect());
        for path in paths {
            self.use_dir(path);
            let dir = self.items.get(&path).map(|item| item.parent);
            dir.into_iter().for_each(|dir| self.use_dir(dir));
        }
    }

    /// Drops what is not in use, if there is too much.
    pub(super) fn evict(&mut self, forget: &mut BTreeSet<Invalidation>) {
        if self.items.len() <= self.evict_beyond {
            return;
        }
        let enough = self.names_max - self.names_max / PART;
        let unseen = self.gone.oldest().unwrap_or(self.batches);
        self.evict_unused(enough, unseen, forget);
        if self.items.len() > self.names_max * SEEN_FACTOR {
            let now = self.batches;
            // Those who begin from here on find what is fetched again.
            self.batches += 1;
            self.evict_unused(self.names_max * SEEN_FACTOR, now, forget);
        }
        self.evict_beyond = self.names_max.max(self.items.len() + self.names_max / PART);
        self.asked = false;
    }

    /// Has the kernel forget all names that nothing holds, if there is too much and no walk runs; once after
    /// each eviction. On a machine with memory to spare the kernel forgets nothing by itself. It asks again
    /// for what is in use, so that the next eviction finds what is not.
    pub(super) fn ask_kernel(&mut self, forget: &mut BTreeSet<Invalidation>) {
        if self.asked || !self.gone.is_idle() || self.items.len() <= self.names_max {
            return;
        }
        self.asked = true;
        let names = self.items.get(&ROOT).into_iter().flat_map(|root| root.children.keys());
        forget.extend(names.map(|name| Invalidation::Entry(ROOT, name.clone())));
        self.evict_beyond = self.items.len() + self.names_max / PART;
    }

    /// Drops directories that were last used before a batch, the longest unused first, until `enough` names
    /// are left.
    fn evict_unused(&mut self, enough: usize, before: u64, forget: &mut BTreeSet<Invalidation>) {
        let is_old =
            |node, item: &Item| node != ROOT && !item.children.is_empty() && item.used < before;
        let all = self.items.iter().map(|(&node, item)| (node, item));
        let old = all.filter(|&(node, item)| is_old(node, item));
        let mut dirs: Vec<_> = old.map(|(node, item)| (item.used, Reverse(node))).collect();
        // What is below a directory has a larger number, and was not used later.
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

    /// Tells whether the kernel knows a directory or one of its names, or whether something is known of
    /// a directory in it.
    fn is_held(&self, dir: Node) -> bool {
        let is_held = |path: &Node| {
            let has_names = self.items.get(path).is_some_and(|item| !item.children.is_empty());
            has_names || self.kernel.knows(self.links.shown(*path))
        };
        let names = self.items.get(&dir).into_iter().flat_map(|item| &item.order);
        self.kernel.knows(dir) || names.into_iter().any(is_held)
    }

    /// Drops the names of a directory.
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
