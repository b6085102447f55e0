//! Which paths of a mirror are names of one file. Files with several names have a number of their
//! own, which all their paths show; every other path shows its own number.

use std::collections::{BTreeSet, HashMap};

use super::Node;
use crate::tree::{Attr, Kind};

/// A file at its origin: file system and inode number.
type Inode = (u64, u64);

/// The files of a mirror, and what their paths show. A path is given by its number.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Each known file: the path that names it, or the number that its paths share.
    files: HashMap<Inode, Node>,
    /// The paths behind shared numbers. None of these sets is empty.
    paths: HashMap<Node, BTreeSet<Node>>,
    /// The shared number that a path shows, if it shows one.
    shown: HashMap<Node, Node>,
}

impl Links {
    /// Returns the number that a path shows.
    pub(super) fn shown(&self, path: Node) -> Node {
        self.shown.get(&path).copied().unwrap_or(path)
    }

    /// Returns the paths that share a number; nothing if it is a path's own.
    pub(super) fn sharing(&self, number: Node) -> Option<&BTreeSet<Node>> {
        self.paths.get(&number)
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
        let mut moved = BTreeSet::new();
        let (old, inode) = (old.and_then(inode_of), new.and_then(inode_of));
        if let Some(old) = old.filter(|old| Some(*old) != inode)
            && self.leave(path, old)
        {
            moved.insert(path);
        }
        let (Some(inode), Some(attr)) = (inode, new) else { return moved };
        let known = self.files.get(&inode).copied();
        match known {
            Some(number) if self.paths.contains_key(&number) => {
                moved.extend(self.share(path, number));
            }
            _ if attr.links > 1 => {
                let number = *next;
                *next += 1;
                self.files.insert(inode, number);
                let all = known.into_iter().chain([path]);
                moved.extend(all.filter_map(|path| self.share(path, number)));
            }
            _ => {
                self.files.insert(inode, path);
            }
        }
        moved
    }

    /// Makes a path show a shared number; returns the path if it did not.
    fn share(&mut self, path: Node, number: Node) -> Option<Node> {
        self.paths.entry(number).or_default().insert(path);
        (self.shown.insert(path, number) != Some(number)).then_some(path)
    }

    /// Takes a path away from the file that it named; tells whether that had a shared number.
    fn leave(&mut self, path: Node, inode: Inode) -> bool {
        let Some(number) = self.shown.remove(&path) else {
            self.unfile(inode, path);
            return false;
        };
        if let Some(paths) = self.paths.get_mut(&number) {
            paths.remove(&path);
            if paths.is_empty() {
                self.paths.remove(&number);
                self.unfile(inode, number);
            }
        }
        true
    }

    /// Forgets a file, unless another path or number has taken it over.
    fn unfile(&mut self, inode: Inode, number: Node) {
        if self.files.get(&inode) == Some(&number) {
            self.files.remove(&inode);
        }
    }
}

/// Directories have one name each.
fn inode_of(attr: &Attr) -> Option<Inode> {
    (attr.kind != Kind::Dir).then_some((attr.dev, attr.ino))
}
