//! What programs do with names: look up, list, make, link, remove, move. And attributes.

use nix::errno::Errno;
use worknode::history::{Attrs, Dot, Kind, NAME_BYTES_MAX, Op, Permissions};

use super::acl::{self, Acl};
use super::backing;
use super::changes::failed;
use super::error::VolumeError;
use super::key;
use super::model::{Shared, State, Volume};
use super::node::{Entry, Node, ROOT};
use super::tree::{Rest, parent};
use crate::tree::{self, Attr, Time};

const SET_GID: u32 = 0o2000;
const BLOCK_BYTES: u64 = 512;
/// Files take whole pages, as on most disks.
const PAGE_BYTES: u64 = 4096;
/// Most names of a file, as ext4 has it.
const LINKS_MAX: u32 = 65_000;
/// Most bytes of the names and values of all extended attributes of a file: the largest value, as on other disks.
const XATTRS_BYTES_MAX: usize = XATTR_BYTES_MAX + 2048;
/// Largest value of an extended attribute that the kernel passes on.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// Who calls.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Who may do everything.
pub(super) const SUPERUSER: Caller = Caller { uid: 0, gid: 0 };

/// A file that was found: its attributes.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Attributes; the number is the volume's.
    pub attr: Attr,
    /// Time of the last access.
    pub accessed: Time,
    /// Whether a program may change the content without asking the volume, so that size and times must be asked for.
    pub is_written: bool,
}

/// A file to be made.
#[derive(Debug, Clone)]
pub struct Make {
    /// What.
    pub kind: Kind,
    /// Its mode, before the umask.
    pub mode: u32,
    /// The permissions that it is not to have, unless its directory has a default access control list.
    pub umask: u32,
}

/// How a name is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moving {
    /// In place of what has the name.
    Replace,
    /// Only if nothing has the name.
    New,
    /// What has the name gets the former one.
    Exchange,
}

impl Volume {
    /// Looks a name up. The kernel knows the file from now on, until it has forgotten all look-ups.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENAMETOOLONG`, or the volume does not work.
    pub fn lookup(&self, dir: u64, name: &[u8]) -> Result<Found, Errno> {
        let mut state = self.shared.lock();
        state.dir(dir)?;
        let ino = state.child(dir, name)?.ok_or(Errno::ENOENT)?.ino;
        self.known(&mut state, ino)
    }

    /// Notes that the kernel has forgotten look-ups.
    pub fn forget(&self, ino: u64, lookups: u64) {
        let mut state = self.shared.lock();
        state.uses.forget(ino, lookups);
        self.shared.end_use(&mut state, ino);
    }

    /// Returns the attributes of a file.
    ///
    /// # Errors
    /// The file is gone, or the volume does not work.
    pub fn attr(&self, ino: u64) -> Result<Found, Errno> {
        self.shared.lock().found(ino)
    }

    /// Sets attributes of a file, and its size.
    ///
    /// # Errors
    /// The file is gone, the disk is full, or the volume does not work.
    pub fn set_attr(
        &self,
        ino: u64,
        attrs: Attrs,
        size: Option<u64>,
        caller: Caller,
    ) -> Result<Found, Errno> {
        if let Some(size) = size {
            self.set_size(ino, size)?;
        }
        let mut state = self.shared.lock();
        // The kernel passes on that an owner is set to what it was before, without saying so.
        let is_given_to_same = size.is_none() && attrs == Attrs::default();
        if size.is_some() && caller.uid != 0 || is_given_to_same {
            self.shared.strip(&mut state, ino)?;
        }
        if attrs != Attrs::default() {
            let node = state.node(ino)?;
            let attrs = self.shared.strip_for(&mut state, ino, &node, attrs)?;
            if let (Some(modified), Some(backing)) = (attrs.modified, state.uses.backing(ino)) {
                backing.set_modified(modified).map_err(|error| super::changes::errno(&error))?;
            }
            if let Some(mode) = attrs.mode {
                self.shared.mode_to_acl(&mut state, ino, &node, mode)?;
            }
            self.shared.emit(&mut state, Op::Set { file: node.id, attrs }, parent(node.set))?;
        }
        state.found(ino)
    }

    /// Returns the target of a symbolic link.
    ///
    /// # Errors
    /// `EINVAL` if it is none.
    pub fn target(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        match self.shared.lock().node(ino)?.kind {
            Kind::Symlink(target) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    /// Makes a file, which the kernel knows from now on.
    ///
    /// # Errors
    /// `EEXIST`, `ENOENT` in a removed directory, `ENAMETOOLONG`, or the volume does not work.
    pub fn make(&self, dir: u64, name: &[u8], make: Make, caller: Caller) -> Result<Found, Errno> {
        let mut state = self.shared.lock();
        let ino = self.shared.make(&mut state, dir, name, make, caller)?;
        self.known(&mut state, ino)
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// `EEXIST`, `EPERM` for a directory, `EMLINK`, or the volume does not work.
    pub fn link(&self, ino: u64, dir: u64, name: &[u8]) -> Result<Found, Errno> {
        let mut state = self.shared.lock();
        let (node, to) = (state.node(ino)?, state.free(dir, name)?);
        if node.is_dir() {
            return Err(Errno::EPERM);
        }
        if node.links == 0 {
            return Err(Errno::ENOENT);
        }
        if node.links >= LINKS_MAX {
            return Err(Errno::EMLINK);
        }
        let op = Op::Link { dir: to.id, name: name.to_vec(), file: node.id };
        self.shared.emit(&mut state, op, Vec::new())?;
        self.known(&mut state, ino)
    }

    /// Removes a name of a file that is not a directory, or with `is_dir` an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`, `ENOTDIR`, `ENOTEMPTY`, or the volume does not work.
    pub fn remove(&self, dir: u64, name: &[u8], is_dir: bool) -> Result<(), Errno> {
        self.shared.remove(&mut self.shared.lock(), dir, name, is_dir)
    }

    /// Moves a name.
    ///
    /// # Errors
    /// What `rename` says.
    pub fn rename(
        &self,
        (dir, name): (u64, &[u8]),
        (to, new): (u64, &[u8]),
        how: Moving,
    ) -> Result<(), Errno> {
        self.shared.translate_before_move(dir, name)?;
        let mut state = self.shared.lock();
        let (from_dir, to_dir) = (state.dir(dir)?, state.dir(to)?);
        if to_dir.links == 0 {
            return Err(Errno::ENOENT);
        }
        let entry = state.child(dir, name)?.ok_or(Errno::ENOENT)?;
        let other = state.child(to, new)?;
        let node = state.node(entry.ino)?;
        if node.is_dir() && state.is_within(to, entry.ino)? {
            return Err(Errno::EINVAL);
        }
        match (how, other) {
            (Moving::New, Some(_)) => return Err(Errno::EEXIST),
            (Moving::Exchange, None) => return Err(Errno::ENOENT),
            (Moving::Exchange, Some(other)) => {
                if state.node(other.ino)?.is_dir() && state.is_within(dir, other.ino)? {
                    return Err(Errno::EINVAL);
                }
            }
            (Moving::Replace, Some(other)) if other.ino == entry.ino => return Ok(()),
            (Moving::Replace, Some(other)) => may_replace(&node, &state.node(other.ino)?)?,
            (_, None) => {}
        }
        let mut parents = parent(entry.bound);
        match other {
            Some(other) if how == Moving::Replace => {
                parents.extend(replaced(&other, &state.node(other.ino)?));
            }
            Some(other) => parents.extend(parent(other.bound)),
            None => {}
        }
        let op = Op::Move {
            dir: from_dir.id,
            name: name.to_vec(),
            to: to_dir.id,
            new: new.to_vec(),
            exchange: how == Moving::Exchange,
        };
        let gone = self.shared.emit(&mut state, op, parents)?;
        if let Some(other) = other.filter(|_| how == Moving::Replace) {
            self.shared.end_replaced(&mut state, other.ino);
        }
        // For the programs that do not call fsync: the new name never leads to less than what was written.
        let exchanged = other.filter(|_| how == Moving::Exchange);
        for moved in [Some(entry), exchanged].into_iter().flatten() {
            if state.uses.backing(moved.ino).is_some() {
                state.uses.of(moved.ino).replaced = true;
            }
        }
        self.shared.orphaned(&mut state, gone);
        Ok(())
    }

    /// Returns the value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA`, or the volume does not work.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let state = self.shared.lock();
        if !state.node(ino)?.has_xattrs {
            return Err(Errno::ENODATA);
        }
        let found = state.tree.xattr(ino, name).map_err(|error| failed(&error))?;
        found.map(|xattr| xattr.value).ok_or(Errno::ENODATA)
    }

    /// Returns the names of a file's extended attributes.
    ///
    /// # Errors
    /// The file is gone, or the volume does not work.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, Errno> {
        let state = self.shared.lock();
        if !state.node(ino)?.has_xattrs {
            return Ok(Vec::new());
        }
        let rows = state.tree.tables.all(&key::xattrs(ino)).map_err(|error| failed(&error))?;
        Ok(rows.iter().map(|(key, _)| key::name(key).to_vec()).collect())
    }

    /// Sets an extended attribute, or removes it. `flags` are those of `setxattr`.
    ///
    /// # Errors
    /// What `setxattr` and `removexattr` say.
    pub fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: Option<&[u8]>,
        flags: i32,
        caller: Caller,
    ) -> Result<(), Errno> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
            return Err(Errno::ERANGE);
        }
        if value.is_some_and(|value| value.len() > XATTR_BYTES_MAX) {
            return Err(Errno::ENOSPC);
        }
        let mut state = self.shared.lock();
        let node = state.node(ino)?;
        let before = state.tree.xattr(ino, name).map_err(|error| failed(&error))?;
        let last = state.tree.xattr_set(&node, ino, name).map_err(|error| failed(&error))?;
        let parents = last.map_or_else(Vec::new, parent);
        match (&before, value) {
            (None, None) => return Err(Errno::ENODATA),
            (Some(_), Some(_)) if flags & libc::XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            (None, Some(_)) if flags & libc::XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            _ => {}
        }
        if let Some(value) = value.filter(|_| name != key::PIN) {
            let former = before.as_ref().map_or(0, |it| name.len() + it.value.len());
            let all = state.tree.xattr_bytes(ino, XATTRS_BYTES_MAX + former);
            let more = (name.len() + value.len()).saturating_sub(former);
            if more > 0 && all.map_err(|error| failed(&error))? + more > XATTRS_BYTES_MAX {
                return Err(Errno::ENOSPC);
            }
        }
        if let Some(value) = value.filter(|_| name == acl::ACCESS) {
            let acl = Acl::parse(value).ok_or(Errno::EINVAL)?;
            let mode = Some(acl.mode(kept_for(caller, &node)));
            let attrs = Attrs { mode, ..Attrs::default() };
            self.shared.emit(&mut state, Op::Set { file: node.id, attrs }, parent(node.set))?;
            if acl.is_minimal() && before.is_none() {
                return Ok(());
            }
        }
        let value = value.filter(|value| {
            name != acl::ACCESS || !Acl::parse(value).is_some_and(|acl| acl.is_minimal())
        });
        let value = value.map(<[u8]>::to_vec);
        let op = Op::Xattr { file: node.id, name: name.to_vec(), value };
        self.shared.emit(&mut state, op, parents)?;
        Ok(())
    }

    /// Returns the attributes of a file that the kernel knows from now on.
    fn known(&self, state: &mut State, ino: u64) -> Result<Found, Errno> {
        let found = state.found(ino)?;
        state.uses.of(ino).lookups += 1;
        Ok(found)
    }
}

/// The access control lists of a new file, from the default one of its directory.
struct Inherited {
    access: Acl,
    default: Option<Acl>,
}

impl Inherited {
    fn new(default: Acl, is_dir: bool, mode: &mut u32) -> Self {
        let mut access = default.clone();
        *mode = access.inherit(*mode);
        Self { access, default: is_dir.then_some(default) }
    }
}

impl Shared {
    /// Makes a file, and returns its number.
    pub(super) fn make(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        make: Make,
        caller: Caller,
    ) -> Result<u64, Errno> {
        let parent_dir = state.free(dir, name)?;
        let inherited = state.inherited(dir, &parent_dir, &make.kind)?;
        let mut mode = make.mode & 0o7777;
        if inherited.is_none() {
            mode &= !make.umask;
        }
        let inherits = parent_dir.permissions.mode & SET_GID != 0;
        if inherits && make.kind == Kind::Dir {
            mode |= SET_GID;
        }
        let gid = if inherits { parent_dir.permissions.gid } else { caller.gid };
        let is_dir = make.kind == Kind::Dir;
        let list = inherited.map(|default| Inherited::new(default, is_dir, &mut mode));
        let first = list.as_ref().map_or(mode, |list| list.access.least(mode));
        let permissions = Permissions { mode: first, uid: caller.uid, gid };
        let op = Op::Make { dir: parent_dir.id, name: name.to_vec(), kind: make.kind, permissions };
        let ino = state.next_ino();
        self.emit(state, op, Vec::new())?;
        if let Some(list) = list {
            self.bequeath(state, ino, &list, mode)?;
        }
        Ok(ino)
    }

    /// Removes a name: see [`Volume::remove`].
    pub(super) fn remove(
        &self,
        state: &mut State,
        dir: u64,
        name: &[u8],
        is_dir: bool,
    ) -> Result<(), Errno> {
        let parent_dir = state.dir(dir)?;
        let entry = state.child(dir, name)?.ok_or(Errno::ENOENT)?;
        let node = state.node(entry.ino)?;
        match (is_dir, node.is_dir()) {
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (true, true) if node.entries > 0 => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let op = Op::Unlink { dir: parent_dir.id, name: name.to_vec() };
        let gone = self.emit(state, op, replaced(&entry, &node))?;
        self.orphaned(state, gone);
        Ok(())
    }

    /// Gives a new file the access control lists that its directory says it has, and then its mode: nobody has more access
    /// meanwhile.
    fn bequeath(
        &self,
        state: &mut State,
        ino: u64,
        list: &Inherited,
        mode: u32,
    ) -> Result<(), Errno> {
        let node = state.node(ino)?;
        let access = (!list.access.is_minimal()).then(|| (acl::ACCESS, list.access.encode()));
        let default = list.default.as_ref().map(|default| (acl::DEFAULT, default.encode()));
        for (name, value) in access.into_iter().chain(default) {
            let op = Op::Xattr { file: node.id, name: name.to_vec(), value: Some(value) };
            self.emit(state, op, Vec::new())?;
        }
        if mode != node.permissions.mode {
            let attrs = Attrs { mode: Some(mode), ..Attrs::default() };
            self.emit(state, Op::Set { file: node.id, attrs }, parent(node.set))?;
        }
        Ok(())
    }

    /// Has the access control list of a file, if there is one, say what its new mode does.
    fn mode_to_acl(
        &self,
        state: &mut State,
        ino: u64,
        node: &Node,
        mode: u32,
    ) -> Result<(), Errno> {
        if !node.has_xattrs {
            return Ok(());
        }
        let found = state.tree.xattr(ino, acl::ACCESS).map_err(|error| failed(&error))?;
        let Some(xattr) = found else { return Ok(()) };
        let Some(mut acl) = Acl::parse(&xattr.value) else { return Ok(()) };
        acl.set_mode(mode);
        let (name, value) = (acl::ACCESS.to_vec(), Some(acl.encode()));
        self.emit(state, Op::Xattr { file: node.id, name, value }, parent(xattr.set))?;
        Ok(())
    }

    /// Removes a file that has no name any more, once nobody uses it.
    pub(super) fn orphaned(&self, state: &mut State, gone: Option<u64>) {
        if let Some(ino) = gone {
            state.uses.of(ino).is_orphan = true;
            self.end_use(state, ino);
        }
    }

    /// Forgets a file that nobody uses; removes it if it has no name either.
    pub(super) fn end_use(&self, state: &mut State, ino: u64) {
        let backing = state.uses.backing(ino).cloned();
        if !state.uses.end(ino) {
            return;
        }
        // After a crash the removal of the name could be lost, so the content stays until that is durable.
        state.doomed.extend(backing.map(|backing| backing.doom()));
        state.end_base(ino);
        let at = state.tree.state.hlc;
        match state.tree.bury(ino, at, &Rest::default()) {
            Ok(None) => {}
            Ok(Some(rest)) => state.unburied.push((ino, rest)),
            Err(error) => {
                state.is_broken = true;
                failed(&error);
            }
        }
    }

    /// Removes what is left of removed files that had many extended attributes, in pieces.
    pub(super) fn bury_rest(&self) -> Result<(), VolumeError> {
        loop {
            let mut state = self.lock();
            let Some((ino, rest)) = state.unburied.pop() else { return Ok(()) };
            // It may be wanted again: another node has given it a name.
            let is_gone = state.tree.find(ino)?.is_some_and(|node| node.links == 0);
            if state.uses.get(ino).is_none() && is_gone {
                let at = state.tree.state.hlc;
                let rest = state.tree.bury(ino, at, &rest)?;
                state.unburied.extend(rest.map(|rest| (ino, rest)));
            }
        }
    }
}

impl State {
    /// Returns the number that a file gets if it is made next.
    pub(super) fn next_ino(&self) -> u64 {
        self.tree.state.applied + 1 + ROOT
    }

    pub(super) fn child(&self, dir: u64, name: &[u8]) -> Result<Option<Entry>, Errno> {
        if name.len() > NAME_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        self.tree.entry(dir, name).map_err(|error| failed(&error))
    }

    /// Returns a directory in which a name is free.
    fn free(&self, dir: u64, name: &[u8]) -> Result<Node, Errno> {
        let node = self.dir(dir)?;
        if node.links == 0 {
            return Err(Errno::ENOENT);
        }
        if name.is_empty()
            || name == b"."
            || name == b".."
            || name.contains(&b'/')
            || name.contains(&0)
        {
            return Err(Errno::EINVAL);
        }
        if self.child(dir, name)?.is_some() { Err(Errno::EEXIST) } else { Ok(node) }
    }

    /// Returns the default access control list that a new file gets from its directory.
    fn inherited(&self, dir: u64, node: &Node, kind: &Kind) -> Result<Option<Acl>, Errno> {
        if !node.has_xattrs || matches!(kind, Kind::Symlink(_)) {
            return Ok(None);
        }
        let found = self.tree.xattr(dir, acl::DEFAULT).map_err(|error| failed(&error))?;
        Ok(found.and_then(|xattr| Acl::parse(&xattr.value)))
    }

    /// Tells whether a directory is another one or below it.
    pub(super) fn is_within(&self, mut dir: u64, other: u64) -> Result<bool, Errno> {
        while dir != other {
            if dir == ROOT {
                return Ok(false);
            }
            dir = self.dir(dir)?.parent;
        }
        Ok(true)
    }

    pub(super) fn found(&self, ino: u64) -> Result<Found, Errno> {
        let node = self.node(ino)?;
        let mut attr = Attr {
            kind: kind_of(&node.kind),
            mode: node.permissions.mode,
            uid: node.permissions.uid,
            gid: node.permissions.gid,
            bytes: bytes_of(&node),
            blocks: bytes_of(&node).div_ceil(PAGE_BYTES) * (PAGE_BYTES / BLOCK_BYTES),
            links: node.links,
            rdev: match node.kind {
                Kind::Char(number) | Kind::Block(number) => number,
                _ => 0,
            },
            mtime: time(node.modified),
            ctime: time(node.changed),
            ino,
            dev: 0,
        };
        let mut is_written = false;
        if let Some(it) = self.uses.get(ino)
            && let Some(backing) = &it.backing
        {
            let stat = backing.stat().map_err(|error| super::changes::errno(&error))?;
            attr.bytes = u64::try_from(stat.st_size).unwrap_or(0);
            attr.blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            // Another node may have set the time of what is in the tables.
            if backing.has_news() {
                attr.mtime = time(backing::modified(&stat));
                attr.ctime = attr.ctime.max(attr.mtime);
            }
            is_written = it.writers > 0 || it.is_mapped;
        }
        Ok(Found { attr, accessed: time(node.accessed), is_written })
    }
}

/// The events that the removal of a name replaces: the one that gave it, and the one that wrote the content, without which the
/// file would come back.
pub(super) fn replaced(entry: &Entry, node: &Node) -> Vec<Dot> {
    let mut parents = parent(entry.bound);
    if node.is_file() {
        parents.extend(parent(node.written));
    }
    parents
}

/// Returns the mode that a file keeps when somebody sets its access control list: the set-id bit of a group is for members only.
fn kept_for(caller: Caller, node: &Node) -> u32 {
    let Permissions { mode, gid, .. } = node.permissions;
    // Of the caller's groups only this one is known.
    if caller.uid == 0 || caller.gid == gid { mode } else { mode & !SET_GID }
}

fn may_replace(node: &Node, other: &Node) -> Result<(), Errno> {
    match (node.is_dir(), other.is_dir()) {
        (true, false) => Err(Errno::ENOTDIR),
        (false, true) => Err(Errno::EISDIR),
        (true, true) if other.entries > 0 => Err(Errno::ENOTEMPTY),
        _ => Ok(()),
    }
}

pub(super) fn bytes_of(node: &Node) -> u64 {
    match &node.kind {
        Kind::File => node.content.bytes,
        Kind::Symlink(target) => target.len() as u64,
        Kind::Dir => 4096,
        _ => 0,
    }
}

pub(super) fn kind_of(kind: &Kind) -> tree::Kind {
    match kind {
        Kind::File => tree::Kind::File,
        Kind::Dir => tree::Kind::Dir,
        Kind::Symlink(_) => tree::Kind::Symlink,
        Kind::Fifo => tree::Kind::Fifo,
        Kind::Socket => tree::Kind::Socket,
        Kind::Char(_) => tree::Kind::Char,
        Kind::Block(_) => tree::Kind::Block,
    }
}

pub(super) fn time(nanos: i64) -> Time {
    const SECOND: i64 = 1_000_000_000;
    let within = u32::try_from(nanos.rem_euclid(SECOND)).unwrap_or(0);
    Time { seconds: nanos.div_euclid(SECOND), nanos: within }
}
