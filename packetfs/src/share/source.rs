//! Reads the ordinary directory of a share, with the rights of its user. Follows no symbolic links, and does not go into other
//! file systems.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use worknode::history::{Kind, Nanos, Permissions};

use super::known::Stamp;
use super::rules::BYTES_MAX;
use crate::export::is_private_key;
use crate::identity::{Identity, Owner};
use crate::path::Bytes;
use crate::volume::{Like, Ordinary};

/// The error for a file that is secret.
pub(super) const SECRET: Errno = Errno::EKEYREJECTED;
/// Longest first line of a private key.
const KEY_LINE_BYTES_MAX: usize = 64;

/// A file of a directory.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) name: Bytes,
    pub(super) kind: Kind,
    pub(super) stamp: Stamp,
    /// How many names the file has.
    pub(super) links: u64,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) stamp: Stamp,
    pub(super) blocks: u64,
}

/// The directory.
#[derive(Debug)]
pub(super) struct Source {
    top: PathBuf,
    owner: Option<Owner>,
    /// Device and number that the top must have.
    expected: Option<(u64, u64)>,
}

impl Source {
    pub(super) fn new(top: &Path, owner: Option<Owner>) -> Self {
        Self { top: top.to_owned(), owner, expected: None }
    }

    /// Has everything fail from now on if another directory has the path.
    pub(super) fn expect(&mut self, top: Option<(u64, u64)>) {
        self.expected = top;
    }

    /// Returns whose files are made.
    pub(super) fn uid(&self) -> u32 {
        self.owner.as_ref().map_or_else(|| nix::unistd::geteuid().as_raw(), |it| it.uid)
    }

    /// Tells whether files are made with the rights of the superuser.
    pub(super) fn is_root(&self) -> bool {
        self.uid() == 0
    }

    /// Returns the path of a directory below the top.
    pub(super) fn path(&self, dir: &[u8]) -> Bytes {
        let path =
            if dir.is_empty() { self.top.clone() } else { self.top.join(OsStr::from_bytes(dir)) };
        path.into_os_string().into_vec()
    }

    /// Returns device and number of the top directory.
    pub(super) fn top(&self) -> io::Result<(u64, u64)> {
        self.as_user(|| {
            let stat = rustix::fs::fstat(self.open_top()?)?;
            Ok((stat.st_dev, stat.st_ino))
        })
    }

    /// Does something with the rights of the user.
    pub(super) fn as_user<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let _identity = self.owner.as_ref().map(Identity::assume).transpose()?;
        act()
    }

    /// Returns a directory's attributes, and its files.
    pub(super) fn list(&self, dir: &[u8], cancel: &AtomicBool) -> io::Result<(Stamp, Vec<Item>)> {
        self.as_user(|| {
            let opened = self.open_at(dir, OFlags::DIRECTORY)?;
            let own = stamp(&rustix::fs::fstat(&opened)?);
            let mut items = Vec::new();
            for entry in rustix::fs::Dir::read_from(&opened)? {
                let entry = entry?;
                if cancel.load(Ordering::Relaxed) {
                    return Err(io::Error::from_raw_os_error(libc::ECANCELED));
                }
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let stat = match rustix::fs::statat(&opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(error) => return Err(error.into()),
                };
                let Some(kind) = kind(&opened, name, &stat) else { continue };
                let (name, links) = (name.to_vec(), stat.st_nlink);
                items.push(Item { name, kind, stamp: stamp(&stat), links });
            }
            Ok((own, items))
        })
    }

    /// Tells whether a file is at a place.
    pub(super) fn is_at(&self, (dir, name): &(Bytes, Bytes), file: &Stamp) -> bool {
        let found = self.as_user(|| {
            let dir = self.open_at(dir, OFlags::DIRECTORY)?;
            Ok(stamp(&rustix::fs::statat(&dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?))
        });
        found.is_ok_and(|found| (found.dev, found.ino) == (file.dev, file.ino))
    }

    /// Opens a regular file, unless it is secret by its content ([`SECRET`]).
    pub(super) fn open(&self, path: &[u8]) -> io::Result<Opened> {
        self.as_user(|| {
            // It may have become a pipe meanwhile.
            let file = File::from(self.open_at(path, OFlags::NONBLOCK)?);
            let stat = rustix::fs::fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(io::ErrorKind::NotFound.into());
            }
            let mut start = [0; KEY_LINE_BYTES_MAX];
            let count = file.read_at(&mut start, 0)?;
            if is_private_key(&self.path(path), &start[..count]) {
                return Err(io::Error::from_raw_os_error(SECRET as i32));
            }
            let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
            Ok(Opened { stamp: stamp(&stat), blocks, file })
        })
    }

    /// Reads a file of rules, but not much more than may be in it.
    pub(super) fn text(&self, path: &[u8]) -> io::Result<(Bytes, Stamp)> {
        let opened = self.open(path)?;
        let mut text = Vec::new();
        opened.file.take(BYTES_MAX + 1).read_to_end(&mut text)?;
        Ok((text, opened.stamp))
    }

    /// Opens a file below the top, without following links and without leaving its file system.
    pub(super) fn open_at(&self, path: &[u8], flags: OFlags) -> io::Result<rustix::fd::OwnedFd> {
        let top = self.open_top()?;
        if let Some(expected) = self.expected {
            let stat = rustix::fs::fstat(&top)?;
            if (stat.st_dev, stat.st_ino) != expected {
                return Err(io::Error::from_raw_os_error(libc::ESTALE));
            }
        }
        let below = if path.is_empty() { b"." } else { path };
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV | ResolveFlags::BENEATH;
        let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat2(top, below, flags, Mode::empty(), how)?)
    }

    fn open_top(&self) -> io::Result<rustix::fd::OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(&self.top, flags, Mode::empty())?)
    }
}

impl Opened {
    /// Returns whether it is still what it was when it was opened.
    pub(super) fn is_same(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|stat| stamp(&stat) == self.stamp)
    }

    /// Returns it as the volume takes it over.
    pub(super) fn ordinary<'a>(&'a self, cancel: &'a AtomicBool) -> Ordinary<'a> {
        let (bytes, like) = (self.stamp.bytes, self.stamp.like());
        Ordinary { file: &self.file, bytes, blocks: self.blocks, like, cancel }
    }
}

/// Returns the error of a file that cannot be read. One of the ordinary disk is not one of the volume.
pub(super) fn failure(error: io::Error) -> Errno {
    let errno = error.raw_os_error().map_or(Errno::ENOENT, Errno::from_raw);
    if errno == Errno::EIO { Errno::EREMOTEIO } else { errno }
}

/// Returns what a file is. Pipes, sockets and devices belong to a machine and are not shared.
fn kind(dir: &rustix::fd::OwnedFd, name: &[u8], stat: &Stat) -> Option<Kind> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Some(Kind::File),
        FileType::Directory => Some(Kind::Dir),
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(dir, name, Vec::new()).ok()?;
            Some(Kind::Symlink(target.into_bytes()))
        }
        _ => None,
    }
}

pub(super) fn stamp(stat: &Stat) -> Stamp {
    Stamp {
        dev: stat.st_dev,
        ino: stat.st_ino,
        bytes: u64::try_from(stat.st_size).unwrap_or(0),
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        modified: nanos(stat.st_mtime, stat.st_mtime_nsec),
        changed: nanos(stat.st_ctime, stat.st_ctime_nsec),
    }
}

fn nanos(seconds: i64, nanos: u64) -> Nanos {
    seconds.saturating_mul(1_000_000_000).saturating_add(i64::try_from(nanos).unwrap_or(0))
}

impl Stamp {
    /// Returns what the file is to be in the volume.
    pub(super) fn like(&self) -> Like {
        let permissions = Permissions { mode: self.mode, uid: self.uid, gid: self.gid };
        Like { permissions, modified: self.modified }
    }
}
