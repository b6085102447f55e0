//! Which paths of a mirror are names of one file, and therefore show one number: that of the path which
//! was known first. A file keeps its number when another of its names is found, and also when the path
//! of that number comes to name another file: that one shows a fresh number. A directory shows its
//! path's own, and its path gets another one if that is taken.

use std::collections::{BTreeSet, HashMap};

use super::model::Node;
use crate::tree::{Attr, Kind};

/// A file at its origin: file system and inode number.
type Inode = (u64, u64);

/// From here on inode numbers are shown that no file system gives.
const RESERVED: u64 = 1 << 63;

/// The files of a mirror, and what their paths show. A path is given by its number.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Each known file: its number.
    files: HashMap<Inode, Node>,
    /// The paths behind numbers that are, or were, those of several. None of these sets is empty.
    paths: HashMap<Node, BTreeSet<Node>>,
    /// The number that a path behind one of those shows.
    shown: HashMap<Node, Node>,
    /// The file systems that the files are on.
    devices: BTreeSet<u64>,
    /// Files whose inode number was that of a file on another file system when they became known, with
    /// the one that they show instead.
    twins: HashMap<Inode, u64>,
    twins_ever: u64,
}

impl Links {
    /// Returns the number that a path shows.
    pub(super) fn shown(&self, path: Node) -> Node {
        self.shown.get(&path).copied().unwrap_or(path)
    }

    /// Returns the inode number that programs see: that of the origin, which they may keep and compare
    /// there. A mount has one device number for all files, so no two have the same.
    pub(super) fn ino(&self, attr: &Attr) -> u64 {
        self.twins.get(&(attr.dev, attr.ino)).copied().unwrap_or(attr.ino)
    }

    /// Takes in a file and its number.
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

    /// Returns the paths that share a number; nothing if it is a path's own.
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

    /// Returns the other names of the file that a path names.
    pub(super) fn others(&self, path: Node) -> Vec<Node> {
        let all = self.shown.get(&path).and_then(|number| self.paths.get(number));
        all.into_iter().flatten().copied().filter(|&other| other != path).collect()
    }

    /// Notes what a path names now, instead of what it named before; nothing if there is no such
    /// file. A fresh number is taken from `next`. Returns the paths that show another number now.
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
            // The other path may have been told of before there were two.
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

    /// Makes a path show a shared number; returns the path if it did not.
    fn share(&mut self, path: Node, number: Node) -> Option<Node> {
        let before = self.shown(path);
        self.paths.entry(number).or_default().insert(path);
        self.shown.insert(path, number);
        (before != number).then_some(path)
    }

    /// Takes a path away from the file that it named. Returns the paths that show another number now.
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

    /// Forgets a file, unless another path or number has taken it over.
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

/// Directories have one name each.
fn inode_of(attr: &Attr) -> Option<Inode> {
    (attr.kind != Kind::Dir).then_some((attr.dev, attr.ino))
}
