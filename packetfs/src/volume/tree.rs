//! The tree in the tables, and what each event does to it.

use std::path::Path;

use serde::{Deserialize, Serialize};
use worknode::history::{Attrs, Author, Dot, Event, FileId, Hlc, Kind, Nanos, Op, Permissions};

use super::error::VolumeError;
use super::key::{self, Key};
use super::node::{Entry, Node, ROOT, Xattr};
use super::noted::Noted;
use super::others::Others;
use super::row::Row;
use super::tables::Tables;

/// Former attributes are kept, unless they lasted less than this: a directory changes with every file that is made in it.
const BRIEF_MS: u64 = 1000;
const ROOT_MODE: u32 = 0o755;
/// Rows of a removed file that are removed while others wait.
const BURIED_AT_ONCE: usize = 256;

/// Which rows of a removed file are left.
#[derive(Debug, Clone, Default)]
pub(super) struct Rest {
    /// Those of attributes that were removed before.
    are_removed: bool,
    after: Option<Key>,
}

/// What the tables are right for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// The last event of this volume's author that was applied.
    pub(super) applied: u64,
    /// The latest moment of all events that were applied.
    pub(super) hlc: Hlc,
    pub(super) files: u64,
    /// Rows that are in dispute.
    pub(super) disputes: u64,
    /// The latest moment of all moves of directories.
    pub(super) moved: Hlc,
    /// Other authors.
    pub(super) others: Others,
}

/// The tree of all authors' events.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) tables: Tables,
    pub(super) state: State,
    author: Author,
    /// Which contents of files in conflict have rows.
    pub(super) noted: Noted,
    /// Attributes that lasted less than this are not kept.
    pub(super) brief_ms: u64,
}

/// A file whose last name was removed.
pub(super) type Gone = Option<u64>;

impl Tree {
    /// Opens the tree. A new one has a root directory that belongs to the superuser.
    pub(super) fn open(path: &Path, author: Author) -> Result<Self, VolumeError> {
        let mut tables = Tables::open(path)?;
        let state = match tables.get(&key::state())? {
            Some(row) => State::decode(&row)?,
            None => State::default(),
        };
        tables.begin_after(state.hlc);
        let mut tree = Self { tables, state, author, noted: Noted::default(), brief_ms: BRIEF_MS };
        if tree.find(ROOT)?.is_none() {
            let permissions = Permissions { mode: ROOT_MODE, uid: 0, gid: 0 };
            let mut root = Node::new(FileId::default(), Kind::Dir, permissions, 0, Hlc(0));
            root.parent = ROOT;
            tree.put(ROOT, &root, Hlc(0), false)?;
        }
        Ok(tree)
    }

    /// Returns the tree as it is now, for reading without a lock.
    pub(super) fn as_now(&mut self) -> Result<Self, VolumeError> {
        let (state, author, brief_ms) = (self.state.clone(), self.author, self.brief_ms);
        Ok(Self { tables: self.tables.as_now()?, state, author, noted: Noted::default(), brief_ms })
    }

    /// Notes the state in the tables, for their next write.
    pub(super) fn note_state(&mut self) -> Result<(), VolumeError> {
        let row = self.state.encode()?;
        self.tables.set_plain(key::state(), &row);
        Ok(())
    }

    /// Returns a file.
    pub(super) fn find(&self, ino: u64) -> Result<Option<Node>, VolumeError> {
        self.tables.get(&key::node(ino))?.map(|row| Node::decode(&row)).transpose()
    }

    /// Returns what a name in a directory leads to.
    pub(super) fn entry(&self, dir: u64, name: &[u8]) -> Result<Option<Entry>, VolumeError> {
        self.tables.get(&key::entry(dir, name))?.map(|row| Entry::decode(&row)).transpose()
    }

    /// Returns an extended attribute.
    pub(super) fn xattr(&self, ino: u64, name: &[u8]) -> Result<Option<Xattr>, VolumeError> {
        self.tables.get(&key::xattr(ino, name))?.map(|row| Xattr::decode(&row)).transpose()
    }

    /// Returns the number of a file.
    pub(super) fn ino(&self, id: FileId) -> u64 {
        // Event 0 of nobody.
        if id == FileId::default() || id.author == self.author {
            id.seq + ROOT
        } else {
            self.state.others.ino(id)
        }
    }

    /// Does what an event says. Returns the file that lost its last name by it.
    pub(super) fn apply(&mut self, event: &Event) -> Result<Gone, VolumeError> {
        let gone = self.change(event)?;
        self.note_applied(event);
        Ok(gone)
    }

    /// Notes that an event is applied.
    pub(super) fn note_applied(&mut self, event: &Event) {
        self.state.hlc = self.state.hlc.max(event.hlc);
        if event.dot.author == self.author {
            self.state.applied = event.dot.seq;
        } else {
            self.state.others.note_applied(event.dot);
        }
    }

    /// Returns the number up to which all events of an author are applied.
    pub(super) fn applied(&self, author: Author) -> u64 {
        if author == self.author { self.state.applied } else { self.state.others.applied(author) }
    }

    fn change(&mut self, event: &Event) -> Result<Gone, VolumeError> {
        let (at, time) = (event.hlc, event.time);
        match &event.op {
            Op::Make { dir, name, kind, permissions } => {
                let (dir, ino) = (self.ino(*dir), self.ino(event.dot));
                let mut node = Node::new(event.dot, kind.clone(), *permissions, time, at);
                node.parent = dir;
                self.put(ino, &node, at, false)?;
                self.state.files += 1;
                self.bind(dir, name, Entry::new(ino, event.dot, at), at)?;
                self.touch_dir(dir, 1, i32::from(node.is_dir()), time, at)?;
                Ok(None)
            }
            Op::Link { dir, name, file } => {
                let (dir, ino) = (self.ino(*dir), self.ino(*file));
                self.bind(dir, name, Entry::new(ino, event.dot, at), at)?;
                self.touch_dir(dir, 1, 0, time, at)?;
                self.edit(ino, at, |node| {
                    node.links += 1;
                    node.touch(time, at);
                })?;
                Ok(None)
            }
            Op::Unlink { dir, name } => self.unbind(self.ino(*dir), name, time, at),
            Op::Move { dir, name, to, new, exchange } => {
                let from = (self.ino(*dir), name.as_slice());
                let to = (self.ino(*to), new.as_slice());
                if *exchange {
                    self.exchange(from, to, event)
                } else {
                    self.rename(from, to, event)
                }
            }
            Op::Set { file, attrs } => {
                let dot = event.dot;
                self.edit(self.ino(*file), at, |node| {
                    set(node, attrs, at);
                    node.touch(time, at);
                    node.set = dot;
                })?;
                Ok(None)
            }
            Op::Write { file, content, modified } => {
                let (content, modified, dot) = (*content, *modified, event.dot);
                let ino = self.ino(*file);
                if let Some(mut node) = self.find(ino)? {
                    node.content = content;
                    node.modified = modified;
                    // Not when it became packets, which a program must not notice.
                    node.changed = node.changed.max(modified);
                    node.changed_at = at;
                    (node.written, node.written_at) = (dot, at);
                    self.tables.set(key::node(ino), &node.encode()?, at, true)?;
                }
                Ok(None)
            }
            Op::Xattr { file, name, value } => {
                self.set_xattr(self.ino(*file), name, value.as_ref(), event)?;
                Ok(None)
            }
            // A choice is made as a Write; where it comes from others, the merged tree knows the content.
            Op::Choose { .. } => Ok(None),
        }
    }

    fn rename(
        &mut self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        event: &Event,
    ) -> Result<Gone, VolumeError> {
        let (at, time) = (event.hlc, event.time);
        let Some(entry) = self.entry(from.0, from.1)? else { return Ok(None) };
        if self.entry(to.0, to.1)?.is_some_and(|other| other.ino == entry.ino) {
            return Ok(None);
        }
        let gone = self.unbind(to.0, to.1, time, at)?;
        let is_dir = self.find(entry.ino)?.is_some_and(|node| node.is_dir());
        self.tables.remove(key::entry(from.0, from.1), at)?;
        self.touch_dir(from.0, -1, -i32::from(is_dir), time, at)?;
        self.bind(to.0, to.1, Entry::new(entry.ino, event.dot, at), at)?;
        self.touch_dir(to.0, 1, i32::from(is_dir), time, at)?;
        self.moved(entry.ino, to.0, time, at)?;
        Ok(gone)
    }

    fn exchange(
        &mut self,
        one: (u64, &[u8]),
        two: (u64, &[u8]),
        event: &Event,
    ) -> Result<Gone, VolumeError> {
        let (at, time, bound) = (event.hlc, event.time, event.dot);
        let (Some(first), Some(second)) = (self.entry(one.0, one.1)?, self.entry(two.0, two.1)?)
        else {
            return Ok(None);
        };
        self.bind(one.0, one.1, Entry::new(second.ino, bound, at), at)?;
        self.bind(two.0, two.1, Entry::new(first.ino, bound, at), at)?;
        let is_dir =
            |tree: &Self, ino| tree.find(ino).map(|node| node.is_some_and(|node| node.is_dir()));
        let more = i32::from(is_dir(self, second.ino)?) - i32::from(is_dir(self, first.ino)?);
        self.touch_dir(one.0, 0, more, time, at)?;
        self.touch_dir(two.0, 0, -more, time, at)?;
        self.moved(first.ino, two.0, time, at)?;
        self.moved(second.ino, one.0, time, at)?;
        Ok(None)
    }

    fn moved(&mut self, ino: u64, dir: u64, time: Nanos, at: Hlc) -> Result<(), VolumeError> {
        let mut is_dir = false;
        self.edit(ino, at, |node| {
            is_dir = node.is_dir();
            node.touch(time, at);
            node.parent = dir;
        })?;
        if is_dir {
            self.state.moved = self.state.moved.max(at);
        }
        Ok(())
    }

    fn bind(&mut self, dir: u64, name: &[u8], entry: Entry, at: Hlc) -> Result<(), VolumeError> {
        self.tables.set(key::entry(dir, name), &entry.encode()?, at, true)
    }

    /// Removes a name. Returns the file if it was the last one.
    fn unbind(&mut self, dir: u64, name: &[u8], time: Nanos, at: Hlc) -> Result<Gone, VolumeError> {
        let Some(entry) = self.entry(dir, name)? else { return Ok(None) };
        self.tables.remove(key::entry(dir, name), at)?;
        let Some(mut node) = self.find(entry.ino)? else { return Ok(None) };
        let (is_dir, before) = (node.is_dir(), node.clone());
        node.links = if is_dir { 0 } else { node.links.saturating_sub(1) };
        node.touch(time, at);
        self.put(entry.ino, &node, at, before.protects(&node))?;
        self.touch_dir(dir, -1, -i32::from(is_dir), time, at)?;
        if node.links > 0 {
            return Ok(None);
        }
        // Its rows are removed when no program uses it any more.
        self.tables.set_plain(key::orphan(entry.ino), &[]);
        Ok(Some(entry.ino))
    }

    /// Removes a file without a name, or some of its rows if there are many: then what comes after a key is left. Its past
    /// stays.
    pub(super) fn bury(
        &mut self,
        ino: u64,
        at: Hlc,
        rest: &Rest,
    ) -> Result<Option<Rest>, VolumeError> {
        let prefix = if rest.are_removed { key::removed_xattrs(ino) } else { key::xattrs(ino) };
        let (rows, next) = self.tables.some(&prefix, rest.after.as_ref(), BURIED_AT_ONCE)?;
        for row in rows {
            match rest.are_removed {
                true => self.tables.remove_plain(row.key),
                false => self.tables.remove(row.key, at)?,
            }
        }
        if next.is_some() {
            return Ok(Some(Rest { after: next, ..*rest }));
        }
        if !rest.are_removed {
            let rest = Rest { are_removed: true, after: None };
            // Few files have had any.
            return self.bury(ino, at, &rest);
        }
        self.tables.remove(key::node(ino), at)?;
        self.tables.remove_plain(key::orphan(ino));
        self.state.files = self.state.files.saturating_sub(1);
        Ok(None)
    }

    /// Returns the bytes of the names and values of a file's extended attributes, or more than `max`.
    pub(super) fn xattr_bytes(&self, ino: u64, max: usize) -> Result<usize, VolumeError> {
        let (mut bytes, mut after) = (0, None);
        while bytes <= max {
            let (rows, next) =
                self.tables.some(&key::xattrs(ino), after.as_ref(), BURIED_AT_ONCE)?;
            bytes += rows.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>();
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        Ok(bytes)
    }

    fn has_xattrs(&self, ino: u64) -> Result<bool, VolumeError> {
        let mut after = None;
        loop {
            let (rows, next) = self.tables.some(&key::xattrs(ino), after.as_ref(), 1)?;
            if !rows.is_empty() || next.is_none() {
                return Ok(!rows.is_empty());
            }
            after = next;
        }
    }

    fn set_xattr(
        &mut self,
        ino: u64,
        name: &[u8],
        value: Option<&Vec<u8>>,
        event: &Event,
    ) -> Result<(), VolumeError> {
        let (at, time, set) = (event.hlc, event.time, event.dot);
        let Some(mut node) = self.find(ino)? else { return Ok(()) };
        match value {
            Some(value) => {
                let xattr = Xattr { set, value: value.clone() };
                self.tables.set(key::xattr(ino, name), &xattr.encode()?, at, true)?;
                if node.lost_xattrs {
                    self.tables.remove_plain(key::removed_xattr(ino, name));
                }
            }
            None => {
                self.tables.remove(key::xattr(ino, name), at)?;
                self.tables.set_plain(key::removed_xattr(ino, name), &set.encode()?);
                node.lost_xattrs = true;
            }
        }
        node.has_xattrs = value.is_some() || self.has_xattrs(ino)?;
        node.touch(time, at);
        self.put(ino, &node, at, false)
    }

    /// Returns the event that set or removed an extended attribute last; none if there never was one.
    pub(super) fn xattr_set(
        &self,
        node: &Node,
        ino: u64,
        name: &[u8],
    ) -> Result<Option<Dot>, VolumeError> {
        if let Some(xattr) = self.xattr(ino, name)? {
            return Ok(Some(xattr.set));
        }
        if !node.lost_xattrs {
            return Ok(None);
        }
        self.tables.get(&key::removed_xattr(ino, name))?.map(|row| Dot::decode(&row)).transpose()
    }

    fn touch_dir(
        &mut self,
        dir: u64,
        entries: i64,
        dirs: i32,
        time: Nanos,
        at: Hlc,
    ) -> Result<(), VolumeError> {
        self.edit(dir, at, |node| {
            node.entries = node.entries.saturating_add_signed(entries);
            node.links = node.links.saturating_add_signed(dirs);
            node.touch_names(time, at);
        })
    }

    fn edit(
        &mut self,
        ino: u64,
        at: Hlc,
        change: impl FnOnce(&mut Node),
    ) -> Result<(), VolumeError> {
        let Some(mut node) = self.find(ino)? else { return Ok(()) };
        let before = node.clone();
        change(&mut node);
        self.put(ino, &node, at, before.protects(&node))
    }

    pub(super) fn put(
        &mut self,
        ino: u64,
        node: &Node,
        at: Hlc,
        keep: bool,
    ) -> Result<(), VolumeError> {
        let key = key::node(ino);
        let is_brief = self
            .tables
            .since(&key)?
            .is_some_and(|since| at.ms().saturating_sub(since.ms()) < self.brief_ms);
        self.tables.set(key, &node.encode()?, at, keep || !is_brief)
    }
}

fn set(node: &mut Node, attrs: &Attrs, at: Hlc) {
    if attrs.modified.is_some() && node.is_dir() {
        node.modified_at = at;
    }
    let permissions = &mut node.permissions;
    permissions.mode = attrs.mode.unwrap_or(permissions.mode);
    permissions.uid = attrs.uid.unwrap_or(permissions.uid);
    permissions.gid = attrs.gid.unwrap_or(permissions.gid);
    node.accessed = attrs.accessed.unwrap_or(node.accessed);
    node.modified = attrs.modified.unwrap_or(node.modified);
}

/// Returns the event that a register was set by, as the parent of the next.
pub(super) fn parent(dot: Dot) -> Vec<Dot> {
    if dot.seq == 0 { Vec::new() } else { vec![dot] }
}
