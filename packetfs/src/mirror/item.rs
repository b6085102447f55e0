//! What a mirror knows of one path.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::model::{Invalidation, Node, ROOT};
use crate::change::Base;
use crate::packet::Manifest;
use crate::path::Bytes;
use crate::tree::{Attr, Kind, Names, Time, Xattr};

/// Most former times of a directory that are kept. If there are more during a walk, it may have had any time.
pub(super) const EARLIER_MAX: usize = 8;

/// A path. Points in time are counted in batches of changes.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) parent: Node,
    pub(super) name: Bytes,
    /// Its attributes; `None` if the name is absent.
    pub(super) attr: Option<Attr>,
    pub(super) target: Option<Bytes>,
    pub(super) xattrs: Vec<Xattr>,
    pub(super) manifest: Option<Arc<Manifest>>,
    /// The batch of its last change at the origin.
    pub(super) changed: u64,
    /// A directory's last modification times, each with the batch in which it changed.
    pub(super) earlier: VecDeque<(u64, Time)>,
    /// The batch in which its listing was last forgotten.
    pub(super) forgotten: u64,
    pub(super) children: HashMap<Bytes, Node>,
    /// The same, ordered by number, which is the order of creation.
    pub(super) order: Vec<Node>,
    /// Whether all names of the directory are known.
    pub(super) listed: bool,
    /// Whether they were known at some time and have not been evicted since.
    pub(super) seen: bool,
    /// The batch of the last removal of a name that has been dropped although a walk may have seen
    /// it.
    pub(super) dropped: u64,
    /// The batch of the last eviction of names below it that a running walk may have seen.
    pub(super) lost: u64,
    /// The batch in which it, or a directory below it, was last used.
    pub(super) used: u64,
    /// What is told of its names, if it is a directory that was listed.
    pub(super) names: Names,
    /// Absent names that the kernel has cached. Only the root needs them, because it cannot be invalidated as
    /// a whole.
    pub(super) absent: BTreeSet<Bytes>,
}

impl Item {
    /// Makes an item of which only the name is known.
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
            names: Names::Told,
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

    /// Records what changes when the attributes are replaced.
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

    /// Sets the attributes, and adds the necessary invalidations.
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
        // overlayfs copies permissions and link counts from the lower inode when the name is looked
        // up.
        let taken = |attr: Attr| {
            let links = if attr.kind == Kind::Dir { 0 } else { attr.links };
            (attr.mode, attr.uid, attr.gid, links)
        };
        if shown != ROOT && old.is_some_and(|old| taken(old) != taken(attr)) {
            forget.insert(Invalidation::Entry(self.parent, self.name.clone()));
        }
    }
}
