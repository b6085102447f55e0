//! Encodes attributes and extended attributes for the kernel.

use std::time::{Duration, SystemTime};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyXattr};

use crate::owners::Owners;
use crate::tree::{Attr, Kind, Time, Xattr};
use crate::xattr::is_acl;

/// Answers `getxattr`.
pub(super) fn xattr(reply: ReplyXattr, xattrs: &[Xattr], name: &[u8], room: u32, owners: Owners) {
    match xattrs.iter().find(|(known, _)| known == name) {
        Some((_, acl)) if is_acl(name) => bytes(reply, &owners.acl_here(acl), room),
        Some((_, value)) => bytes(reply, value, room),
        None => reply.error(Errno::ENODATA),
    }
}

/// Answers `listxattr`.
pub(super) fn xattr_names(reply: ReplyXattr, xattrs: &[Xattr], room: u32) {
    let names = xattrs.iter().flat_map(|(name, _)| name.iter().chain([&0]));
    bytes(reply, &names.copied().collect::<Vec<_>>(), room);
}

/// Answers with `bytes`, or with their number if the caller asks for the size only.
pub(super) fn bytes(reply: ReplyXattr, bytes: &[u8], room: u32) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    match room {
        0 => reply.size(length),
        _ if length > room => reply.error(Errno::ERANGE),
        _ => reply.data(bytes),
    }
}

/// Encodes attributes. An origin's access times are not known.
pub(super) fn file_attr(ino: u64, attr: &Attr, owners: Owners) -> FileAttr {
    let (uid, gid) = (owners.here(attr.uid), owners.here(attr.gid));
    file_attr_at(ino, &Attr { uid, gid, ..*attr }, attr.mtime)
}

/// Encodes attributes with a time of the last access. Owners have the same numbers everywhere.
pub(super) fn file_attr_at(ino: u64, attr: &Attr, accessed: Time) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: attr.bytes,
        blocks: attr.blocks,
        atime: system_time(accessed),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: u16::try_from(attr.mode & 0o7777).unwrap_or(0),
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: u32::try_from(attr.rdev).unwrap_or(0),
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn absent(owners: Owners) -> FileAttr {
    let time = Time { seconds: 0, nanos: 0 };
    let attr = Attr {
        kind: Kind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        bytes: 0,
        blocks: 0,
        links: 0,
        rdev: 0,
        mtime: time,
        ctime: time,
        ino: 0,
        dev: 0,
    };
    file_attr(0, &attr, owners)
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

fn system_time(time: Time) -> SystemTime {
    let nanos = Duration::from_nanos(u64::from(time.nanos));
    let seconds = Duration::from_secs(time.seconds.unsigned_abs());
    let moment = if time.seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    moment.and_then(|moment| moment.checked_add(nanos)).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_time_is_too_early_or_too_late() {
        for seconds in [i64::MIN, -1, 0, 1, i64::MAX] {
            let moment = system_time(Time { seconds, nanos: 999_999_999 });
            assert_eq!(moment < SystemTime::UNIX_EPOCH, (i64::MIN..0).contains(&seconds));
        }
    }
}
