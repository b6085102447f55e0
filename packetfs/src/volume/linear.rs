//! Whether an event of another author follows on what the tables have, as if it were made here. Then it is applied as such.
//!
//! Its parents are exactly the events that the rows are from, its moment is after theirs, and nothing that it concerns is in
//! dispute. Everything else is left to the merged tree.

use worknode::history::{Dot, Event, FileId, Hlc};

use super::error::VolumeError;
use super::node::{Entry, Node, ROOT};
use super::tree::Tree;
use worknode::history::Op;

impl Tree {
    /// Tells whether an event has the same effect as one that is made here now.
    pub(super) fn is_linear(&self, event: &Event) -> Result<bool, VolumeError> {
        if !event.op.is_well_formed() {
            return Ok(false);
        }
        let (at, parents) = (event.hlc, event.parents.as_slice());
        match &event.op {
            Op::Make { dir, name, .. } => Ok(parents.is_empty() && self.is_free(*dir, name, at)?),
            Op::Link { dir, name, file } => Ok(parents.is_empty()
                && self.is_free(*dir, name, at)?
                && self.known(*file)?.is_some_and(|(_, node)| {
                    !node.is_dir() && node.links > 0 && is_after(&node, at)
                })),
            Op::Unlink { dir, name } => {
                if !self.names_at(*dir, at)? {
                    return Ok(false);
                }
                let Some((entry, node)) = self.bound(*dir, name, at)? else { return Ok(false) };
                Ok(may_go(&entry, &node, parents, at))
            }
            Op::Move { dir, name, to, new, exchange } => {
                if !self.names_at(*dir, at)? || !self.names_at(*to, at)? {
                    return Ok(false);
                }
                let (from, to) = ((*dir, name.as_slice()), (*to, new.as_slice()));
                if *exchange {
                    self.is_exchange(from, to, event)
                } else {
                    self.is_move(from, to, event)
                }
            }
            Op::Set { file, .. } => Ok(match self.known(*file)? {
                Some((_, node)) => is_after(&node, at) && is_last(node.set, node.id, parents),
                // Nobody sees a file without a name.
                None => true,
            }),
            Op::Xattr { file, name, .. } => {
                let Some((ino, node)) = self.known(*file)? else { return Ok(true) };
                let last = self.xattr_set(&node, ino, name)?;
                Ok(is_after(&node, at) && parents == last.as_slice())
            }
            Op::Write { file, .. } => Ok(self.known(*file)?.is_some_and(|(_, node)| {
                node.is_file()
                    && node.links > 0
                    && is_after(&node, at)
                    && is_last(node.written, node.id, parents)
            })),
            Op::Choose { .. } => Ok(false),
        }
    }

    fn is_move(
        &self,
        from: (FileId, &[u8]),
        to: (FileId, &[u8]),
        event: &Event,
    ) -> Result<bool, VolumeError> {
        let (at, Some((first, others))) = (event.hlc, event.parents.split_first()) else {
            return Ok(false);
        };
        let Some((entry, node)) = self.bound(from.0, from.1, at)? else { return Ok(false) };
        if *first != entry.bound || node.is_disputed {
            return Ok(false);
        }
        if node.is_dir() && (at <= self.state.moved || self.is_below(self.ino(to.0), entry.ino)?) {
            return Ok(false);
        }
        match self.entry(self.ino(to.0), to.1)? {
            None => Ok(others.is_empty()),
            Some(other) if other.ino == entry.ino => Ok(false),
            Some(_) => {
                let Some((other, replaced)) = self.bound(to.0, to.1, at)? else { return Ok(false) };
                Ok(replaced.is_dir() == node.is_dir() && may_go(&other, &replaced, others, at))
            }
        }
    }

    fn is_exchange(
        &self,
        one: (FileId, &[u8]),
        two: (FileId, &[u8]),
        event: &Event,
    ) -> Result<bool, VolumeError> {
        let first = self.bound(one.0, one.1, event.hlc)?;
        let second = self.bound(two.0, two.1, event.hlc)?;
        let Some(((first, left), (second, right))) = first.zip(second) else { return Ok(false) };
        let is_plain = |node: &Node| !node.is_dir() && !node.is_disputed;
        Ok(first.ino != second.ino
            && is_plain(&left)
            && is_plain(&right)
            && event.parents == [first.bound, second.bound])
    }

    /// Tells whether nothing has a name in a directory that is there.
    fn is_free(&self, dir: FileId, name: &[u8], at: Hlc) -> Result<bool, VolumeError> {
        Ok(self.names_at(dir, at)? && self.entry(self.ino(dir), name)?.is_none())
    }

    /// Tells whether names of a directory may change at a moment.
    fn names_at(&self, dir: FileId, at: Hlc) -> Result<bool, VolumeError> {
        Ok(self.known(dir)?.is_some_and(|(ino, node)| {
            let is_made = ino == ROOT || at > node.made_at;
            node.is_dir() && node.links > 0 && !node.is_disputed && is_made
        }))
    }

    /// Returns what has had a name since before a moment.
    fn bound(
        &self,
        dir: FileId,
        name: &[u8],
        at: Hlc,
    ) -> Result<Option<(Entry, Node)>, VolumeError> {
        let dir = self.ino(dir);
        let Some(entry) = self.entry(dir, name)?.filter(|entry| !entry.is_disputed) else {
            return Ok(None);
        };
        let node = self.find(entry.ino)?.filter(|_| entry.bound_at < at);
        Ok(node.map(|node| (entry, node)))
    }

    fn known(&self, id: FileId) -> Result<Option<(u64, Node)>, VolumeError> {
        let ino = self.ino(id);
        Ok(self.find(ino)?.map(|node| (ino, node)))
    }

    /// Tells whether a directory is another one or below it.
    fn is_below(&self, mut dir: u64, other: u64) -> Result<bool, VolumeError> {
        while dir != other {
            if dir == ROOT {
                return Ok(false);
            }
            let Some(node) = self.find(dir)? else { return Ok(true) };
            dir = node.parent;
        }
        Ok(true)
    }
}

/// Tells whether an event is later than all that concern a file, and nothing is in dispute.
fn is_after(node: &Node, at: Hlc) -> bool {
    !node.is_disputed && at > node.changed_at
}

/// Tells whether an event names the last one of its kind, or none if there was none.
fn is_last(last: Dot, made: FileId, parents: &[Dot]) -> bool {
    parents == [last] || last == made && parents.is_empty()
}

/// Tells whether the author of a removal knew all of what is at a name.
fn may_go(entry: &Entry, node: &Node, parents: &[Dot], at: Hlc) -> bool {
    if node.is_disputed {
        return false;
    }
    if node.is_dir() {
        return node.entries == 0 && parents == [entry.bound];
    }
    let is_written = node.is_file() && node.written != node.id;
    let is_known =
        parents.contains(&entry.bound) && (!is_written || parents.contains(&node.written));
    let is_more = |parent: &Dot| ![entry.bound, node.written, node.id].contains(parent);
    is_known && !parents.iter().any(is_more) && (!is_written || at > node.changed_at)
}
