//! Identifies files by `statx` from the kernel's cache, without a request to a file server.

use std::io;
use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, StatxFlags};

/// The identity of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// The id of its mount, 0 on kernels before 5.8. A bind mount of `/` differs from `/` only by this.
    pub(crate) mount: u64,
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    /// The type, as in `st_mode`.
    pub(crate) kind: u32,
}

/// A file as it was when it was looked at: another one differs, and so does one that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Stamp {
    dev: u64,
    ino: u64,
    /// `st_mode`.
    pub(crate) mode: u32,
    pub(crate) bytes: u64,
    modified: (i64, u32),
    changed: (i64, u32),
}

impl Stamp {
    /// Returns that of what a descriptor is open on.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        let found = statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
        Ok(Self {
            dev: fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            ino: found.stx_ino,
            mode: u32::from(found.stx_mode),
            bytes: found.stx_size,
            modified: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        })
    }
}

impl Place {
    /// Returns the file at a path, following symbolic links.
    pub(crate) fn at(path: &str) -> io::Result<Self> {
        Ok(Self::found(&statx(fs::CWD, path, AtFlags::empty(), Self::mask())?))
    }

    /// Returns the file that a descriptor is open on.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::found(&statx(fd, "", AtFlags::EMPTY_PATH, Self::mask())?))
    }

    fn mask() -> StatxFlags {
        StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID
    }

    fn found(found: &fs::Statx) -> Self {
        let knows_mounts =
            StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
        Self {
            mount: if knows_mounts { found.stx_mnt_id } else { 0 },
            dev: fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            ino: found.stx_ino,
            kind: u32::from(found.stx_mode) & libc::S_IFMT,
        }
    }
}

fn statx(dir: impl AsFd, path: &str, flags: AtFlags, mask: StatxFlags) -> io::Result<fs::Statx> {
    Ok(fs::statx(dir, path, flags | AtFlags::STATX_DONT_SYNC, mask)?)
}
