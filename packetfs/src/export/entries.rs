//! The entries of directories: attributes, and what belongs to them.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use rustix::fs::{AtFlags as LookFlags, StatxFlags, statx};

use crate::mounts::Mounts;
use crate::path::{FileName, join};
use crate::tree::{Attr, Entry, Kind};
use crate::xattr;

/// Returns the entry of a name in an open directory. A mount point that may not be asked is shown with what the kernel knows.
pub(super) fn entry_in(
    may_be_asked: &dyn Fn(&[u8]) -> bool,
    (open, dir): (&OwnedFd, &[u8]),
    mounts: &Mounts,
    name: FileName,
) -> Option<Entry> {
    if mounts.has_points_in(dir) {
        let path = join(dir, &name);
        if mounts.is_point(&path) && !may_be_asked(&path) {
            return entry_at_hand(open, name);
        }
    }
    entry(open, name)
}

/// Returns what a name names, as the kernel knows it without asking the file system.
fn entry_at_hand(dir: &OwnedFd, name: FileName) -> Option<Entry> {
    let flags = LookFlags::SYMLINK_NOFOLLOW | LookFlags::STATX_DONT_SYNC;
    let mask = StatxFlags::BASIC_STATS;
    let found = statx(dir, OsStr::from_bytes(&name), flags, mask).ok()?;
    Some(Entry { name, attr: Attr::of_statx(&found), target: None, xattrs: Vec::new() })
}

fn entry(dir: &OwnedFd, name: FileName) -> Option<Entry> {
    let path = OsStr::from_bytes(&name);
    let attr = Attr::of(&fstatat(dir, path, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?);
    let target = match attr.kind {
        Kind::Symlink => Some(nix::fcntl::readlinkat(dir.as_fd(), path).ok()?.as_bytes().to_vec()),
        _ => None,
    };
    // If attributes cannot be read, the file is shown without any.
    let xattrs = xattr::shown_at(dir, &name).unwrap_or_default();
    Some(Entry { name, attr, target, xattrs })
}
