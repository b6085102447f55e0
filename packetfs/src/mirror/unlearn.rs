//! Invalidates outdated data, and drops removed names.

use std::collections::BTreeSet;

use super::Mirror;
use super::gone::Went;
use super::item::Item;
use super::model::{Invalidation, Node, ROOT};
use crate::tree::Kind;

impl Mirror {
    /// Invalidates a file's content after a reported change, even if size and times are equal: two writes may
    /// fall into one clock tick.
    pub(super) fn unread(&mut self, dir: Node, name: &[u8], forget: &mut BTreeSet<Invalidation>) {
        let node = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        let Some(node) = node else { return };
        for name in self.links.others(node).into_iter().chain([node]) {
            self.unread_path(name, forget);
        }
    }

    /// Invalidates the content of the file at a path.
    pub(super) fn unread_path(&mut self, path: Node, forget: &mut BTreeSet<Invalidation>) {
        let Some(item) = self.items.get_mut(&path) else { return };
        if item.attr.is_some_and(|attr| attr.kind == Kind::File) {
            item.manifest = None;
            item.changed = self.batches;
            forget.insert(Invalidation::Node(self.links.shown(path)));
        }
    }

    /// Invalidates a node and everything below it.
    pub(super) fn forget(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) {
        // Iterative, because the origin controls the depth of its tree.
        let mut rest = vec![node];
        while let Some(node) = rest.pop() {
            if self.forget_one(node, forget) {
                let children =
                    self.items.get(&node).into_iter().flat_map(|it| it.children.values());
                rest.extend(children.copied());
            }
        }
    }

    /// Invalidates the contents of a node. Returns whether anything below it may be known.
    pub(super) fn forget_one(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) -> bool {
        let Some(item) = self.items.get_mut(&node) else { return false };
        item.manifest = None;
        let was_listed = std::mem::take(&mut item.listed);
        let absent = std::mem::take(&mut item.absent);
        forget.insert(Invalidation::Node(self.links.shown(node)));
        if node == ROOT {
            forget.extend(absent.into_iter().map(|name| Invalidation::Entry(ROOT, name)));
        } else {
            // Invalidating its entry makes the kernel drop all names below it.
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
        }
        if was_listed {
            item.forgotten = self.batches;
        }
        was_listed
    }

    /// Drops removed names that no walk may ask for. Their numbers are not reused; a name that comes back gets
    /// another one.
    pub(super) fn sweep(&mut self, forget: &mut BTreeSet<Invalidation>) {
        while let Some(Went { batch, path: node, was_seen }) = self.gone.next() {
            // It may have been created and removed again.
            let is_gone = |item: &&Item| item.attr.is_none() && item.changed == batch;
            let Some(item) = self.items.get(&node).map(AsRef::as_ref).filter(is_gone) else {
                continue;
            };
            let (parent, name) = (item.parent, item.name.clone());
            if let Some(dir) = self.items.get_mut(&parent) {
                dir.drop_name(&name, node);
                if was_seen {
                    dir.dropped = dir.dropped.max(batch);
                }
            }
            self.drop_all(node, forget);
        }
    }

    /// Drops a path that no longer exists, with everything below it.
    pub(super) fn drop_all(&mut self, node: Node, forget: &mut BTreeSet<Invalidation>) {
        let mut rest = vec![node];
        while let Some(node) = rest.pop() {
            self.relink(node, None, forget);
            rest.extend(self.items.remove(&node).into_iter().flat_map(|item| item.order));
        }
    }
}
