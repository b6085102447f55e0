//! Answers the kernel's questions about nodes and names, and the agent's about paths.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Mirror;
use super::item::Item;
use super::model::{Answer, Invalidation, Name, Need, Node, ROOT};
use crate::packet::Manifest;
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Names, Version, Xattr};

/// A directory of the root.
const SERVICES: &[u8] = b"run";
/// Most absent names of `/` that the kernel may cache: far more than programs look up.
pub(super) const ABSENT_MAX: usize = 4096;

impl Mirror {
    /// Looks a name up. The name `.` means the node itself, which need not be a directory.
    pub fn lookup(&mut self, dir: Node, name: &[u8]) -> Answer<(Node, Attr)> {
        if name == b"." {
            return self.attr(dir).map(|attr| (dir, attr));
        }
        self.use_dir(dir);
        let Some(item) = self.items.get_mut(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if let Some(refused) = refused(item.names) {
            return refused;
        }
        let Some(&place) = item.children.get(name) else {
            if dir == ROOT && item.absent.insert(name.to_vec()) && item.absent.len() > ABSENT_MAX {
                // All but this one, which the kernel learns only now.
                let other = item.absent.iter().find(|known| *known != name).cloned();
                if let Some(other) = other.filter(|other| item.absent.remove(other)) {
                    self.excess.insert(Invalidation::Entry(ROOT, other));
                }
            }
            return Answer::Absent;
        };
        // A removed name may still show the number of a file that it once named.
        if self.items.get(&place).is_none_or(|item| item.attr.is_none()) {
            return Answer::Absent;
        }
        let node = self.links.shown(place);
        self.attr(node).map(|attr| (node, attr))
    }

    /// Tells whether a directory is `/run`, in which services have their files, and which is empty here.
    #[must_use]
    pub fn is_of_services(&self, dir: Node) -> bool {
        self.items.get(&dir).is_some_and(|item| item.parent == ROOT && item.name == SERVICES)
    }

    /// Takes the names that the kernel should drop because it caches too many.
    pub fn take_excess(&mut self) -> BTreeSet<Invalidation> {
        std::mem::take(&mut self.excess)
    }

    /// Returns a node's attributes. Those of a directory are known only together with its listing, because
    /// changes of entries alter its times, and the origin reports them only to readers of the directory.
    #[must_use]
    pub fn attr(&self, node: Node) -> Answer<Attr> {
        match self.items.get(&self.one_path(node)).map(AsRef::as_ref) {
            Some(Item { attr: Some(attr), listed, .. }) => {
                if attr.kind == Kind::Dir && !listed {
                    Answer::Unknown(Need::Listing(self.path(node)))
                } else {
                    Answer::Known(*attr)
                }
            }
            _ => Answer::Absent,
        }
    }

    /// Returns the attributes at a path, without following symbolic links.
    pub fn attr_at(&mut self, path: &[u8]) -> Answer<Attr> {
        let mut node = ROOT;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Some(dir) = self.items.get(&node) else { return Answer::Absent };
            if dir.attr.is_none_or(|attr| attr.kind != Kind::Dir) {
                return Answer::Absent;
            }
            if !dir.listed {
                return Answer::Unknown(Need::Listing(self.path_at(node)));
            }
            if let Some(refused) = refused(dir.names) {
                return refused;
            }
            let Some(&place) = dir.children.get(name) else { return Answer::Absent };
            self.use_dir(node);
            node = place;
        }
        match self.items.get(&node).and_then(|item| item.attr) {
            Some(_) => self.attr(self.links.shown(node)),
            None => Answer::Absent,
        }
    }

    /// Returns the inode number that programs see for a node with these attributes. For directories overlayfs
    /// shows its own.
    #[must_use]
    pub fn ino(&self, node: Node, attr: &Attr) -> u64 {
        if attr.kind == Kind::Dir { node } else { self.links.ino(attr) }
    }

    /// Returns where a symbolic link points.
    #[must_use]
    pub fn target(&self, node: Node) -> Option<Bytes> {
        self.items.get(&self.one_path(node))?.target.clone()
    }

    /// Returns a node's extended attributes, which are known since its look-up.
    #[must_use]
    pub fn xattrs(&self, node: Node) -> &[Xattr] {
        self.items.get(&self.one_path(node)).map_or(&[], |item| &item.xattrs)
    }

    /// Lists up to `limit` names of a directory whose places are after `after`.
    pub fn list(&mut self, dir: Node, after: Node, limit: usize) -> Answer<Vec<Name>> {
        self.use_dir(dir);
        let Some(item) = self.items.get(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if let Some(refused) = refused(item.names) {
            return refused;
        }
        let start = item.order.partition_point(|&node| node <= after);
        let names = item.order[start..].iter().filter_map(|&place| {
            let item = self.items.get(&place)?;
            let attr = item.attr?;
            let ino = self.ino(self.links.shown(place), &attr);
            Some(Name { name: item.name.clone(), ino, place, attr })
        });
        Answer::Known(names.take(limit).collect())
    }

    /// Returns a file's manifest.
    #[must_use]
    pub fn manifest(&self, node: Node) -> Answer<Arc<Manifest>> {
        match self.items.get(&self.one_path(node)).map(AsRef::as_ref) {
            Some(Item { attr: None, .. }) | None => Answer::Absent,
            Some(Item { manifest: Some(manifest), .. }) => Answer::Known(Arc::clone(manifest)),
            Some(_) => Answer::Unknown(Need::Content(self.path(node))),
        }
    }

    /// Returns the version of a file, if known.
    #[must_use]
    pub fn version(&self, node: Node) -> Option<Version> {
        self.items.get(&self.one_path(node))?.attr.map(|attr| attr.version())
    }
}

/// Returns the answer to whoever asks for a name in a directory of which no names are told.
fn refused<T>(names: Names) -> Option<Answer<T>> {
    match names {
        Names::Told => None,
        Names::Hidden => Some(Answer::Hidden),
        Names::Closed => Some(Answer::Closed),
    }
}
