//! The attributes of a file as the tables have them.

use serde::{Deserialize, Serialize};
use worknode::history::{Content, Dot, FileId, Hlc, Kind, Nanos, Permissions};

/// The number of the root directory, as FUSE has it.
pub const ROOT: u64 = 1;

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    /// The event that made it.
    pub(super) id: FileId,
    pub(super) kind: Kind,
    pub(super) permissions: Permissions,
    /// Names of a file; 2 and the directories in it for a directory.
    pub(super) links: u32,
    /// Names in a directory.
    pub(super) entries: u64,
    /// The directory of a directory.
    pub(super) parent: u64,
    pub(super) accessed: Nanos,
    pub(super) modified: Nanos,
    pub(super) changed: Nanos,
    pub(super) content: Content,
    /// The event that wrote the content.
    pub(super) written: Dot,
    /// Its moment.
    pub(super) written_at: Hlc,
    /// The event that set the attributes last.
    pub(super) set: Dot,
    /// Whether it has extended attributes.
    pub(super) has_xattrs: bool,
    /// Whether it had others: the events that removed them are known.
    pub(super) lost_xattrs: bool,
    /// Concurrent events concern it: only the merged tree knows the parents of the next one.
    pub(super) is_disputed: bool,
    /// The moment of the last event that concerns it.
    pub(super) changed_at: Hlc,
    /// Of a directory, the moment when it was made.
    pub(super) made_at: Hlc,
    /// Of a directory, the moment of the event that set `modified`.
    pub(super) modified_at: Hlc,
}

impl Node {
    /// Returns a new file.
    pub(super) fn new(
        id: FileId,
        kind: Kind,
        permissions: Permissions,
        time: Nanos,
        at: Hlc,
    ) -> Self {
        let is_dir = kind == Kind::Dir;
        Self {
            id,
            kind,
            permissions,
            links: if is_dir { 2 } else { 1 },
            entries: 0,
            parent: 0,
            accessed: time,
            modified: time,
            changed: time,
            content: Content::default(),
            written: id,
            written_at: at,
            set: id,
            has_xattrs: false,
            lost_xattrs: false,
            is_disputed: false,
            changed_at: at,
            made_at: if is_dir { at } else { Hlc(0) },
            modified_at: if is_dir { at } else { Hlc(0) },
        }
    }

    /// Notes the time of an event that changes it. One that comes late has the earlier time.
    pub(super) fn touch(&mut self, time: Nanos, at: Hlc) {
        if (at, time) >= (self.changed_at, self.changed) {
            (self.changed, self.changed_at) = (time, at);
        }
    }

    /// Notes the time of an event that changes the names of this directory.
    pub(super) fn touch_names(&mut self, time: Nanos, at: Hlc) {
        if (at, time) >= (self.modified_at, self.modified) {
            (self.modified, self.modified_at) = (time, at);
        }
        self.touch(time, at);
    }

    /// Tells whether it keeps anybody from a former content, or may do so, whom what it becomes does not: it counts however
    /// briefly it lasted. Nothing was ever in a directory whose names have not changed since it was made.
    pub(super) fn protects(&self, after: &Self) -> bool {
        let is_empty = match self.is_dir() {
            true => self.entries == 0 && self.modified_at == self.made_at,
            false => self.content.bytes == 0,
        };
        let is_moved = (self.permissions, self.parent) != (after.permissions, after.parent);
        let has_several = !self.is_dir() && self.links.max(after.links) > 1;
        !is_empty && is_moved || has_several && self.links != after.links
    }

    /// Tells whether it is a directory.
    pub(super) fn is_dir(&self) -> bool {
        self.kind == Kind::Dir
    }

    /// Tells whether it is a regular file.
    pub(super) fn is_file(&self) -> bool {
        self.kind == Kind::File
    }
}

/// The version that programs have changed, if another content came meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Base {
    /// The event that wrote it.
    pub(super) version: Dot,
    pub(super) content: Content,
}

/// An entry of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// The file.
    pub(super) ino: u64,
    /// The event that gave it the name.
    pub(super) bound: Dot,
    /// Its moment.
    pub(super) bound_at: Hlc,
    /// Others have the name, too: only the merged tree knows the parents of the next event.
    pub(super) is_disputed: bool,
}

impl Entry {
    pub(super) const fn new(ino: u64, bound: Dot, bound_at: Hlc) -> Self {
        Self { ino, bound, bound_at, is_disputed: false }
    }
}

/// An extended attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Xattr {
    /// The event that set it.
    pub(super) set: Dot,
    pub(super) value: Vec<u8>,
}
