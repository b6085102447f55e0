//! A name in an open directory. Commits operate on these, so that concurrent changes of the path do not matter.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::path::{Bytes, split};
use crate::tree::{Attr, names_in};

/// Deepest nesting that is removed. Paths that a system call accepts have at most 2,048 levels; beyond the limit, the
/// race against a process that creates directories faster is given up.
const LEVELS_MAX: usize = 100_000;

/// A name in an open directory.
pub(super) struct Place<'a> {
    pub(super) dir: OwnedFd,
    pub(super) name: &'a OsStr,
}

impl<'a> Place<'a> {
    /// Opens the directory of `path` without following symbolic links: the runner saw real directories.
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

    /// Opens an existing regular file. Does not block if something else (a fifo) has its name.
    pub(super) fn open_file(&self, flags: OFlag) -> io::Result<File> {
        let file = File::from(self.open(flags | OFlag::O_NONBLOCK, 0)?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(file)
    }

    /// Removes whatever has the name, recursively.
    pub(super) fn clear(&self) -> io::Result<()> {
        remove_all(&self.dir, self.name)
    }

    /// Removes the file, unless it is a directory.
    pub(super) fn remove_file(&self) -> io::Result<()> {
        match unlinkat(&self.dir, self.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// An ancestor of the directory that is being emptied.
struct Level {
    /// Its file system and inode.
    id: (u64, u64),
    /// The name in it that is being emptied.
    name: Bytes,
    /// Names in it that remain to be removed.
    rest: Vec<Bytes>,
}

/// Removes a name recursively. Others control the depth, so this needs no stack or descriptor per level: it returns by
/// `..`, and checks that this leads to where it came from.
fn remove_all(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    let mut levels: Vec<Level> = Vec::new();
    let (mut here, mut names) = (dir.try_clone()?, vec![name.as_bytes().to_vec()]);
    loop {
        let Some(name) = names.pop() else {
            let Some(Level { id, name, rest }) = levels.pop() else { return Ok(()) };
            here = if levels.is_empty() { dir.try_clone()? } else { parent(&here, id)? };
            unlinkat(&here, OsStr::from_bytes(&name), UnlinkatFlags::RemoveDir)?;
            names = rest;
            continue;
        };
        if is_removed(&here, OsStr::from_bytes(&name))? {
            continue;
        }
        if levels.len() == LEVELS_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let child = open_dir(&here, &name, OFlag::O_RDONLY)?;
        levels.push(Level { id: id(&here)?, name, rest: names });
        names = names_in(&child)?;
        here = child;
    }
}

/// Removes a name. Returns false if it is a non-empty directory.
fn is_removed(dir: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let removed = match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(dir, name, UnlinkatFlags::RemoveDir),
        removed => removed,
    };
    match removed {
        Ok(()) | Err(Errno::ENOENT) => Ok(true),
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens the parent directory, and checks that it is the expected one: the directory may have been moved.
fn parent(dir: &OwnedFd, expected: (u64, u64)) -> io::Result<OwnedFd> {
    let parent = open_dir(dir, b"..", OFlag::O_PATH)?;
    if id(&parent)? != expected {
        return Err(io::Error::other(
            "another process has moved a directory that is being removed",
        ));
    }
    Ok(parent)
}

/// Opens a directory in another. Mount points are refused.
fn open_dir(dir: &OwnedFd, name: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_XDEV);
    Ok(nix::fcntl::openat2(dir, OsStr::from_bytes(name), how)?)
}

fn id(dir: &OwnedFd) -> io::Result<(u64, u64)> {
    let stat = fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}
