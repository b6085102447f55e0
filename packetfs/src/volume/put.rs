//! Takes ordinary files into the volume, without a copy in between.

use std::fs::File;
use std::sync::atomic::AtomicBool;

use nix::errno::Errno;
use worknode::history::{Attrs, Content, Kind, Nanos, Op, Permissions};

use super::changes::failed;
use super::error::VolumeError;
use super::model::{Shared, State, Volume};
use super::names::{Caller, Found, Make, Moving};
use super::news::Item;
use super::node::Node;
use super::tree::parent;
use super::versions::Conflicts;

/// What a file is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Like {
    /// Who may do what with it.
    pub permissions: Permissions,
    /// The time of its last modification.
    pub modified: Nanos,
}

/// An ordinary file that is open for reading.
#[derive(Debug, Clone, Copy)]
pub struct Ordinary<'a> {
    /// The file.
    pub file: &'a File,
    /// Its size.
    pub bytes: u64,
    /// Its blocks of 512 bytes, which tell whether it has holes.
    pub blocks: u64,
    /// Its attributes.
    pub like: Like,
    /// What ends its reading when it is set.
    pub cancel: &'a AtomicBool,
}

impl Volume {
    /// Returns what a name leads to, without making the kernel know it.
    ///
    /// # Errors
    /// The directory is none, or the volume does not work.
    pub fn peek(&self, dir: u64, name: &[u8]) -> Result<Option<Found>, Errno> {
        let state = self.shared.lock();
        state.dir(dir)?;
        let entry = state.child(dir, name)?;
        entry.map(|entry| state.found(entry.ino)).transpose()
    }

    /// Gives a name the content and the attributes of an ordinary file. A regular file that has the name keeps its identity,
    /// and its former content is a version. Returns its number.
    ///
    /// # Errors
    /// Something else has the name (`EEXIST`), the file cannot be read, the disk is full, or the volume does not work.
    pub fn put_file(&self, dir: u64, name: &[u8], source: &Ordinary<'_>) -> Result<u64, Errno> {
        let shared = &self.shared;
        let _kept = shared.keep_packets();
        let content = shared.take_content(source)?;
        let mut state = shared.lock();
        let (ino, is_new) = match state.child(dir, name)? {
            Some(entry) => (entry.ino, false),
            None => (shared.put_new(&mut state, dir, name, Kind::File, source.like)?, true),
        };
        let node = state.node(ino)?;
        if !node.is_file() {
            return Err(Errno::EEXIST);
        }
        let modified = source.like.modified;
        let mut refill = None;
        if is_new {
            let op = Op::Write { file: node.id, content, modified };
            shared.emit(&mut state, op, parent(node.written))?;
        } else if (node.content, node.modified) != (content, modified)
            || state.uses.dirty(ino).is_some()
        {
            refill = shared.replace(&mut state, ino, (content, modified), Conflicts::Stay)?;
        }
        shared.put_permissions(&mut state, ino, source.like.permissions)?;
        drop(state);
        refill.map_or(Ok(()), |refill| shared.refill(&refill))?;
        Ok(ino)
    }

    /// Gives a name a directory, a symbolic link or a special file, unless it has the same one. Returns its number.
    ///
    /// # Errors
    /// Something else has the name (`EEXIST`), or the volume does not work.
    pub fn put_other(&self, dir: u64, name: &[u8], kind: Kind, like: Like) -> Result<u64, Errno> {
        let mut state = self.shared.lock();
        let Some(entry) = state.child(dir, name)? else {
            return self.shared.put_new(&mut state, dir, name, kind, like);
        };
        if state.node(entry.ino)?.kind != kind {
            return Err(Errno::EEXIST);
        }
        self.shared.put_permissions(&mut state, entry.ino, like.permissions)?;
        Ok(entry.ino)
    }

    /// Moves a name. The kernel forgets both.
    ///
    /// # Errors
    /// See [`Volume::rename`].
    pub fn carry(&self, from: (u64, &[u8]), to: (u64, &[u8]), how: Moving) -> Result<(), Errno> {
        let begin =
            |(dir, name): (u64, &[u8])| self.shared.mounts.begin(Item::Name(dir, name.to_vec()));
        let _under_way = [from, to].map(begin);
        self.rename(from, to, how)?;
        for (dir, name) in [from, to] {
            self.shared.mounts.name(dir, name);
            self.shared.mounts.file(dir);
        }
        Ok(())
    }

    /// Removes what has a name; an error if that is a directory with entries. The kernel forgets it.
    ///
    /// # Errors
    /// See [`Volume::remove`].
    pub fn take(&self, dir: u64, name: &[u8]) -> Result<(), Errno> {
        let Some(found) = self.peek(dir, name)? else { return Ok(()) };
        let _under_way = self.shared.mounts.begin(Item::Name(dir, name.to_vec()));
        self.remove(dir, name, found.attr.kind == crate::tree::Kind::Dir)?;
        self.shared.mounts.name(dir, name);
        self.shared.mounts.file(dir);
        self.shared.mounts.file(found.attr.ino);
        Ok(())
    }
}

impl Volume {
    /// Makes all that was done until now durable.
    ///
    /// # Errors
    /// The disk is full, or does not work.
    pub fn sync(&self) -> Result<(), VolumeError> {
        self.shared.settle()
    }
}

impl Shared {
    /// Stores the content of an ordinary file.
    pub(super) fn take_content(&self, source: &Ordinary<'_>) -> Result<Content, Errno> {
        let shape = (source.bytes, source.blocks);
        let content = self.library.put_file(source.file, shape, source.cancel);
        content.map_err(|error| match error.errno() {
            libc::ECANCELED => Errno::ECANCELED,
            _ => failed(&error),
        })
    }

    pub(super) fn put_new(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        kind: Kind,
        like: Like,
    ) -> Result<u64, Errno> {
        let Permissions { mode, uid, gid } = like.permissions;
        let make = Make { kind, mode, umask: 0 };
        let ino = self.make(state, dir, name, make, Caller { uid, gid })?;
        self.mounts.name(dir, name);
        self.mounts.file(dir);
        Ok(ino)
    }

    pub(super) fn put_permissions(
        &self,
        state: &mut State,
        ino: u64,
        permissions: Permissions,
    ) -> Result<(), Errno> {
        let node: Node = state.node(ino)?;
        if node.permissions == permissions {
            return Ok(());
        }
        let Permissions { mode, uid, gid } = permissions;
        let attrs = Attrs { mode: Some(mode), uid: Some(uid), gid: Some(gid), ..Attrs::default() };
        self.emit(state, Op::Set { file: node.id, attrs }, parent(node.set))?;
        self.mounts.file(ino);
        Ok(())
    }
}
