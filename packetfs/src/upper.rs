//! Reads the upper layer of a walk's overlay: what the walk changed.
//!
//! overlayfs marks a deleted name with a 0/0 character device, a directory that hides the lower one
//! with `trusted.overlay.opaque`, a renamed directory with `trusted.overlay.redirect`, and
//! everything that it copied up with `trusted.overlay.origin`. The last mark is what tells a file
//! that was written in place from one that was replaced.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use crate::change::{ChangeSet, Meta, Op};
use crate::packet::{self, Manifest, Packed, PacketRef, reference};
use crate::tree::{Attr, Bytes, Kind, Time, join};
use crate::xattr;

/// Files up to this size are read whole; larger ones are split while they are read.
const WHOLE_READ_BYTES: u64 = 8 * 1024 * 1024;

/// What the reader needs to know besides the layer itself.
pub struct Reading<'a> {
    /// When the walk began, on the runner's clock: a file with an older time was given it.
    pub began: Time,
    /// Tells whether the lower layer has a directory at a path.
    pub lower_has_dir: &'a dyn Fn(&[u8]) -> bool,
    /// Takes each packet of the changed files; the second time a packet comes, it is the same.
    pub packet: &'a mut dyn FnMut(PacketRef, Packed),
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("began", &self.began).finish_non_exhaustive()
    }
}

/// Reads all changes from the upper layer's directory.
///
/// # Errors
/// The layer cannot be read.
pub fn read(upper: &OwnedFd, reading: &mut Reading<'_>) -> io::Result<ChangeSet> {
    let mut found = Found::default();
    walk(upper, b"/", reading, &mut found)?;
    // Later changes get later times when they are applied in this order.
    found.files.sort_by_key(|&(mtime, _)| mtime);
    let files = found.files.into_iter().map(|(_, op)| op);
    let ops = found.renames.into_iter().chain(found.removes).chain(found.dirs).chain(files);
    Ok(ChangeSet { ops: ops.chain(found.links).collect() })
}

#[derive(Default)]
struct Found {
    renames: Vec<Op>,
    removes: Vec<Op>,
    dirs: Vec<Op>,
    files: Vec<(Time, Op)>,
    links: Vec<Op>,
    /// Files with several names, by inode: the first name found.
    linked: HashMap<u64, Bytes>,
}

fn walk(
    dir: &OwnedFd,
    path: &[u8],
    reading: &mut Reading<'_>,
    found: &mut Found,
) -> io::Result<()> {
    let mut reader = Dir::from_fd(dir.try_clone()?)?;
    let mut names = Vec::new();
    for item in reader.iter() {
        let name = item?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    for name in names {
        let attr = Attr::of(&fstatat(dir, OsStr::from_bytes(&name), AtFlags::AT_SYMLINK_NOFOLLOW)?);
        visit(dir, &name, join(path, &name), attr, reading, found)?;
    }
    Ok(())
}

fn visit(
    dir: &OwnedFd,
    name: &[u8],
    path: Bytes,
    attr: Attr,
    reading: &mut Reading<'_>,
    found: &mut Found,
) -> io::Result<()> {
    match attr.kind {
        Kind::Char if attr.rdev == 0 => found.removes.push(Op::Remove { path }),
        Kind::Dir => {
            let child = open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            if let Some(from) = overlay_mark(&child, "redirect")? {
                let from = redirected(&path, &from);
                found.renames.push(Op::Rename { from, to: path.clone() });
            }
            let opaque = overlay_mark(&child, "opaque")?.is_some_and(|value| value == b"y");
            let replaces = opaque && (reading.lower_has_dir)(&path);
            let copied_up = overlay_mark(&child, "origin")?.is_some();
            // The time of a directory that is only on the way to a change is not the walk's doing.
            let mut meta = meta(&child, &attr, reading.began)?;
            if copied_up {
                meta.mtime = None;
            }
            found.dirs.push(Op::Dir { path: path.clone(), meta, replaces });
            walk(&child, &path, reading, found)?;
        }
        Kind::File => {
            if attr.links > 1 {
                if let Some(first) = found.linked.get(&attr.ino) {
                    found.links.push(Op::Link { path, to: first.clone() });
                    return Ok(());
                }
                found.linked.insert(attr.ino, path.clone());
            }
            let file = open(dir, name, OFlag::O_RDONLY | OFlag::O_NOFOLLOW)?;
            let in_place = overlay_mark(&file, "origin")?.is_some();
            let meta = meta(&file, &attr, reading.began)?;
            let manifest = pack(File::from(file), attr.bytes, reading.packet)?;
            found.files.push((attr.mtime, Op::File { path, meta, manifest, in_place }));
        }
        Kind::Symlink => {
            let target = readlinkat(dir.as_fd(), OsStr::from_bytes(name))?.as_bytes().to_vec();
            let meta = meta_without_xattrs(&attr, reading.began);
            found.files.push((attr.mtime, Op::Symlink { path, target, meta }));
        }
        kind => {
            let meta = meta_without_xattrs(&attr, reading.began);
            found.files.push((attr.mtime, Op::Special { path, kind, rdev: attr.rdev, meta }));
        }
    }
    Ok(())
}

/// Where a renamed directory was: the mark is an absolute path, or a name beside the new one.
fn redirected(path: &[u8], mark: &[u8]) -> Bytes {
    if mark.starts_with(b"/") {
        return mark.to_vec();
    }
    let parent = crate::tree::split(path).map_or(b"/".as_slice(), |(parent, _)| parent);
    join(parent, mark)
}

fn pack(file: File, bytes: u64, packet: &mut dyn FnMut(PacketRef, Packed)) -> io::Result<Manifest> {
    let mut manifest = Manifest::default();
    packet::split_file(file, bytes, WHOLE_READ_BYTES, |piece| {
        let reference = reference(piece);
        packet(reference, Packed::pack(piece));
        manifest.packets.push(reference);
    })?;
    Ok(manifest)
}

fn meta(node: &OwnedFd, attr: &Attr, began: Time) -> io::Result<Meta> {
    let mut meta = meta_without_xattrs(attr, began);
    for name in xattr::list(node)? {
        // The overlay's own marks; everything else is the walk's.
        if !name.starts_with(b"trusted.overlay.")
            && let Some(value) = xattr::get(node, &name)?
        {
            meta.xattrs.push((name, value));
        }
    }
    Ok(meta)
}

fn meta_without_xattrs(attr: &Attr, began: Time) -> Meta {
    let mtime = (attr.mtime < began).then_some(attr.mtime);
    Meta { mode: attr.mode, uid: attr.uid, gid: attr.gid, mtime, xattrs: Vec::new() }
}

fn overlay_mark(node: &OwnedFd, mark: &str) -> io::Result<Option<Bytes>> {
    xattr::get(node, format!("trusted.overlay.{mark}").as_bytes())
}

fn open(dir: &OwnedFd, name: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).map_err(|errno: Errno| errno.into())
}
