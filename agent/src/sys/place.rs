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

impl Place {
    /// Returns the file at a path, following symbolic links.
    pub(crate) fn at(path: &str) -> io::Result<Self> {
        statx(fs::CWD, path, AtFlags::empty())
    }

    /// Returns the file that a descriptor is open on.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        statx(fd, "", AtFlags::EMPTY_PATH)
    }
}

fn statx(dir: impl AsFd, path: &str, flags: AtFlags) -> io::Result<Place> {
    let mask = StatxFlags::TYPE | StatxFlags::INO | StatxFlags::MNT_ID;
    let found = fs::statx(dir, path, flags | AtFlags::STATX_DONT_SYNC, mask)?;
    let knows_mounts = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    Ok(Place {
        mount: if knows_mounts { found.stx_mnt_id } else { 0 },
        dev: fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        kind: u32::from(found.stx_mode) & libc::S_IFMT,
    })
}
