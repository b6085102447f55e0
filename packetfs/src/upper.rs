//! Reads the upper layer of a walk's overlay: what the walk changed.
//!
//! overlayfs marks a deleted name with a 0/0 character device, a directory that hides the lower one
//! with `trusted.overlay.opaque`, a renamed directory with `trusted.overlay.redirect`, and
//! everything that it copied up with `trusted.overlay.origin`. The last mark is what tells a file
//! that was written in place from one that was replaced.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use crate::change::{ChangeSet, Meta, Mtime, Op, Placing};
use crate::packet::{self, Manifest, Packed, PacketRef, reference};
use crate::tree::{Attr, Bytes, Kind, Time, Version, join, names_in};
use crate::xattr;

/// Files up to this size are read whole; larger ones are split while they are read.
const WHOLE_READ_BYTES: u64 = 8 * 1024 * 1024;

const STICKY: u32 = 0o1000;

/// What the reader needs to know besides the layer itself.
pub struct Reading<'a> {
    /// When the walk began, on the runner's clock: a file with an older time was given it.
    pub began: Time,
    /// When the walk ended.
    pub ended: Time,
    /// Returns what the lower layer has at a path.
    pub lower_attr: &'a dyn Fn(&[u8]) -> Option<Attr>,
    /// Returns the path of a file of the lower layer, by its number there.
    pub lower_path: &'a dyn Fn(u64) -> Option<Bytes>,
    /// Returns the version of the file that the origin has at a path, unless it changed since the
    /// walk began.
    pub base: &'a dyn Fn(&[u8]) -> Option<Version>,
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
    Ok(found.into_changes(reading.base))
}

#[derive(Default)]
struct Found {
    removed: HashSet<Bytes>,
    /// Directories, and where they were before if they were renamed: parents first.
    dirs: Vec<Op>,
    /// What is no directory, with its time.
    others: Vec<(Time, Op)>,
    /// Regular files, by inode of the upper layer.
    files: HashMap<u64, UpperFile>,
    linked: Vec<Bytes>,
}

/// A regular file of the upper layer.
struct UpperFile {
    names: Vec<Bytes>,
    mtime: Time,
    meta: Meta,
    manifest: Manifest,
    /// The name that the file had in the lower layer, if it was copied up from there.
    lower: Option<Bytes>,
}

impl Found {
    fn into_changes(self, base: &dyn Fn(&[u8]) -> Option<Version>) -> ChangeSet {
        let Self { removed, dirs, mut others, files, linked } = self;
        let (mut renames, mut links) = (Vec::new(), Vec::new());
        for file in files.into_values() {
            let UpperFile { mut names, mtime, meta, manifest, lower } = file;
            // A file keeps its inode if it still has its name, or lost it to another one.
            let kept = lower.as_ref().and_then(|lower| names.iter().position(|n| n == lower));
            let path = names.swap_remove(kept.unwrap_or(0));
            let moved = lower.filter(|lower| kept.is_none() && removed.contains(lower));
            let placing = match (kept, &moved) {
                (Some(_), _) => Placing::Over { base: base(&path) },
                (None, Some(from)) => Placing::Over { base: base(from) },
                (None, None) => Placing::Fresh,
            };
            renames.extend(moved.map(|from| Op::Rename { from, to: path.clone() }));
            links.extend(names.into_iter().map(|name| Op::Link { path: name, to: path.clone() }));
            others.push((mtime, Op::File { path, meta, manifest, placing }));
        }
        // Later changes get later times when they are applied in this order.
        others.sort_by_key(|&(mtime, _)| mtime);
        let removes = removed.into_iter().map(|path| Op::Remove { path });
        let ops = dirs.into_iter().chain(renames).chain(removes);
        let ops = ops.chain(others.into_iter().map(|(_, op)| op)).chain(links).collect();
        ChangeSet { ops, linked }
    }
}

fn walk(
    dir: &OwnedFd,
    path: &[u8],
    reading: &mut Reading<'_>,
    found: &mut Found,
) -> io::Result<()> {
    for name in names_in(dir)? {
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
        Kind::Char if attr.rdev == 0 => {
            found.removed.insert(path);
        }
        Kind::Dir => {
            let child = open(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            if let Some(from) = overlay_mark(&child, "redirect")? {
                let from = redirected(&path, &from);
                found.dirs.push(Op::Rename { from, to: path.clone() });
            }
            let opaque = overlay_mark(&child, "opaque")?.is_some_and(|value| value == b"y");
            let lower = (reading.lower_attr)(&path).filter(|lower| lower.kind == Kind::Dir);
            let replaces = opaque && lower.is_some();
            let mut meta = meta(&child, &attr, reading)?;
            // The time of a directory that is only on the way to a change is not the walk's doing;
            // that of a sticky one, such as /tmp, is everybody's.
            let on_the_way = !opaque
                && lower.is_some_and(|lower| lower.mtime == attr.mtime || attr.mode & STICKY != 0);
            if on_the_way {
                meta.mtime = None;
            }
            let as_before = lower.is_some_and(|lower| {
                (lower.mode, lower.uid, lower.gid) == (attr.mode, attr.uid, attr.gid)
            });
            if !(on_the_way && as_before && meta.xattrs.is_empty()) {
                found.dirs.push(Op::Dir { path: path.clone(), meta, replaces });
            }
            walk(&child, &path, reading, found)?;
        }
        Kind::File => {
            let file = open(dir, name, OFlag::O_RDONLY)?;
            let mark = overlay_mark(&file, "origin")?;
            // overlayfs leaves no mark on a copied file with several names.
            let linked = mark.is_none()
                && (reading.lower_attr)(&path)
                    .is_some_and(|below| below.kind == Kind::File && below.links > 1);
            if linked {
                found.linked.push(path.clone());
            }
            let lower = match mark {
                Some(handle) => node_of(&handle).and_then(|node| (reading.lower_path)(node)),
                None => linked.then(|| path.clone()),
            };
            if let Some(known) = found.files.get_mut(&attr.ino) {
                known.lower = known.lower.take().or(lower);
                known.names.push(path);
                return Ok(());
            }
            let meta = meta(&file, &attr, reading)?;
            let manifest = pack(File::from(file), attr.bytes, reading.packet)?;
            let names = vec![path];
            let file = UpperFile { names, mtime: attr.mtime, meta, manifest, lower };
            found.files.insert(attr.ino, file);
        }
        Kind::Symlink => {
            let target = readlinkat(dir.as_fd(), OsStr::from_bytes(name))?.as_bytes().to_vec();
            let meta = meta_without_xattrs(&attr, reading);
            found.others.push((attr.mtime, Op::Symlink { path, target, meta }));
        }
        kind => {
            let meta = meta_without_xattrs(&attr, reading);
            found.others.push((attr.mtime, Op::Special { path, kind, rdev: attr.rdev, meta }));
        }
    }
    Ok(())
}

/// Returns the number of the lower file in an overlay's origin mark: `u8 version, u8 magic, u8
/// bytes, u8 flags, u8 type, uuid[16]`, and FUSE's handle, `u32 high, u32 low, u32 generation`.
fn node_of(handle: &[u8]) -> Option<u64> {
    let handle = handle.get(21..29)?;
    let word = |at: usize| -> Option<u64> {
        let bytes = handle.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    Some(word(0)? << 32 | word(4)?)
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

fn meta(node: &OwnedFd, attr: &Attr, reading: &Reading<'_>) -> io::Result<Meta> {
    let mut meta = meta_without_xattrs(attr, reading);
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

fn meta_without_xattrs(attr: &Attr, reading: &Reading<'_>) -> Meta {
    let during = reading.began <= attr.mtime && attr.mtime <= reading.ended;
    let mtime = match reading.ended.nanos_since(attr.mtime) {
        Some(nanos) if during => Mtime::Before(nanos),
        _ => Mtime::Set(attr.mtime),
    };
    Meta { mode: attr.mode, uid: attr.uid, gid: attr.gid, mtime: Some(mtime), xattrs: Vec::new() }
}

fn overlay_mark(node: &OwnedFd, mark: &str) -> io::Result<Option<Bytes>> {
    xattr::get(node, format!("trusted.overlay.{mark}").as_bytes())
}

fn open(dir: &OwnedFd, name: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).map_err(|errno: Errno| errno.into())
}
