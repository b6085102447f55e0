//! Reads a walk's changes from the upper layer of its overlay.
//!
//! overlayfs marks a deleted name with a 0/0 character device (a whiteout), a directory that hides the
//! lower one with `trusted.overlay.opaque`, a renamed directory with `trusted.overlay.redirect`, and
//! everything that it copied up with `trusted.overlay.origin`. The last mark distinguishes a file that
//! was written in place from one that was replaced. A file with several hard links in the lower layer is
//! also in the overlay's index. It may be only there: if it was written through a name that was removed
//! afterwards, it is still visible through another.

mod found;

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, fstatat};

use crate::change::{Base, ChangeSet, Meta, Mtime, Op};
use crate::owners::Owners;
use crate::packet::{self, Digest, PacketRef};
use crate::path::{Bytes, CALL_PATH_BYTES_MAX, TreePath, join, split};
use crate::tree::{Attr, Kind, Time, Xattr, names_in};
use crate::xattr::{self, is_acl};
use found::{Body, Found, Node, leave_out};

const STICKY: u32 = 0o1000;
/// Most directories that are kept open until they are read; others are reopened.
const OPEN_DIRS_MAX: usize = 64;

/// What is needed to interpret an upper layer.
pub struct Reading<'a> {
    /// How the layer numbers the origin's owners.
    pub owners: Owners,
    /// The kernel's last clock tick before the walk began. An older file time was set explicitly.
    pub began: Time,
    /// When the walk ended.
    pub ended: Time,
    /// Returns the attributes at a path of the lower layer.
    pub lower_attr: &'a dyn Fn(&[u8]) -> Option<Attr>,
    /// Returns the paths of a lower-layer file by its inode number there.
    pub lower_paths: &'a dyn Fn(u64) -> Vec<Bytes>,
    /// Returns what the walk found at a path of the lower layer.
    pub base: &'a dyn Fn(&[u8]) -> Base,
    /// Returns the digest of the names that the walk found in a lower-layer directory, if known.
    pub contents: &'a dyn Fn(&[u8]) -> Option<Digest>,
    /// Tells whether the walk may have found a directory with this modification time, even if it has
    /// changed at the origin since.
    pub had_time: &'a dyn Fn(&[u8], Time) -> bool,
    /// Returns the extended attributes that the walk saw at a path of the lower layer.
    pub lower_xattrs: &'a dyn Fn(&[u8]) -> Vec<Xattr>,
    /// Tells whether something in the lower layer has this modification time.
    pub is_shown: &'a dyn Fn(Time) -> bool,
    /// Absent names for which whiteouts were made in advance. Their whiteouts do not mean that the walk
    /// removed something.
    pub absent: &'a [Bytes],
    /// Receives each packet of the changed files with its content, possibly more than once.
    pub packet: &'a mut dyn FnMut(PacketRef, &[u8]),
}

impl std::fmt::Debug for Reading<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reading").field("began", &self.began).finish_non_exhaustive()
    }
}

/// Reads all changes from the upper layer's directory, and from the overlay's index if there is one.
///
/// # Errors
/// The layer cannot be read, or (`ENAMETOOLONG`) contains a path longer than the origin's kernel accepts.
pub fn read(
    upper: &OwnedFd,
    index: Option<&OwnedFd>,
    reading: &mut Reading<'_>,
) -> io::Result<ChangeSet> {
    let mut found = Found::default();
    walk(upper, index.is_some(), reading, &mut found)?;
    if let Some(index) = index {
        read_index(index, reading, &mut found)?;
    }
    Ok(found.into_changes(reading.base, reading.contents)?)
}

/// A directory that is still to be read.
struct Dir {
    path: Bytes,
    /// The path of the lower-layer directory that it merges with, if any.
    before: Option<Bytes>,
    /// Its descriptor, if it is open already.
    open: Option<OwnedFd>,
}

/// Reads all directories iteratively and with few descriptors, because the walk controls their depth.
fn walk(
    upper: &OwnedFd,
    indexed: bool,
    reading: &mut Reading<'_>,
    found: &mut Found,
) -> io::Result<()> {
    let root = Some(b"/".to_vec());
    let mut rest = vec![Dir { path: b"/".to_vec(), before: root, open: None }];
    while let Some(Dir { path, before, open }) = rest.pop() {
        let dir = open.map_or_else(|| open_below(upper, &path), Ok)?;
        read_dir(&dir, (&path, before.as_deref()), indexed, reading, found, &mut rest)?;
    }
    Ok(())
}

/// Reads the entries of a directory, and pushes its subdirectories onto `rest`.
fn read_dir(
    dir: &OwnedFd,
    (dir_path, dir_before): (&[u8], Option<&[u8]>),
    indexed: bool,
    reading: &mut Reading<'_>,
    found: &mut Found,
    rest: &mut Vec<Dir>,
) -> io::Result<()> {
    for name in names_in(dir)? {
        let attr = attr_at(dir, &name)?;
        let path = join(dir_path, &name);
        if path.len() > CALL_PATH_BYTES_MAX {
            return Err(Errno::ENAMETOOLONG.into());
        }
        let before = dir_before.map(|dir| join(dir, &name));
        match attr.kind {
            Kind::Char if attr.rdev == 0 => {
                let base = before.as_deref().map(reading.base);
                let marked = before.as_ref().is_some_and(|it| reading.absent.contains(it));
                if !marked && base != Some(Base::Nothing) {
                    found.remove(path);
                    found.bases.extend(before.zip(base));
                }
            }
            Kind::Dir => {
                let attr = owned(attr, reading.owners)?;
                let child = open(dir, &name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
                let before = visit_dir(&child, &path, dir_before, &attr, reading, found)?;
                let open = (rest.len() < OPEN_DIRS_MAX).then_some(child);
                rest.push(Dir { path, before, open });
            }
            _ => {
                let attr = owned(attr, reading.owners)?;
                found.note_base(before, reading.base);
                visit(dir, &name, path, &attr, indexed, reading, found)?;
            }
        }
    }
    Ok(())
}

/// Visits a directory whose parent was at `above` before the walk. Returns its own path before the walk.
fn visit_dir(
    dir: &OwnedFd,
    path: &[u8],
    above: Option<&[u8]>,
    attr: &Attr,
    reading: &Reading<'_>,
    found: &mut Found,
) -> io::Result<Option<Bytes>> {
    let from =
        overlay_mark(dir, "redirect", reading.owners)?.and_then(|mark| redirected(above, &mark));
    let name = split(path).map_or(b"".as_slice(), |(_, name)| name);
    let at = above.map(|above| join(above, name));
    let before = from.clone().or_else(|| at.clone());
    let is_renamed = from.is_some();
    found.note_base(from.clone(), reading.base);
    if let Some(from) = from {
        found.dirs.push(Op::Rename { from: TreePath::new(from)?, to: TreePath::new(path)? });
    }
    let opaque = overlay_mark(dir, "opaque", reading.owners)?.is_some_and(|value| value == b"y");
    // A directory that replaces another hides everything of the lower layer below it.
    let lower = at.as_deref().and_then(|at| (reading.lower_attr)(at));
    let was_other = lower.is_some_and(|lower| lower.kind != Kind::Dir);
    let lower = lower.filter(|lower| lower.kind == Kind::Dir);
    let attr = &lower.map_or(*attr, |lower| reading.owners.attr_above(*attr, &lower));
    let replaces = opaque && lower.is_some();
    let mut meta = meta((dir, b"."), dir, attr, reading)?;
    // A directory that was copied up only because something below it changed has its old time, even if
    // others have changed the origin's since. The time of a sticky directory such as /tmp belongs to all
    // its users. Neither is a change of the walk.
    let is_copied = attr.mtime != attr.ctime;
    let on_the_way = !opaque
        && lower.is_some_and(|lower| {
            lower.mtime == attr.mtime
                || attr.mode & STICKY != 0
                || is_copied && at.as_deref().is_some_and(|at| (reading.had_time)(at, attr.mtime))
        });
    let was_still = lower.is_some_and(|lower| lower.mtime == attr.mtime && attr.mode & STICKY == 0);
    if on_the_way {
        meta.mtime = None;
    }
    let is_new = replaces || is_renamed || lower.is_none();
    if is_new {
        found.touch_parent(path);
    }
    let as_before = lower
        .is_some_and(|lower| (lower.mode, lower.uid, lower.gid) == (attr.mode, attr.uid, attr.gid));
    if replaces || was_other {
        // A rename also removes the old name.
        found.cover(path.to_vec());
    }
    if !replaces {
        let xattrs = before.as_deref().map(|before| (reading.lower_xattrs)(before));
        leave_out(&mut meta, &xattrs.unwrap_or_default());
        if was_still {
            let mtime = Some(Mtime::Set(attr.mtime));
            found.dirs_with_old_time.push((path.to_vec(), Meta { mtime, ..meta.clone() }));
        }
    }
    let is_same = as_before && meta.xattrs.is_empty() && meta.without.is_empty();
    if is_new || !is_same {
        found.note_base(at, reading.base);
    }
    if !(on_the_way && is_same) {
        found.dirs.push(Op::Dir { path: TreePath::new(path)?, meta, replaces });
    }
    Ok(before.filter(|_| !opaque))
}

/// Visits a name of anything but a directory.
fn visit(
    dir: &OwnedFd,
    name: &[u8],
    path: Bytes,
    attr: &Attr,
    indexed: bool,
    reading: &mut Reading<'_>,
    found: &mut Found,
) -> io::Result<()> {
    let attr = &match (reading.lower_attr)(&path).filter(|_| reading.owners.are_one()) {
        Some(lower) => reading.owners.attr_above(*attr, &lower),
        None => *attr,
    };
    let mark = xattr::get_at(dir, name, &mark_name("origin", reading.owners))?;
    // Without an index, overlayfs does not mark copied-up files that have several hard links.
    let unmarked = !indexed
        && mark.is_none()
        && attr.kind == Kind::File
        && (reading.lower_attr)(&path)
            .is_some_and(|below| below.kind == Kind::File && below.links > 1);
    if unmarked {
        found.linked.push(TreePath::new(path.clone())?);
    }
    let below = match mark {
        Some(handle) => below(&handle, reading),
        None => unmarked.then(|| path.clone()).into_iter().collect(),
    };
    found.cover(path.clone());
    if let Some(known) = found.nodes.get_mut(&attr.ino) {
        if known.below.is_empty() {
            known.below = below;
        }
        known.names.push(path);
        return Ok(());
    }
    let (body, meta) = content(dir, name, attr, reading)?;
    let unchanged = attr.kind != Kind::File && is_as_below(&below, attr, reading);
    let xattrs_below = xattrs_below(&below, reading);
    let (names, mtime) = (vec![path], attr.mtime);
    let node = Node { names, below, xattrs_below, mtime, body, meta, unchanged };
    found.nodes.insert(attr.ino, node);
    Ok(())
}

/// Finds the files that the walk changed through a name that it then removed.
fn read_index(index: &OwnedFd, reading: &mut Reading<'_>, found: &mut Found) -> io::Result<()> {
    for name in names_in(index)? {
        let attr = attr_at(index, &name)?;
        if attr.kind != Kind::File || found.nodes.contains_key(&attr.ino) {
            continue;
        }
        let attr = owned(attr, reading.owners)?;
        let mark = xattr::get_at(index, &name, &mark_name("origin", reading.owners))?;
        let below = mark.map(|handle| below(&handle, reading)).unwrap_or_default();
        let xattrs_below = xattrs_below(&below, reading);
        // Removing a name also copies the file up.
        if is_as_below(&below, &attr, reading) {
            let file = open(index, &name, OFlag::O_RDONLY)?;
            let mut meta = meta((index, &name), &file, &attr, reading)?;
            leave_out(&mut meta, &xattrs_below);
            if meta.xattrs.is_empty() && meta.without.is_empty() {
                continue;
            }
        }
        let (body, meta) = content(index, &name, &attr, reading)?;
        let (names, mtime) = (Vec::new(), attr.mtime);
        let node = Node { names, below, xattrs_below, mtime, body, meta, unchanged: false };
        found.nodes.insert(attr.ino, node);
    }
    Ok(())
}

fn attr_at(dir: &OwnedFd, name: &[u8]) -> io::Result<Attr> {
    Ok(Attr::of(&fstatat(dir, OsStr::from_bytes(name), AtFlags::AT_SYMLINK_NOFOLLOW)?))
}

/// Returns the attributes of what a walk made or copied up, with the origin's owners.
fn owned(attr: Attr, owners: Owners) -> io::Result<Attr> {
    owners.attr_there(attr).ok_or_else(|| Errno::EOVERFLOW.into())
}

/// Returns the lower-layer paths of the file that an origin mark names.
fn below(mark: &[u8], reading: &Reading<'_>) -> Vec<Bytes> {
    node_of(mark).map(|node| (reading.lower_paths)(node)).unwrap_or_default()
}

fn xattrs_below(below: &[Bytes], reading: &Reading<'_>) -> Vec<Xattr> {
    below.first().map(|path| (reading.lower_xattrs)(path)).unwrap_or_default()
}

/// Tells whether a copied-up file still has its lower-layer attributes.
fn is_as_below(below: &[Bytes], attr: &Attr, reading: &Reading<'_>) -> bool {
    let lower = below.first().and_then(|path| (reading.lower_attr)(path));
    let told = |attr: &Attr| (attr.kind, attr.mode, attr.uid, attr.gid, attr.bytes, attr.mtime);
    lower.is_some_and(|lower| told(&lower) == told(attr))
}

fn content(
    dir: &OwnedFd,
    name: &[u8],
    attr: &Attr,
    reading: &mut Reading<'_>,
) -> io::Result<(Body, Meta)> {
    match attr.kind {
        Kind::File => {
            let file = open(dir, name, OFlag::O_RDONLY)?;
            let meta = meta((dir, name), &file, attr, reading)?;
            let (file, packet) = (File::from(file), &mut reading.packet);
            let manifest = packet::split_file(&file, attr.bytes, attr.blocks, packet)?;
            Ok((Body::File(manifest), meta))
        }
        Kind::Symlink => {
            let target = readlinkat(dir.as_fd(), OsStr::from_bytes(name))?.as_bytes().to_vec();
            Ok((Body::Symlink(target), meta_without_xattrs((dir, name), attr, reading)))
        }
        kind => {
            Ok((Body::Special(kind, attr.rdev), meta_without_xattrs((dir, name), attr, reading)))
        }
    }
}

/// Returns the lower file's inode number from an overlay's origin mark, which is `u8 version, u8 magic, u8
/// bytes, u8 flags, u8 type, uuid[16]` and FUSE's handle, `u32 high, u32 low, u32 generation`.
fn node_of(handle: &[u8]) -> Option<u64> {
    let handle = handle.get(21..29)?;
    let word = |at: usize| -> Option<u64> {
        let bytes = handle.get(at..at + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_le_bytes(bytes)))
    };
    Some(word(0)? << 32 | word(4)?)
}

/// Returns where a renamed directory was: the mark is an absolute path, or a name in its parent's old path.
fn redirected(above: Option<&[u8]>, mark: &[u8]) -> Option<Bytes> {
    if mark.starts_with(b"/") { Some(mark.to_vec()) } else { Some(join(above?, mark)) }
}

fn meta(
    place: (&OwnedFd, &[u8]),
    node: &OwnedFd,
    attr: &Attr,
    reading: &Reading<'_>,
) -> io::Result<Meta> {
    let mut meta = meta_without_xattrs(place, attr, reading);
    for name in xattr::list(node)? {
        // Skips the overlay's own marks.
        if !name.starts_with(&mark_name("", reading.owners))
            && let Some(value) = xattr::get(node, &name)?
        {
            let value = if is_acl(&name) { reading.owners.acl_there(&value) } else { value };
            meta.xattrs.push((name, value));
        }
    }
    Ok(meta)
}

fn meta_without_xattrs((dir, name): (&OwnedFd, &[u8]), attr: &Attr, reading: &Reading<'_>) -> Meta {
    let (mode, uid, gid) = (attr.mode, attr.uid, attr.gid);
    let is_copied = |time| (reading.is_shown)(time) && made(dir, name) != Some(time);
    let mtime = Some(mtime(attr, reading.began, reading.ended, &is_copied));
    Meta { mode, uid, gid, mtime, xattrs: Vec::new(), without: Vec::new() }
}

/// Distinguishes a time that the walk set from one that a write left.
///
/// The origin's clock may be ahead of the runner's, so a time copied from an origin's file can lie within
/// the walk's run time. Such a time differs from the ctime and from the creation time, even if both
/// machines share a clock; the time of a write does not.
fn mtime(attr: &Attr, began: Time, ended: Time, is_copied: &dyn Fn(Time) -> bool) -> Mtime {
    let is_copied = || attr.mtime != attr.ctime && is_copied(attr.mtime);
    match attr.mtime.nanos_since(began) {
        Some(nanos) if attr.mtime <= ended && !is_copied() => Mtime::Since(nanos),
        _ => Mtime::Set(attr.mtime),
    }
}

/// Returns a file's creation time, if the file system records it.
fn made(dir: &OwnedFd, name: &[u8]) -> Option<Time> {
    let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
    let found = std::fs::symlink_metadata(Path::new(&path).join(OsStr::from_bytes(name))).ok()?;
    found.created().ok().map(Time::of)
}

fn overlay_mark(node: &OwnedFd, mark: &str, owners: Owners) -> io::Result<Option<Bytes>> {
    xattr::get(node, &mark_name(mark, owners))
}

/// Returns the name of one of the overlay's marks. Without root an overlay cannot use trusted attributes.
fn mark_name(mark: &str, owners: Owners) -> Bytes {
    let class = if owners.are_one() { "user" } else { "trusted" };
    format!("{class}.overlay.{mark}").into_bytes()
}

/// Opens a directory by its path within the layer.
fn open_below(upper: &OwnedFd, path: &[u8]) -> io::Result<OwnedFd> {
    let below = path.strip_prefix(b"/").filter(|path| !path.is_empty()).unwrap_or(b".");
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    let how = OpenHow::new().flags(flags).resolve(resolve);
    Ok(openat2(upper, OsStr::from_bytes(below), how)?)
}

fn open(dir: &OwnedFd, name: &[u8], flags: OFlag) -> io::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    openat(dir, OsStr::from_bytes(name), flags, Mode::empty()).map_err(|errno: Errno| errno.into())
}

#[cfg(test)]
mod tests;
