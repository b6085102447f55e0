//! The single steps of a commit, each of which changes one name and is idempotent.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, readlinkat, renameat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, mkdirat,
    mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};

use super::pieces::Pieces;
use super::place::Place;
use crate::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use crate::identity::Owner;
use crate::tree::{Attr, Kind, Time};
use crate::xattr;

/// The longest clock tick of a kernel (100 Hz), which is the resolution of file times.
const CLOCK_TICK_NANOS_MAX: u64 = 10_000_000;

/// The bits of a mode that a change of owner clears.
const SET_ID: u32 = 0o6000;

/// What all steps of a commit share.
pub(super) struct Settling<'a> {
    pub(super) owner: &'a Owner,
    /// When the walk began; its times are relative to it.
    pub(super) began: Time,
    /// The current time: no file time is set later than this.
    pub(super) now: Time,
    pub(super) known: Known<'a>,
    /// Whether the commit was interrupted and is being finished.
    pub(super) again: bool,
}

/// Names whose current state is known, so that a concurrent change is detected up to the last moment. A new
/// directory may serve as a lock.
#[derive(Default)]
pub(super) struct Known<'a> {
    absent: HashSet<&'a [u8]>,
    present: HashSet<&'a [u8]>,
}

impl<'a> Known<'a> {
    pub(super) fn of(changes: &'a ChangeSet) -> Self {
        let (mut absent, mut present) = (HashSet::new(), HashSet::new());
        for (name, base) in &changes.found {
            if *base == Base::Nothing { &mut absent } else { &mut present }.insert(&name[..]);
        }
        for (from, to) in changes.ops.iter().filter_map(Op::as_rename) {
            present.remove(from);
            absent.remove(to);
        }
        Self { absent, present }
    }
}

impl Settling<'_> {
    /// Converts a time to this machine's clock.
    fn time(&self, mtime: Mtime) -> TimeSpec {
        let time = match mtime {
            Mtime::Set(time) => time,
            Mtime::Since(nanos) => self.began.after(nanos).min(self.now),
        };
        TimeSpec::new(time.seconds, i64::from(time.nanos))
    }
}

/// Opens the file that was just created, to operate on the file rather than the name: another process may replace it
/// by a hard link to a file of its own, or of root.
fn just_made(place: &Place<'_>, kind: Kind) -> io::Result<OwnedFd> {
    let made = place.open(OFlag::O_PATH, 0)?;
    let attr = Attr::of(&fstat(&made)?);
    if attr.kind != kind || attr.links != 1 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(made)
}

/// Sets owner and time through an `O_PATH` descriptor.
fn settle(made: &OwnedFd, place: &Place<'_>, meta: &Meta, all: &Settling<'_>) -> io::Result<()> {
    if (meta.uid, meta.gid) != (all.owner.uid, all.owner.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fchownat(made, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    if let Some(mtime) = meta.mtime {
        let (atime, mtime) = (TimeSpec::UTIME_OMIT, all.time(mtime));
        utimensat(&place.dir, place.name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?;
    }
    Ok(())
}

pub(super) fn rename(from: &[u8], to: &[u8], all: &Settling<'_>) -> io::Result<()> {
    let to = Place::of(to)?;
    let found = Place::of(from).and_then(|from| {
        let attr = from.attr()?.ok_or(io::ErrorKind::NotFound)?;
        Ok((from, attr))
    });
    match found {
        Ok((from, attr)) => {
            // A directory cannot replace a file, so that is removed first. A file replaces another by itself.
            if attr.kind == Kind::Dir {
                to.clear()?;
            }
            Ok(renameat(&from.dir, from.name, &to.dir, to.name)?)
        }
        // Done before the interruption.
        Err(error)
            if all.again && error.kind() == io::ErrorKind::NotFound && to.attr()?.is_some() =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

pub(super) fn remove(path: &[u8], all: &Settling<'_>) -> io::Result<()> {
    let is_there = all.known.present.contains(path);
    match Place::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_there => Ok(()),
        Ok(place) if is_there && place.attr()?.is_none() => Err(io::ErrorKind::NotFound.into()),
        place => place?.clear(),
    }
}

/// Removes whatever has a name that is needed, unless the name is known to be free.
fn make_room(place: &Place<'_>, path: &[u8], all: &Settling<'_>) -> io::Result<()> {
    if all.known.absent.contains(path) { Ok(()) } else { place.clear() }
}

/// Creates a directory, or changes the existing one. Returns whether it is new.
pub(super) fn make_dir(path: &[u8], meta: &Meta, all: &Settling<'_>) -> io::Result<bool> {
    let place = Place::of(path)?;
    let old = place.attr()?;
    if old.is_some() && all.known.absent.contains(path) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let is_dir = |old: &Attr| old.kind == Kind::Dir;
    if old.is_some_and(|old| !is_dir(&old)) {
        place.clear()?;
    }
    let old = old.filter(is_dir);
    if old.is_none() {
        let is_new = all.known.absent.contains(path);
        match mkdirat(&place.dir, place.name, Mode::from_bits_truncate(meta.mode)) {
            Ok(()) => {}
            Err(Errno::EEXIST) if !is_new => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // What is new may have inherited an access control list.
    let unchanged =
        old.is_some_and(|old| (old.mode, old.uid, old.gid) == (meta.mode, meta.uid, meta.gid));
    if !(unchanged && meta.xattrs.is_empty() && meta.without.is_empty()) {
        let dir = place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        if old.is_none() {
            disinherit(&dir, meta)?;
        }
        settle_open(&dir, meta, all)?;
    }
    Ok(old.is_none())
}

pub(super) fn write_file(
    (path, fresh_name): (&[u8], &dyn Fn() -> String),
    meta: &Meta,
    pieces: &Pieces<'_>,
    placing: Placing,
    all: &Settling<'_>,
) -> io::Result<()> {
    let place = Place::of(path)?;
    let old = place.attr()?;
    match old {
        Some(Attr { kind: Kind::File, .. }) if placing != Placing::Fresh => {
            let behind = matches!(placing, Placing::Behind(_));
            let append = if behind { OFlag::O_APPEND } else { OFlag::empty() };
            let file = place.open_file(OFlag::O_RDWR | append)?;
            match placing {
                Placing::Behind(offset) => pieces.append(&file, all.again.then_some(offset))?,
                Placing::Over { .. } | Placing::Fresh => pieces.write_over(&file)?,
            }
            settle_open(&OwnedFd::from(file), meta, all)
        }
        Some(_) if all.known.absent.contains(path) => Err(io::ErrorKind::AlreadyExists.into()),
        Some(_) => replace_file(&place, &fresh_name(), meta, pieces, all),
        None => {
            // Appends of others from now on are kept.
            let append = if pieces.has_holes() { OFlag::empty() } else { OFlag::O_APPEND };
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | append;
            let file = File::from(place.open(flags, meta.mode)?);
            pieces.write_to(&file)?;
            let file = OwnedFd::from(file);
            disinherit(&file, meta)?;
            settle_open(&file, meta, all)
        }
    }
}

/// Replaces a file atomically by a new one.
fn replace_file(
    place: &Place<'_>,
    fresh_name: &str,
    meta: &Meta,
    pieces: &Pieces<'_>,
    all: &Settling<'_>,
) -> io::Result<()> {
    let fresh = Place { dir: place.dir.try_clone()?, name: OsStr::new(fresh_name) };
    if all.again {
        // Its temporary name is in the journal, so no other commit uses it. If it is a directory now, it is left alone.
        fresh.remove_file()?;
    }
    let file = File::from(fresh.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, meta.mode)?);
    let put = || -> io::Result<()> {
        pieces.write_to(&file)?;
        let settled = file.as_fd().try_clone_to_owned()?;
        disinherit(&settled, meta)?;
        settle_open(&settled, meta, all)?;
        if place.attr()?.is_some_and(|old| old.kind == Kind::Dir) {
            place.clear()?;
        }
        Ok(renameat(&fresh.dir, fresh.name, &place.dir, place.name)?)
    };
    put().inspect_err(|_| {
        // Report the first error.
        let _ = fresh.remove_file();
    })
}

/// Makes a symbolic link. One that is there with the same target may keep its inode, and with it its other names
/// and the time of its directory.
pub(super) fn make_symlink(
    (path, target): (&[u8], &[u8]),
    meta: &Meta,
    keeps: bool,
    all: &Settling<'_>,
) -> io::Result<()> {
    let place = Place::of(path)?;
    if keeps && settle_symlink(&place, target, meta, all)? {
        return Ok(());
    }
    make_room(&place, path, all)?;
    symlinkat(OsStr::from_bytes(target), &place.dir, place.name)?;
    settle(&just_made(&place, Kind::Symlink)?, &place, meta, all)
}

/// Sets the owner and time of a symbolic link. Returns false if there is no link with this target.
fn settle_symlink(
    place: &Place<'_>,
    target: &[u8],
    meta: &Meta,
    all: &Settling<'_>,
) -> io::Result<bool> {
    let Some(attr) = place.attr()?.filter(|attr| attr.kind == Kind::Symlink) else {
        return Ok(false);
    };
    let link = place.open(OFlag::O_PATH, 0)?;
    if readlinkat(&link, "")?.as_bytes() != target {
        return Ok(false);
    }
    if (meta.uid, meta.gid) != (attr.uid, attr.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        fchownat(&link, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)?;
    }
    if let Some(mtime) = meta.mtime {
        let (atime, mtime) = (TimeSpec::UTIME_OMIT, all.time(mtime));
        utimensat(&place.dir, place.name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?;
    }
    Ok(true)
}

pub(super) fn link(path: &[u8], to: &[u8], all: &Settling<'_>) -> io::Result<()> {
    let (place, to) = (Place::of(path)?, Place::of(to)?);
    let same = |a: Option<Attr>, b: Option<Attr>| {
        a.zip(b).is_some_and(|(a, b)| (a.dev, a.ino) == (b.dev, b.ino))
    };
    if same(place.attr()?, to.attr()?) {
        return Ok(());
    }
    make_room(&place, path, all)?;
    Ok(linkat(&to.dir, to.name, &place.dir, place.name, AtFlags::empty())?)
}

pub(super) fn make_special(
    path: &[u8],
    kind: Kind,
    meta: &Meta,
    all: &Settling<'_>,
) -> io::Result<()> {
    let place = Place::of(path)?;
    make_room(&place, path, all)?;
    let flag = match kind {
        Kind::Fifo => SFlag::S_IFIFO,
        Kind::Socket => SFlag::S_IFSOCK,
        _ => return Err(io::ErrorKind::InvalidInput.into()),
    };
    let mode = Mode::from_bits_truncate(meta.mode);
    mknodat(&place.dir, place.name, flag, mode, 0)?;
    let made = just_made(&place, kind)?;
    if Attr::of(&fstat(&made)?).mode != meta.mode {
        // The directory's default access control list, or the umask, may have reduced the mode.
        let link = format!("/proc/thread-self/fd/{}", made.as_raw_fd());
        fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    settle(&made, &place, meta, all)
}

/// Removes the access control lists that something new has inherited from its directory here. The walk's own has inherited
/// them as well, unless it was made elsewhere, or the walk has removed them.
fn disinherit(file: &OwnedFd, meta: &Meta) -> io::Result<()> {
    let is_own = |name: &[u8]| meta.xattrs.iter().any(|(own, _)| own == name);
    let inherited =
        xattr::list(file)?.into_iter().filter(|name| xattr::is_acl(name) && !is_own(name));
    inherited.into_iter().try_for_each(|name| xattr::remove(file, &name))
}

/// Sets an open file's owner, mode, attributes and time, where they differ.
fn settle_open(file: &OwnedFd, meta: &Meta, all: &Settling<'_>) -> io::Result<()> {
    // Removed access control lists first, because they affect the meaning of the mode.
    for name in &meta.without {
        xattr::remove(file, name)?;
    }
    let now = Attr::of(&fstat(file)?);
    let is_others = (now.uid, now.gid) != (meta.uid, meta.gid);
    if is_others {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        nix::unistd::fchown(file, Some(uid), Some(gid))?;
    }
    // The kernel has cleared set-id bits with the change of owner.
    if now.mode != meta.mode || is_others && meta.mode & SET_ID != 0 {
        fchmod(file, Mode::from_bits_truncate(meta.mode))?;
    }
    for (name, value) in &meta.xattrs {
        xattr::set(file, name, value)?;
    }
    if let Some(mtime) = meta.mtime {
        futimens(file, &TimeSpec::UTIME_OMIT, &all.time(mtime))?;
    }
    Ok(())
}

/// Sets the time of a directory. An existing one may be in use by others: it keeps the time of the commit's own
/// changes in it, unless the walk has set a time.
pub(super) fn set_dir_time(
    path: &[u8],
    mtime: Mtime,
    is_new: bool,
    all: &Settling<'_>,
) -> io::Result<()> {
    let place = Place::of(path)?;
    let moved = place.attr()?.is_some_and(|now| now.mtime >= all.now.before(CLOCK_TICK_NANOS_MAX));
    if moved && !is_new && matches!(mtime, Mtime::Since(_)) {
        return Ok(());
    }
    let (atime, mtime) = (TimeSpec::UTIME_OMIT, all.time(mtime));
    Ok(utimensat(&place.dir, place.name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}
