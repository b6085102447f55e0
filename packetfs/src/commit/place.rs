//! A name in an open directory: what a commit changes, whatever becomes of the path meanwhile.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::tree::{Attr, Kind, names_in, split};

/// A name in an open directory.
pub(super) struct Place<'a> {
    pub(super) dir: OwnedFd,
    pub(super) name: &'a OsStr,
}

impl<'a> Place<'a> {
    /// Opens the directory of `path`, following no symbolic link: the runner saw real directories.
    pub(super) fn of(path: &'a [u8]) -> io::Result<Self> {
        let (dir, name) = split(path).ok_or(io::ErrorKind::InvalidInput)?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let dir = nix::fcntl::openat2(AT_FDCWD, OsStr::from_bytes(dir), how)?;
        Ok(Self { dir, name: OsStr::from_bytes(name) })
    }

    pub(super) fn attr(&self) -> io::Result<Option<Attr>> {
        match fstatat(&self.dir, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Attr::of(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn open(&self, flags: OFlag, mode: u32) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        Ok(openat(&self.dir, self.name, flags, Mode::from_bits_truncate(mode))?)
    }

    /// Opens a regular file that is there. Whatever else has taken its name, nobody waits for it.
    pub(super) fn open_file(&self, flags: OFlag) -> io::Result<File> {
        let file = File::from(self.open(flags | OFlag::O_NONBLOCK, 0)?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(file)
    }

    /// Removes what is there, if anything.
    pub(super) fn clear(&self) -> io::Result<()> {
        match self.attr()? {
            None => Ok(()),
            Some(Attr { kind: Kind::Dir, .. }) => remove_tree(&self.dir, self.name),
            Some(_) => Ok(unlinkat(&self.dir, self.name, UnlinkatFlags::NoRemoveDir)?),
        }
    }
}

fn remove_tree(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    // What is mounted below it is not part of it.
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    let child = nix::fcntl::openat2(dir, name, how)?;
    for name in names_in(&child)? {
        Place { dir: child.try_clone()?, name: OsStr::from_bytes(&name) }.clear()?;
    }
    Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}
