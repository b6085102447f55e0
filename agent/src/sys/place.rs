//! Identifies files by `statx` from the kernel's cache, without a request to a file server. \[unsafe\]: nix has no `statx`.
#![expect(unsafe_code, reason = "statx has no safe wrapper in nix")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};

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
        statx(libc::AT_FDCWD, path, 0)
    }

    /// Returns the file that a descriptor is open on.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        statx(fd.as_fd().as_raw_fd(), "", libc::AT_EMPTY_PATH)
    }
}

fn statx(dir: RawFd, path: &str, flags: libc::c_int) -> io::Result<Place> {
    let path = CString::new(path)?;
    let flags = flags | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_TYPE | libc::STATX_INO | libc::STATX_MNT_ID;
    // SAFETY: all bytes zero is a valid value of this plain structure.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and `found` has room for the answer.
    let result = unsafe { libc::statx(dir, path.as_ptr(), flags, mask, &raw mut found) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let knows_mounts = found.stx_mask & libc::STATX_MNT_ID != 0;
    Ok(Place {
        mount: if knows_mounts { found.stx_mnt_id } else { 0 },
        dev: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        ino: found.stx_ino,
        kind: u32::from(found.stx_mode) & libc::S_IFMT,
    })
}
