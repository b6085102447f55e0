//! Answers to the kernel's questions about numbers and names, and the agent's about paths.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Mirror;
use super::item::Item;
use super::model::{Answer, Invalidation, Name, Need, Node, ROOT};
use crate::packet::Manifest;
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Version, Xattr};

/// A directory of the root.
const SERVICES: &[u8] = b"run";
/// Absent names of `/` that the kernel may remember: far more than programs look for.
pub(super) const ABSENT_MAX: usize = 4096;

impl Mirror {
    /// Looks a name up; by the name `.` what a number stands for, which may be no directory.
    pub fn lookup(&mut self, dir: Node, name: &[u8]) -> Answer<(Node, Attr)> {
        if name == b"." {
            return self.attr(dir).map(|attr| (dir, attr));
        }
        self.use_dir(dir);
        let Some(item) = self.items.get_mut(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if item.hidden {
            return Answer::Hidden;
        }
        let Some(&place) = item.children.get(name) else {
            if dir == ROOT && item.absent.insert(name.to_vec()) && item.absent.len() > ABSENT_MAX {
                // Any but this one, which the kernel is told of only now.
                let other = item.absent.iter().find(|known| *known != name).cloned();
                if let Some(other) = other.filter(|other| item.absent.remove(other)) {
                    self.excess.insert(Invalidation::Entry(ROOT, other));
                }
            }
            return Answer::Absent;
        };
        // The number of a name that is gone may be that of a file which it named once.
        if self.items.get(&place).is_none_or(|item| item.attr.is_none()) {
            return Answer::Absent;
        }
        let node = self.links.shown(place);
        self.attr(node).map(|attr| (node, attr))
    }

    /// Tells whether a directory is that in which an origin's services have their files, which is empty here.
    #[must_use]
    pub fn is_of_services(&self, dir: Node) -> bool {
        self.items.get(&dir).is_some_and(|item| item.parent == ROOT && item.name == SERVICES)
    }

    /// Takes what the kernel has to forget because it would be too much to remember.
    pub fn take_excess(&mut self) -> BTreeSet<Invalidation> {
        std::mem::take(&mut self.excess)
    }

    /// Returns the attributes of a path. Those of a directory are known only while its listing is:
    /// what happens in a directory changes its times, and only its own readers hear of it.
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

    /// Returns the attributes of what a path names; no symbolic link is followed.
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
            if dir.hidden {
                return Answer::Hidden;
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

    /// Returns the inode number that is shown of what has a number and these attributes. Of directories
    /// an overlay shows its own.
    #[must_use]
    pub fn ino(&self, node: Node, attr: &Attr) -> u64 {
        if attr.kind == Kind::Dir { node } else { self.links.ino(attr) }
    }

    /// Returns where a symbolic link points.
    #[must_use]
    pub fn target(&self, node: Node) -> Option<Bytes> {
        self.items.get(&self.one_path(node))?.target.clone()
    }

    /// Returns the extended attributes of a path. Nobody asks before it was looked up.
    #[must_use]
    pub fn xattrs(&self, node: Node) -> &[Xattr] {
        self.items.get(&self.one_path(node)).map_or(&[], |item| &item.xattrs)
    }

    /// Lists names of a directory, up to `limit` of those whose places are behind `after`.
    pub fn list(&mut self, dir: Node, after: Node, limit: usize) -> Answer<Vec<Name>> {
        self.use_dir(dir);
        let Some(item) = self.items.get(&dir) else { return Answer::Absent };
        if !item.listed {
            return Answer::Unknown(Need::Listing(self.path(dir)));
        }
        if item.hidden {
            return Answer::Hidden;
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

    /// Returns the packets of a file.
    #[must_use]
    pub fn manifest(&self, node: Node) -> Answer<Arc<Manifest>> {
        match self.items.get(&self.one_path(node)).map(AsRef::as_ref) {
            Some(Item { attr: None, .. }) | None => Answer::Absent,
            Some(Item { manifest: Some(manifest), .. }) => Answer::Known(Arc::clone(manifest)),
            Some(_) => Answer::Unknown(Need::Content(self.path(node))),
        }
    }

    /// Returns the version of a file, as far as it is known.
    #[must_use]
    pub fn version(&self, node: Node) -> Option<Version> {
        self.items.get(&self.one_path(node))?.attr.map(|attr| attr.version())
    }
}
