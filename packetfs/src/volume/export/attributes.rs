//! Gives a file outside the attributes that a file of the volume has.

use std::io;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lsetxattr, utimensat};
use worknode::history::{Kind, Nanos};

use super::super::key::PIN;
use super::super::node::Node;
use crate::tree::Xattr;

/// Sets owner, extended attributes, mode and times, each if that is possible. Set-id bits are set only with the owner.
///
/// # Errors
/// One of them could not be set.
pub(super) fn set(to: &Path, node: &Node, xattrs: &[Xattr]) -> io::Result<()> {
    let owner = lchown(to, Some(node.permissions.uid), Some(node.permissions.gid));
    let mut set = Ok(());
    for (name, value) in xattrs.iter().filter(|(name, _)| name != PIN) {
        set = set.and(lsetxattr(to, name.as_slice(), value, XattrFlags::empty()));
    }
    let mode = if owner.is_ok() { node.permissions.mode } else { node.permissions.mode & 0o777 };
    let mode = match node.kind {
        Kind::Symlink(_) => Ok(()),
        _ => std::fs::set_permissions(to, std::fs::Permissions::from_mode(mode)),
    };
    let times =
        Timestamps { last_access: time(node.accessed), last_modification: time(node.modified) };
    let times = utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW);
    owner.and(mode).and(Ok(set?)).and(Ok(times?))
}

fn time(nanos: Nanos) -> Timespec {
    Timespec { tv_sec: nanos.div_euclid(1_000_000_000), tv_nsec: nanos.rem_euclid(1_000_000_000) }
}
