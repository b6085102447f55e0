//! What a mirror knows of one path.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::model::{Invalidation, Node, ROOT};
use crate::change::Base;
use crate::packet::Manifest;
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Time, Xattr};

/// Earlier times of a directory that are kept: one that got more of them during a walk may have had any.
pub(super) const EARLIER_MAX: usize = 8;

/// A path. Batches of changes, which the mirror counts, are its clock.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) parent: Node,
    pub(super) name: Bytes,
    /// Nothing while the name is absent.
    pub(super) attr: Option<Attr>,
    pub(super) target: Option<Bytes>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) manifest: Option<Arc<Manifest>>,
    /// The batch in which the origin last said that it changed.
    pub(super) changed: u64,
    /// The last modification times that a directory had, each with the batch in which it got another.
    pub(super) earlier: VecDeque<(u64, Time)>,
    /// The batch in which its listing was last forgotten.
    pub(super) forgotten: u64,
    pub(super) children: HashMap<Bytes, Node>,
    /// The same in the order of their numbers, which only grow.
    pub(super) order: Vec<Node>,
    /// All names of the directory are known.
    pub(super) listed: bool,
    /// They were known once, and were not evicted since.
    pub(super) seen: bool,
    /// The batch in which the last name went of which nothing is known any more, if a walk may have
    /// seen it.
    pub(super) dropped: u64,
    /// The batch in which names below it were last evicted that a running walk may have seen.
    pub(super) lost: u64,
    /// The batch in which it, or a directory below it, was last used.
    pub(super) used: u64,
    /// It is a directory whose names are not shown.
    pub(super) hidden: bool,
    /// Absent names that the kernel has asked for. Only the root has them, because only the root
    /// cannot be forgotten as a whole.
    pub(super) absent: BTreeSet<Bytes>,
}

impl Item {
    /// Makes a path of which nothing is known but its name.
    pub(super) fn new(parent: Node, name: Bytes) -> Self {
        Self {
            parent,
            name,
            attr: None,
            target: None,
            xattrs: Vec::new(),
            manifest: None,
            changed: 0,
            earlier: VecDeque::new(),
            forgotten: 0,
            children: HashMap::new(),
            order: Vec::new(),
            listed: false,
            seen: false,
            dropped: 0,
            lost: 0,
            used: 0,
            hidden: false,
            absent: BTreeSet::new(),
        }
    }

    /// Drops a name of a directory.
    pub(super) fn drop_name(&mut self, name: &[u8], node: Node) {
        self.children.remove(name);
        if let Ok(at) = self.order.binary_search(&node) {
            self.order.remove(at);
        }
    }

    /// Notes the difference between the attributes that it has and those that it will have.
    pub(super) fn note_change(&mut self, new: &Attr, batches: u64) {
        if let Some(old) = self.attr.filter(|old| old.kind == Kind::Dir && old.mtime != new.mtime) {
            if self.earlier.len() == EARLIER_MAX {
                self.earlier.pop_front();
            }
            self.earlier.push_back((batches, old.mtime));
        }
        if self.attr.is_some_and(|old| Base::of(&old) != Base::of(new)) {
            self.changed = batches;
        }
    }

    /// Sets the attributes, and says what of the old ones the kernel has to forget.
    pub(super) fn set_attr(
        &mut self,
        shown: Node,
        attr: Attr,
        forget: &mut BTreeSet<Invalidation>,
    ) {
        let old = self.attr.replace(attr);
        if old.is_some_and(|old| old != attr) {
            forget.insert(Invalidation::Node(shown));
        }
        // An overlay takes permissions and link counts from its lower inode, as they were when the name
        // was looked up.
        let taken = |attr: Attr| {
            let links = if attr.kind == Kind::Dir { 0 } else { attr.links };
            (attr.mode, attr.uid, attr.gid, links)
        };
        if shown != ROOT && old.is_some_and(|old| taken(old) != taken(attr)) {
            forget.insert(Invalidation::Entry(self.parent, self.name.clone()));
        }
    }
}
