//! Hard links: which paths of a mirror name the same file and so show the same number, that of the path which
//! was known first. A file keeps its number when another hard link is found, and when the path that the
//! number was made for comes to name another file, which then shows a fresh number. A directory shows its
//! path's own number; if that is taken, the path gets another one.

use std::collections::{BTreeSet, HashMap};

use super::model::Node;
use crate::tree::{Attr, Kind};

/// A file at its origin: file system and inode number.
type Inode = (u64, u64);

/// Lowest of the inode numbers that no file system uses.
const RESERVED: u64 = 1 << 63;

/// The files of a mirror, and the numbers that their paths show. A path is identified by its own number.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// The number of each known file.
    files: HashMap<Inode, Node>,
    /// The paths of each number that is, or was, shared by several. No set is empty.
    paths: HashMap<Node, BTreeSet<Node>>,
    /// The number that each of these paths shows.
    shown: HashMap<Node, Node>,
    /// The file systems that the files are on.
    devices: BTreeSet<u64>,
    /// Files whose inode number was already in use by a file on another file system, with the number that
    /// they show instead.
    twins: HashMap<Inode, u64>,
    twins_ever: u64,
}

impl Links {
    /// Returns the number that a path shows.
    pub(super) fn shown(&self, path: Node) -> Node {
        self.shown.get(&path).copied().unwrap_or(path)
    }

    /// Returns the inode number that programs see. It is the origin's, so that programs may store it and compare it
    /// there, but unique, because the mount has one device number for all files.
    pub(super) fn ino(&self, attr: &Attr) -> u64 {
        self.twins.get(&(attr.dev, attr.ino)).copied().unwrap_or(attr.ino)
    }

    /// Adds a file with its number.
    fn file(&mut self, inode: Inode, number: Node) {
        if self.files.insert(inode, number).is_some() {
            return;
        }
        let (dev, ino) = inode;
        self.devices.insert(dev);
        let mut others = self.devices.iter().filter(|&&other| other != dev);
        if others.any(|&other| self.files.contains_key(&(other, ino))) {
            self.twins.insert(inode, RESERVED + self.twins_ever);
            self.twins_ever += 1;
        }
    }

    /// Returns the paths that share a number, or `None` if it belongs to one path.
    pub(super) fn sharing(&self, number: Node) -> Option<&BTreeSet<Node>> {
        self.paths.get(&number)
    }

    /// Returns the known paths of the file with these attributes.
    pub(super) fn names_of(&self, attr: &Attr) -> Vec<Node> {
        let number = inode_of(attr).and_then(|inode| self.files.get(&inode).copied());
        let names = number.map(|number| match self.paths.get(&number) {
            Some(paths) => paths.iter().copied().collect(),
            None => vec![number],
        });
        names.unwrap_or_default()
    }

    /// Returns the other hard links of the file that a path names.
    pub(super) fn others(&self, path: Node) -> Vec<Node> {
        let all = self.shown.get(&path).and_then(|number| self.paths.get(number));
        all.into_iter().flatten().copied().filter(|&other| other != path).collect()
    }

    /// Records the file that a path now names, `None` if none. A fresh number is taken from `next`. Returns the
    /// paths whose shown number has changed.
    pub(super) fn set(
        &mut self,
        path: Node,
        old: Option<&Attr>,
        new: Option<&Attr>,
        next: &mut Node,
    ) -> BTreeSet<Node> {
        let (old, inode) = (old.and_then(inode_of), new.and_then(inode_of));
        let left = old.filter(|old| Some(*old) != inode);
        let mut moved = left.map(|old| self.leave(path, old)).unwrap_or_default();
        let (Some(attr), Some(inode)) = (new, inode) else { return moved };
        match self.files.get(&inode).copied() {
            Some(number) if self.paths.contains_key(&number) => {
                moved.extend(self.share(path, number));
            }
            // The kernel may have got the other path's number before there were two.
            Some(first) if first != path && attr.links > 1 => {
                moved.extend([first, path].into_iter().filter_map(|path| self.share(path, first)));
            }
            _ if self.paths.contains_key(&path) => {
                let fresh = take(next);
                self.file(inode, fresh);
                moved.extend(self.share(path, fresh));
            }
            _ => {
                self.file(inode, path);
            }
        }
        moved
    }

    /// Makes a path show a shared number. Returns the path if that is a change.
    fn share(&mut self, path: Node, number: Node) -> Option<Node> {
        let before = self.shown(path);
        self.paths.entry(number).or_default().insert(path);
        self.shown.insert(path, number);
        (before != number).then_some(path)
    }

    /// Removes a path from the file that it named. Returns the paths whose shown number has changed.
    fn leave(&mut self, path: Node, inode: Inode) -> BTreeSet<Node> {
        let Some(number) = self.shown.remove(&path) else {
            self.unfile(inode, path);
            return BTreeSet::new();
        };
        let mut rest = self.paths.remove(&number).unwrap_or_default();
        rest.remove(&path);
        if rest.is_empty() {
            self.unfile(inode, number);
        } else {
            self.paths.insert(number, rest);
        }
        BTreeSet::from([path])
    }

    /// Removes a file, unless another path or number has taken it over.
    fn unfile(&mut self, inode: Inode, number: Node) {
        if self.files.get(&inode) == Some(&number) {
            self.files.remove(&inode);
            self.twins.remove(&inode);
        }
    }
}

/// Takes a fresh number.
fn take(next: &mut Node) -> Node {
    let fresh = *next;
    *next += 1;
    fresh
}

/// Returns a file's identity, or `None` for directories, which have no hard links.
fn inode_of(attr: &Attr) -> Option<Inode> {
    (attr.kind != Kind::Dir).then_some((attr.dev, attr.ino))
}
