//! Applies what the origin sends: listings, content, changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Mirror;
use super::item::Item;
use super::model::{Invalidation, Node};
use crate::path::{Bytes, TreePath};
use crate::tree::{Attr, Change, Content, Entry, Kind, Listing, Xattr};
use crate::xattr;

impl Mirror {
    /// Applies a directory's listing.
    pub fn take_listing(&mut self, path: &TreePath, listing: Listing) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(dir) = self.place(path) else { return forget };
        // A changed entry is not what a running walk has seen. A walk that began after the listing was
        // invalidated has requested this one.
        let now = self.batches + 1;
        let forgotten = self.items.get(&dir).filter(|item| item.seen && !item.listed);
        self.batches = forgotten.map_or(now, |item| item.forgotten);
        let gone: Vec<Bytes> = {
            let named: BTreeSet<&[u8]> = listing.entries.iter().map(|entry| &*entry.name).collect();
            let children = self.items.get(&dir).into_iter().flat_map(|item| item.children.keys());
            children.filter(|name| !named.contains(name.as_slice())).cloned().collect()
        };
        for name in gone {
            self.set_name(dir, &name, None, &mut forget);
        }
        for entry in listing.entries {
            let name = entry.name.clone();
            self.set_name(dir, &name, Some(entry), &mut forget);
        }
        let changed = std::mem::replace(&mut self.batches, now);
        // The kernel caches no names of a directory that was never listed, or was invalidated.
        if self.items.get(&dir).is_some_and(|item| !item.listed) {
            forget.retain(|it| !matches!(it, Invalidation::Entry(parent, _) if *parent == dir));
        }
        if let Some(item) = self.items.get_mut(&dir) {
            item.note_change(&listing.attr, changed);
            item.set_attr(dir, listing.attr, &mut forget);
            item.listed = true;
            item.seen = true;
            item.names = listing.names;
        }
        self.use_dir(dir);
        self.sweep(&mut forget);
        self.evict(&mut forget);
        forget
    }

    /// Applies a file's manifest.
    pub fn take_content(&mut self, path: &TreePath, content: Content) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        let Some(node) = self.place(path) else { return forget };
        // The name may be another file's by now, before the change has arrived.
        self.relink(node, Some(&content.attr), &mut forget);
        let (shown, manifest) = (self.links.shown(node), Arc::new(content.manifest));
        // If the change has not arrived yet, this is not the file that a running walk has seen.
        let known = self.items.get(&node).and_then(|item| item.attr);
        let changed = known.is_none_or(|known| known.version() != content.attr.version());
        self.batches += u64::from(changed);
        for name in self.links.others(node).into_iter().chain([node]) {
            let Some(item) = self.items.get_mut(&name) else { continue };
            item.set_attr(shown, content.attr, &mut forget);
            item.manifest = Some(Arc::clone(&manifest));
            if changed {
                item.changed = self.batches;
            }
        }
        forget
    }

    /// Applies changes of the origin's tree.
    pub fn apply(&mut self, changes: Vec<Change>) -> BTreeSet<Invalidation> {
        let mut forget = BTreeSet::new();
        self.batches += 1;
        for change in changes {
            match change {
                Change::Names { dir, attr, names } => {
                    let node = self.place(&dir);
                    let is_listed = |node: &Node| self.items.get(node).is_some_and(|it| it.listed);
                    let Some(node) = node.filter(is_listed) else {
                        for entry in names.iter().filter_map(|(_, entry)| entry.as_ref()) {
                            self.take_file(entry, &mut forget);
                        }
                        continue;
                    };
                    for (name, entry) in names {
                        self.set_name(node, &name, entry, &mut forget);
                        self.unread(node, &name, &mut forget);
                    }
                    match attr {
                        Some(attr) => {
                            let item = self.items.get_mut(&node).expect("the node was just found");
                            item.note_change(&attr, self.batches);
                            item.set_attr(node, attr, &mut forget);
                            forget.insert(Invalidation::Node(node));
                        }
                        None => self.forget(node, &mut forget),
                    }
                }
                Change::Forget { dir } => {
                    if let Some(node) = self.place(&dir) {
                        self.forget(node, &mut forget);
                    }
                }
            }
        }
        self.sweep(&mut forget);
        self.evict(&mut forget);
        forget
    }

    /// Applies a change of a file under an unknown name. It may have known names as well.
    fn take_file(&mut self, entry: &Entry, forget: &mut BTreeSet<Invalidation>) {
        if entry.attr.kind != Kind::File || entry.attr.links < 2 {
            return;
        }
        for path in self.links.names_of(&entry.attr) {
            self.learn(path, &entry.attr, &entry.xattrs, forget);
            self.unread_path(path, forget);
        }
    }

    /// Sets the entry of a name, keeping its number.
    fn set_name(
        &mut self,
        dir: Node,
        name: &[u8],
        entry: Option<Entry>,
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let known = self.items.get(&dir).and_then(|item| item.children.get(name).copied());
        let Some(entry) = entry else {
            if let Some(node) = known {
                self.forget(node, forget);
                self.relink(node, None, forget);
                if let Some(item) = self.items.get_mut(&node)
                    && item.attr.take().is_some()
                {
                    item.target = None;
                    item.xattrs = Vec::new();
                    item.changed = self.batches;
                    self.gone.note(self.batches, node);
                }
            }
            forget.insert(Invalidation::Entry(dir, name.to_vec()));
            return;
        };
        let node = match known {
            Some(node) if self.must_renumber(node, &entry.attr) => {
                self.renumber(dir, name, node, forget)
            }
            Some(node) => node,
            None => self.add(dir, name),
        };
        let old = self.items.get(&node).and_then(|item| item.attr);
        match old {
            None => {
                forget.insert(Invalidation::Entry(dir, name.to_vec()));
            }
            Some(old) if old.kind != entry.attr.kind => {
                self.forget(node, forget);
                forget.insert(Invalidation::Entry(dir, name.to_vec()));
            }
            Some(old)
                if old.kind == Kind::Dir
                    && (old.ino, old.dev) != (entry.attr.ino, entry.attr.dev) =>
            {
                self.forget(node, forget);
            }
            Some(_) => {}
        }
        self.relink(node, Some(&entry.attr), forget);
        for name in self.links.others(node).into_iter().chain([node]) {
            self.learn(name, &entry.attr, &entry.xattrs, forget);
        }
        self.marks.xattrs |= !entry.xattrs.is_empty();
        self.marks.acls |= xattr::has_acl(&entry.xattrs);
        // In a directory that was listed before, the name is known to have been absent.
        let appears = old.is_none() && self.items.get(&dir).is_some_and(|dir| dir.seen);
        let item = self.items.get_mut(&node).expect("the node is known or was just added");
        item.target = entry.target;
        if appears {
            item.changed = self.batches;
        }
    }

    /// Records which file a path names. Paths whose number changes thereby, and the file that it named before, are
    /// invalidated.
    pub(super) fn relink(
        &mut self,
        node: Node,
        new: Option<&Attr>,
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let before = self.links.shown(node);
        let old = self.items.get(&node).and_then(|item| item.attr);
        for path in self.links.set(node, old.as_ref(), new, &mut self.next) {
            let Some(item) = self.items.get(&path) else { continue };
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
            forget.extend([before, path, self.links.shown(path)].map(Invalidation::Node));
        }
    }

    /// Sets the attributes of a path, and drops its manifest if the content has changed.
    fn learn(
        &mut self,
        node: Node,
        attr: &Attr,
        xattrs: &[Xattr],
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let (shown, batches) = (self.links.shown(node), self.batches);
        let Some(item) = self.items.get_mut(&node) else { return };
        if item.attr.is_none_or(|old| old.version() != attr.version()) {
            item.manifest = None;
        }
        item.note_change(attr, batches);
        if item.xattrs != xattrs {
            // The kernel caches access control lists with the attributes.
            item.xattrs = xattrs.to_vec();
            forget.insert(Invalidation::Node(shown));
            forget.insert(Invalidation::Entry(item.parent, item.name.clone()));
        }
        item.set_attr(shown, *attr, forget);
    }

    /// Tells whether a path becomes a directory while its number is shown by other names of a file that it
    /// named: a directory shows its path's own number.
    fn must_renumber(&self, node: Node, new: &Attr) -> bool {
        new.kind == Kind::Dir && self.links.sharing(node).is_some()
    }

    /// Gives a path another number. The other names keep theirs, because a running walk may use them: an
    /// overlay answers `ESTALE` for a name whose number has changed.
    fn renumber(
        &mut self,
        dir: Node,
        name: &[u8],
        node: Node,
        forget: &mut BTreeSet<Invalidation>,
    ) -> Node {
        forget.insert(Invalidation::Entry(dir, name.to_vec()));
        self.drop_all(node, forget);
        if let Some(dir) = self.items.get_mut(&dir) {
            dir.drop_name(name, node);
        }
        let node = self.add(dir, name);
        if let Some(item) = self.items.get_mut(&node) {
            // A running walk may have found the file.
            item.changed = self.batches;
        }
        node
    }

    fn add(&mut self, dir: Node, name: &[u8]) -> Node {
        let node = self.next;
        self.next += 1;
        let mut new = Item::new(dir, name.to_vec());
        if let Some(item) = self.items.get_mut(&dir) {
            // A running walk may have found something else here and below.
            (new.changed, new.lost) = (item.lost, item.lost);
            item.absent.remove(name);
            item.children.insert(name.to_vec(), node);
            item.order.push(node);
        }
        self.items.insert(node, Box::new(new));
        node
    }
}
