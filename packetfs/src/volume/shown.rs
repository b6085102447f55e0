//! A volume as one mount shows it: the tree with `.oswalk`, where its past is, or the tree of a moment.
//!
//! It answers for the files of [`super::special`]; all others are the volume's. What is special cannot be changed.

use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use worknode::history::{Attrs, Hlc, Kind};

use super::files::{Io, Opened};
use super::handles::Page;
use super::key::PIN;
use super::model::Volume;
use super::names::{Caller, Found, Make, Moving};
use super::node::ROOT;
use super::past::told;
use super::special::{self, NAME, Numbers, Open, Opening, Place, is_special};
use super::{looks, marks};
use crate::tree::Xattr;

/// Cache lifetime: until the kernel changes it, or is told.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// Who may read a former version depends on the file as it is now.
const BRIEF: Duration = Duration::from_secs(1);

/// A volume as one mount shows it.
#[derive(Debug)]
pub struct Shown {
    volume: Arc<Volume>,
    /// The moment, unless the tree is shown as it is.
    moment: Option<Hlc>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    numbers: Numbers,
    open: Open,
}

/// What has no answer here is the volume's, which knows no special files.
impl Deref for Shown {
    type Target = Volume;

    fn deref(&self) -> &Volume {
        &self.volume
    }
}

impl Shown {
    /// Shows the tree as it is.
    #[must_use]
    pub fn live(volume: Arc<Volume>) -> Self {
        Self { volume, moment: None, inner: Mutex::default() }
    }

    /// Shows the tree as it was at a moment.
    ///
    /// # Errors
    /// `ENOENT` if the moment is not over yet, or too long ago.
    pub fn at(volume: Arc<Volume>, moment: Hlc) -> Result<Self, Errno> {
        let moment = volume.shared.as_now()?.kept_moment(moment)?;
        let numbers = Numbers::with_root(ROOT, Place::At(moment, ROOT));
        Ok(Self {
            volume,
            moment: Some(moment),
            inner: Mutex::new(Inner { numbers, ..Inner::default() }),
        })
    }

    /// Tells whether it shows the tree as it is.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.moment.is_none()
    }

    /// Returns how long the kernel may keep attributes without being told.
    #[must_use]
    pub fn attr_lifetime(&self, found: &Found) -> Duration {
        match found.is_written {
            true => Duration::ZERO,
            false if self.moment.is_some() || is_special(found.attr.ino) => BRIEF,
            false => FOR_EVER,
        }
    }

    /// Returns how long the kernel may keep what a name in a directory leads to.
    #[must_use]
    pub fn name_lifetime(&self, dir: u64) -> Duration {
        match self.place(dir) {
            Some(Place::Versions(_) | Place::Moments) => Duration::ZERO,
            _ => FOR_EVER,
        }
    }

    /// Tells whether a file is of the past: how long it takes to look at it depends on how much was done.
    #[must_use]
    pub fn is_past(&self, ino: u64) -> bool {
        self.moment.is_some() || is_special(ino)
    }

    /// See [`Volume::lookup`].
    ///
    /// # Errors
    /// The same, and `ENFILE` if the user has looked up too much of the past that the kernel has not forgotten.
    pub fn lookup(&self, dir: u64, name: &[u8], uid: u32) -> Result<Found, Errno> {
        let below = match self.place(dir) {
            Some(place) => self.shared.step(&self.shared.as_now()?, &place, name)?,
            None if (dir, name) == (ROOT, NAME) => Place::Top,
            None => return self.volume.lookup(dir, name),
        };
        let mut found = self.shared.as_now()?.look(&below, 0)?;
        found.attr.ino = self.lock().numbers.known(below, uid).ok_or(Errno::ENFILE)?;
        Ok(found)
    }

    /// See [`Volume::forget`].
    pub fn forget(&self, ino: u64, lookups: u64) {
        if self.place(ino).is_some() {
            self.lock().numbers.forget(ino, lookups);
        } else {
            self.volume.forget(ino, lookups);
        }
    }

    /// See [`Volume::attr`].
    ///
    /// # Errors
    /// The same.
    pub fn attr(&self, ino: u64) -> Result<Found, Errno> {
        match self.place(ino) {
            Some(place) => self.shared.as_now()?.look(&place, ino),
            None => self.volume.attr(ino),
        }
    }

    /// See [`Volume::set_attr`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn set_attr(
        &self,
        ino: u64,
        attrs: Attrs,
        size: Option<u64>,
        caller: Caller,
    ) -> Result<Found, Errno> {
        self.changeable(ino)?;
        self.volume.set_attr(ino, attrs, size, caller)
    }

    /// See [`Volume::target`].
    ///
    /// # Errors
    /// The same.
    pub fn target(&self, ino: u64) -> Result<Vec<u8>, Errno> {
        let node = match self.place(ino) {
            Some(Place::At(moment, ino)) => self.shared.as_now()?.node_at(ino, moment)?,
            Some(_) => return Err(Errno::EINVAL),
            None => return self.volume.target(ino),
        };
        match node.kind {
            Kind::Symlink(target) => Ok(target),
            _ => Err(Errno::EINVAL),
        }
    }

    /// See [`Volume::make`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn make(&self, dir: u64, name: &[u8], make: Make, caller: Caller) -> Result<Found, Errno> {
        self.free(dir, name)?;
        self.volume.make(dir, name, make, caller)
    }

    /// See [`Volume::create`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn create(
        &self,
        (dir, name): (u64, &[u8]),
        (mode, umask): (u32, u32),
        flags: i32,
        caller: Caller,
    ) -> Result<(Found, Opened), Errno> {
        self.free(dir, name)?;
        self.volume.create((dir, name), (mode, umask), flags, caller)
    }

    /// See [`Volume::link`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn link(&self, ino: u64, dir: u64, name: &[u8]) -> Result<Found, Errno> {
        self.changeable(ino)?;
        self.free(dir, name)?;
        self.volume.link(ino, dir, name)
    }

    /// See [`Volume::remove_for`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn remove(&self, dir: u64, name: &[u8], is_dir: bool, caller: Caller) -> Result<(), Errno> {
        self.removable(dir, name)?;
        self.volume.remove_for(dir, name, is_dir, caller)
    }

    /// See [`Volume::rename`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), how: Moving) -> Result<(), Errno> {
        self.removable(from.0, from.1)?;
        self.removable(to.0, to.1)?;
        self.volume.rename(from, to, how)
    }

    /// See [`Volume::xattr`]. Of a former version only what users have set is shown.
    ///
    /// # Errors
    /// The same.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        match self.place(ino) {
            Some(place) => {
                let all = self.former_xattrs(&place)?;
                all.into_iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value)
                    .ok_or(Errno::ENODATA)
            }
            None if name.starts_with(marks::PREFIX) => self.mark(ino, name),
            None => self.volume.xattr(ino, name),
        }
    }

    /// See [`Volume::xattrs`].
    ///
    /// # Errors
    /// The same.
    pub fn xattrs(&self, ino: u64) -> Result<Vec<Vec<u8>>, Errno> {
        match self.place(ino) {
            Some(place) => {
                Ok(self.former_xattrs(&place)?.into_iter().map(|(name, _)| name).collect())
            }
            None => {
                let mut names = self.volume.xattrs(ino)?;
                names.retain(|name| name != PIN);
                Ok(names)
            }
        }
    }

    fn former_xattrs(&self, place: &Place) -> Result<Vec<Xattr>, Errno> {
        let Place::At(moment, ino) = place else { return Ok(Vec::new()) };
        let mut all = told(self.shared.as_now()?.xattrs_at(*ino, *moment))?;
        all.retain(|(name, _)| name.starts_with(b"user."));
        Ok(all)
    }

    /// See [`Volume::set_xattr`]. Some attributes are commands.
    ///
    /// # Errors
    /// The same, `EROFS`, and `ENOENT` or `EACCES` for a version to be chosen.
    pub fn set_xattr(
        &self,
        ino: u64,
        name: &[u8],
        value: Option<&[u8]>,
        flags: i32,
        caller: Caller,
    ) -> Result<(), Errno> {
        self.changeable(ino)?;
        if name.starts_with(marks::PREFIX) {
            return self.set_mark(ino, name, value.ok_or(Errno::EPERM)?, caller);
        }
        if name == PIN {
            return Err(Errno::EPERM);
        }
        check_xattr_name(name)?;
        self.volume.set_xattr(ino, name, value, flags, caller)
    }

    /// See [`Volume::open_file`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn open_file(&self, ino: u64, flags: i32, caller: Caller) -> Result<Opened, Errno> {
        let Some(place) = self.place(ino) else {
            return self.volume.open_file(ino, flags, caller);
        };
        if flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0 {
            return Err(Errno::EROFS);
        }
        let _kept = self.shared.keep_packets();
        let content = self.shared.as_now()?.content_of(&place)?;
        let reader = self.shared.lock().readers.add(content);
        let opened = self.lock().open.add(caller.uid, Opening::File(reader));
        let Some(id) = opened else {
            self.shared.lock().readers.remove(reader);
            return Err(Errno::ENFILE);
        };
        Ok(Opened { handle: special::handle(id), io: Io::Asks { keep: true, caches: true } })
    }

    /// See [`Volume::release`].
    pub fn release(&self, ino: u64, handle: u64) {
        match is_special(handle) {
            true => self.close_file(handle),
            false => self.volume.release(ino, handle),
        }
    }

    /// See [`Volume::close_file`].
    pub fn close_file(&self, handle: u64) {
        if !is_special(handle) {
            return self.volume.close_file(handle);
        }
        let closed = self.lock().open.remove(special::id(handle));
        if let Some(Opening::File(reader)) = closed {
            self.shared.lock().readers.remove(reader);
        }
    }

    /// See [`Volume::read`].
    ///
    /// # Errors
    /// The same.
    pub fn read(&self, ino: u64, offset: u64, size: usize) -> Result<Vec<u8>, Errno> {
        let Some(place) = self.place(ino) else { return self.volume.read(ino, offset, size) };
        let content = self.shared.as_now()?.content_of(&place)?;
        self.shared
            .library
            .read(&content, offset, size)
            .map_err(|error| super::changes::errno(&error))
    }

    /// See [`Volume::read_here`].
    ///
    /// # Errors
    /// The same.
    pub fn read_here(&self, ino: u64, offset: u64, size: usize) -> Result<Option<Vec<u8>>, Errno> {
        if self.is_past(ino) { Ok(None) } else { self.volume.read_here(ino, offset, size) }
    }

    /// See [`Volume::write`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn write(&self, ino: u64, offset: u64, data: &[u8], strips: bool) -> Result<usize, Errno> {
        self.changeable(ino)?;
        self.volume.write(ino, offset, data, strips)
    }

    /// See [`Volume::allocate`].
    ///
    /// # Errors
    /// The same, and `EROFS`.
    pub fn allocate(&self, ino: u64, mode: u32, offset: u64, bytes: u64) -> Result<(), Errno> {
        self.changeable(ino)?;
        self.volume.allocate(ino, mode, offset, bytes)
    }

    /// See [`Volume::seek`].
    ///
    /// # Errors
    /// The same.
    pub fn seek(&self, ino: u64, offset: u64, whence: i32) -> Result<u64, Errno> {
        let Some(place) = self.place(ino) else { return self.volume.seek(ino, offset, whence) };
        let content = self.shared.as_now()?.content_of(&place)?;
        self.shared.seek(&content, offset, whence)
    }

    /// See [`Volume::copy`]. A program that gets `EXDEV` copies by reading and writing.
    ///
    /// # Errors
    /// The same.
    pub fn copy(&self, from: (u64, u64), to: (u64, u64), bytes: u64) -> Result<u64, Errno> {
        self.changeable(to.0)?;
        if self.place(from.0).is_some() {
            return Err(Errno::EXDEV);
        }
        self.volume.copy(from, to, bytes)
    }

    /// See [`Volume::sync_file`].
    ///
    /// # Errors
    /// The same.
    pub fn sync_file(&self, ino: u64) -> Result<(), Errno> {
        if self.place(ino).is_some() { Ok(()) } else { self.volume.sync_file(ino) }
    }

    /// See [`Volume::open_dir`].
    ///
    /// # Errors
    /// The same.
    pub fn open_dir(&self, ino: u64, uid: u32) -> Result<u64, Errno> {
        let Some(place) = self.place(ino) else { return self.volume.open_dir(ino, uid) };
        let names = self.shared.names(&self.shared.as_now()?, &place)?;
        let entries = looks::entries(ino, names).into();
        let id = self.lock().open.add(uid, Opening::Dir(entries)).ok_or(Errno::ENFILE)?;
        Ok(special::handle(id))
    }

    /// See [`Volume::read_dir`]. The names of a special directory are those of its opening.
    ///
    /// # Errors
    /// The same.
    pub fn read_dir(&self, handle: u64, position: u64) -> Result<Page, Errno> {
        if !is_special(handle) {
            return self.volume.read_dir(handle, position);
        }
        match self.lock().open.get(special::id(handle)) {
            Some(Opening::Dir(entries)) => Ok(Page::all(Arc::clone(entries))),
            _ => Err(Errno::EBADF),
        }
    }

    /// See [`Volume::close_dir`].
    pub fn close_dir(&self, handle: u64) {
        if is_special(handle) {
            self.lock().open.remove(special::id(handle));
        } else {
            self.volume.close_dir(handle);
        }
    }

    fn place(&self, ino: u64) -> Option<Place> {
        (self.moment.is_some() || is_special(ino)).then(|| self.lock().numbers.place(ino))?
    }

    fn changeable(&self, ino: u64) -> Result<(), Errno> {
        if self.moment.is_some() || is_special(ino) { Err(Errno::EROFS) } else { Ok(()) }
    }

    fn free(&self, dir: u64, name: &[u8]) -> Result<(), Errno> {
        self.changeable(dir)?;
        if (dir, name) == (ROOT, NAME) { Err(Errno::EEXIST) } else { Ok(()) }
    }

    fn removable(&self, dir: u64, name: &[u8]) -> Result<(), Errno> {
        self.changeable(dir)?;
        if (dir, name) == (ROOT, NAME) { Err(Errno::EROFS) } else { Ok(()) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses the names of extended attributes that ext4 refuses.
fn check_xattr_name(name: &[u8]) -> Result<(), Errno> {
    const SPACES: [&[u8]; 3] = [b"user.", b"trusted.", b"security."];
    const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
    if SPACES.contains(&name) {
        return Err(Errno::EINVAL);
    }
    let is_known = ACLS.contains(&name) || SPACES.iter().any(|space| name.starts_with(space));
    if is_known { Ok(()) } else { Err(Errno::EOPNOTSUPP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_extended_attributes_are_those_of_ext4() {
        for name in ["user.a", "trusted.a", "security.capability", "system.posix_acl_access"] {
            assert_eq!(check_xattr_name(name.as_bytes()), Ok(()), "{name}");
        }
        assert_eq!(check_xattr_name(b"user."), Err(Errno::EINVAL));
        for name in ["a", "user", "system.a", "os2.a"] {
            assert_eq!(check_xattr_name(name.as_bytes()), Err(Errno::EOPNOTSUPP), "{name}");
        }
    }
}
