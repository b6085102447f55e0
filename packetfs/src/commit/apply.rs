//! Makes the changes of a commit. Every step may be repeated: a commit that was interrupted is
//! applied again from its start.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, renameat};
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, futimens, mkdirat,
    mknodat, utimensat,
};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{AccessFlags, Gid, Uid, faccessat, fchownat, linkat, symlinkat};

use super::identity::Identity;
use super::moves::Moves;
use super::pieces::Pieces;
use super::place::Place;
use super::temporary::Temporary;
use super::{Commit, Contents, Owner};
use crate::change::{Base, ChangeSet, Meta, Mtime, Op, Placing};
use crate::path::TreePath;
use crate::tree::{Attr, Bytes, Kind, Time, split};
use crate::xattr;

/// The longest tick of a kernel's clock (100 Hz): file times are those of the last tick.
const CLOCK_TICK_NANOS_MAX: u64 = 10_000_000;

/// A change that could not be made.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} {}", String::from_utf8_lossy(path))]
pub struct ApplyError {
    action: &'static str,
    path: Bytes,
    source: io::Error,
    /// Nothing was changed before.
    is_first: bool,
}

impl ApplyError {
    /// The owner's identity cannot be assumed.
    pub(super) fn of_identity(source: io::Error) -> Self {
        failed("assume the owner's identity for", b"/")(source)
    }

    /// Returns the name if somebody else has just changed what is there, and nothing was changed yet.
    pub(super) fn conflict(&self) -> Option<TreePath> {
        let raced = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound];
        let is_race = self.is_first && raced.contains(&self.source.kind());
        is_race.then(|| TreePath::new(self.path.clone()).ok())?
    }
}

fn failed(action: &'static str, path: &[u8]) -> impl FnOnce(io::Error) -> ApplyError + use<> {
    let path = path.to_vec();
    move |source| ApplyError { action, path, source, is_first: false }
}

/// Looks, before anything is changed, whether the changes can be made at all: whether the owner may
/// write in every directory, and whether there is room for the content.
pub(super) fn check(commit: &Commit) -> Result<(), ApplyError> {
    let _identity = Identity::assume(&commit.owner).map_err(ApplyError::of_identity)?;
    let mut bytes = 0;
    let mut seen = HashSet::new();
    for op in &commit.changes.ops {
        let path = path_of(op);
        if let Op::File { manifest, .. } = op {
            bytes += manifest.data_bytes();
        }
        let Some((dir, _)) = split(path) else { continue };
        // A directory is in the change set because something below it changed: what counts is
        // that one's own directory. One that is not there yet is made by the change set itself.
        if matches!(op, Op::Dir { .. }) || !seen.insert(dir) {
            continue;
        }
        let Ok(place) = Place::of(path) else { continue };
        let (mode, flags) = (AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS);
        faccessat(&place.dir, ".", mode, flags)
            .map_err(|errno| failed("write in", dir)(errno.into()))?;
        let room = fstatvfs(&place.dir).map_err(|errno| failed("look at", dir)(errno.into()))?;
        if room.blocks_available() * room.fragment_size() < bytes {
            return Err(failed("find room in", dir)(Errno::ENOSPC.into()));
        }
    }
    Ok(())
}

fn path_of(op: &Op) -> &[u8] {
    match op {
        Op::Rename { to: path, .. }
        | Op::Remove { path }
        | Op::Dir { path, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Link { path, .. }
        | Op::Special { path, .. } => path,
    }
}

/// A commit that was interrupted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Begun {
    /// When.
    pub(super) at: Time,
    /// Whether all that had to be was taken aside by then.
    pub(super) is_cleared: bool,
}

/// Makes all changes. If they were begun before, what somebody else has changed since is left alone.
/// Calls `cleared` when everything is taken aside that has to be.
pub(super) fn apply(
    commit: &Commit,
    contents: &Contents<'_>,
    temporary: Temporary,
    begun: Option<Begun>,
    cleared: &dyn Fn() -> io::Result<()>,
) -> Result<(), ApplyError> {
    let _identity = Identity::assume(&commit.owner).map_err(ApplyError::of_identity)?;
    let moves = Moves::of(&commit.changes.ops, temporary);
    if !moves.is_empty() && !begun.is_some_and(|begun| begun.is_cleared) {
        let take = || moves.take_aside().and_then(|()| cleared().inspect_err(|_| moves.put_back()));
        let first = |error| ApplyError { is_first: begun.is_none(), ..error };
        take().map_err(failed("rename what is in", b"/")).map_err(first)?;
    }
    let changed = change(commit, contents, (&moves, temporary), begun.map(|begun| begun.at));
    changed.inspect_err(|_| moves.put_back())?;
    moves.remove_rest().map_err(failed("remove what was replaced in", b"/"))
}

fn change(
    commit: &Commit,
    contents: &Contents<'_>,
    (moves, temporary): (&Moves, Temporary),
    begun: Option<Time>,
) -> Result<(), ApplyError> {
    let is_certain = begun.is_none() && !commit.last_wins;
    let known = if is_certain { Known::of(&commit.changes) } else { Known::default() };
    let (now, again) = (Time::of(SystemTime::now()), begun.is_some());
    let all = &Settling { owner: &commit.owner, began: commit.began, now, known, again };
    let mut made: HashSet<&[u8]> = HashSet::new();
    let mut is_first = !again;
    for (at, op) in commit.changes.ops.iter().enumerate() {
        if begun.is_some_and(|begun| belongs_to_others(op, contents, begun)) {
            tracing::warn!(
                path = %String::from_utf8_lossy(path_of(op)),
                "changed since the commit was interrupted: left alone"
            );
            continue;
        }
        match op {
            Op::Rename { from, to } => {
                rename(moves.now(from), to, all).map_err(failed("rename", from))
            }
            Op::Remove { path } => remove(path, all).map_err(failed("remove", path)),
            Op::Dir { path, meta, replaces: _ } => make_dir(path, meta, all)
                .map(|is_new| {
                    if is_new {
                        made.insert(&**path);
                    }
                })
                .map_err(failed("make the directory", path)),
            Op::File { path, meta, manifest, placing } => {
                let pieces = Pieces { manifest, contents };
                let fresh_name = || temporary.fresh(at);
                write_file((path, &fresh_name), meta, &pieces, *placing, all)
                    .map_err(failed("write", path))
            }
            Op::Symlink { path, target, meta } => {
                make_symlink(path, target, meta, all).map_err(failed("make the link", path))
            }
            Op::Link { path, to } => link(path, to, all).map_err(failed("link", path)),
            Op::Special { path, kind, rdev: _, meta } => {
                make_special(path, *kind, meta, all).map_err(failed("make", path))
            }
        }
        .map_err(|error| ApplyError { is_first, ..error })?;
        // To a directory that was there nothing is done that cannot be done once more.
        is_first &= matches!(op, Op::Dir { path, .. } if !made.contains(&path[..]));
    }
    // Directory times last: every change in a directory moves them.
    for op in commit.changes.ops.iter().rev() {
        if let Op::Dir { path, meta: Meta { mtime: Some(mtime), .. }, .. } = op {
            match set_dir_time(path, *mtime, made.contains(&**path), all) {
                // Whoever makes something in another's directory moves its time, and cannot set it.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                result => result.map_err(failed("set the time of", path))?,
            }
        }
    }
    Ok(())
}

/// Tells whether somebody else has changed a name since an interrupted commit was begun: it is
/// newer than that, and not what the commit itself may have left there.
fn belongs_to_others(op: &Op, contents: &Contents<'_>, begun: Time) -> bool {
    let path = path_of(op);
    let Ok(Some(now)) = Place::of(path).and_then(|place| place.attr()) else { return false };
    if now.ctime <= begun {
        return false;
    }
    match op {
        // What is half removed is newer too.
        Op::Remove { path } if now.kind == Kind::Dir => has_newer_files(path, begun),
        Op::File { placing: Placing::Behind(_), .. } => false,
        Op::File { manifest, .. } => {
            let pieces = Pieces { manifest, contents };
            let file = Place::of(path).and_then(|place| place.open_file(OFlag::O_RDONLY));
            !file.is_ok_and(|file| pieces.begin_with(&file))
        }
        Op::Remove { .. } => true,
        _ => false,
    }
}

/// Tells whether something below a directory that is no directory itself is newer than a moment, or is
/// deeper than anything that a walk has seen.
pub(super) fn has_newer_files(dir: &[u8], moment: Time) -> bool {
    let mut dirs = vec![PathBuf::from(OsStr::from_bytes(dir))];
    while let Some(dir) = dirs.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::InvalidFilename => return true,
            Err(_) => continue,
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            match nix::sys::stat::lstat(&path).map(|stat| Attr::of(&stat)) {
                Ok(Attr { kind: Kind::Dir, .. }) | Err(Errno::ENAMETOOLONG) => dirs.push(path),
                Ok(attr) if attr.ctime > moment => return true,
                _ => {}
            }
        }
    }
    false
}

/// What all changes of a commit have in common.
struct Settling<'a> {
    owner: &'a Owner,
    /// When the walk began: its times count from there.
    began: Time,
    /// Nothing is written in the future.
    now: Time,
    known: Known<'a>,
    /// The commit was interrupted.
    again: bool,
}

/// Names of which is certain what is there until somebody else changes it: not even in the last moment
/// is that to go unnoticed. A directory that is made serves as a lock.
#[derive(Default)]
struct Known<'a> {
    absent: HashSet<&'a [u8]>,
    present: HashSet<&'a [u8]>,
}

impl<'a> Known<'a> {
    fn of(changes: &'a ChangeSet) -> Self {
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
    /// Returns a time on this machine's clock.
    fn time(&self, mtime: Mtime) -> TimeSpec {
        let time = match mtime {
            Mtime::Set(time) => time,
            Mtime::Since(nanos) => self.began.after(nanos).min(self.now),
        };
        TimeSpec::new(time.seconds, i64::from(time.nanos))
    }
}

/// Takes hold of what was just made under a name, whatever becomes of the name: somebody may put
/// another name of a file of theirs, or of root's, in its place.
fn just_made(place: &Place<'_>, kind: Kind) -> io::Result<OwnedFd> {
    let made = place.open(OFlag::O_PATH, 0)?;
    let attr = Attr::of(&fstat(&made)?);
    if attr.kind != kind || attr.links != 1 {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    Ok(made)
}

/// Sets owner and time of something that is not opened to be read or written.
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

fn rename(from: &[u8], to: &[u8], all: &Settling<'_>) -> io::Result<()> {
    let to = Place::of(to)?;
    let found = Place::of(from).and_then(|from| {
        let attr = from.attr()?.ok_or(io::ErrorKind::NotFound)?;
        Ok((from, attr))
    });
    match found {
        Ok((from, attr)) => {
            // No file may be where a directory goes; one that goes over another replaces it.
            if attr.kind == Kind::Dir {
                to.clear()?;
            }
            Ok(renameat(&from.dir, from.name, &to.dir, to.name)?)
        }
        // Done before the commit was interrupted.
        Err(error)
            if all.again && error.kind() == io::ErrorKind::NotFound && to.attr()?.is_some() =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn remove(path: &[u8], all: &Settling<'_>) -> io::Result<()> {
    let is_there = all.known.present.contains(path);
    match Place::of(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !is_there => Ok(()),
        Ok(place) if is_there && place.attr()?.is_none() => Err(io::ErrorKind::NotFound.into()),
        place => place?.clear(),
    }
}

/// Removes what is under a name where something else is to be, unless there is nothing for certain.
fn make_room(place: &Place<'_>, path: &[u8], all: &Settling<'_>) -> io::Result<()> {
    if all.known.absent.contains(path) { Ok(()) } else { place.clear() }
}

/// Makes a directory, or changes the one that is there. Returns whether it is new.
fn make_dir(path: &[u8], meta: &Meta, all: &Settling<'_>) -> io::Result<bool> {
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
    let unchanged =
        old.is_some_and(|old| (old.mode, old.uid, old.gid) == (meta.mode, meta.uid, meta.gid));
    if !(unchanged && meta.xattrs.is_empty() && meta.without.is_empty()) {
        let dir = place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0)?;
        settle_open(&dir, meta, all)?;
    }
    Ok(old.is_none())
}

fn write_file(
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
            // What others append to it from now on stays.
            let append = if pieces.has_holes() { OFlag::empty() } else { OFlag::O_APPEND };
            let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | append;
            let file = File::from(place.open(flags, meta.mode)?);
            pieces.write_to(&file)?;
            settle_open(&OwnedFd::from(file), meta, all)
        }
    }
}

/// Puts a new file in the place of what is there, at once for everyone who looks.
fn replace_file(
    place: &Place<'_>,
    fresh_name: &str,
    meta: &Meta,
    pieces: &Pieces<'_>,
    all: &Settling<'_>,
) -> io::Result<()> {
    let fresh = Place { dir: place.dir.try_clone()?, name: OsStr::new(fresh_name) };
    if all.again {
        // Its name is in the journal: no other commit has it, and what has become a directory is left alone.
        fresh.remove_file()?;
    }
    let file = File::from(fresh.open(OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL, meta.mode)?);
    let put = || -> io::Result<()> {
        pieces.write_to(&file)?;
        settle_open(&file.as_fd().try_clone_to_owned()?, meta, all)?;
        if place.attr()?.is_some_and(|old| old.kind == Kind::Dir) {
            place.clear()?;
        }
        Ok(renameat(&fresh.dir, fresh.name, &place.dir, place.name)?)
    };
    put().inspect_err(|_| {
        // The error that counts is the first one.
        let _ = fresh.remove_file();
    })
}

fn make_symlink(path: &[u8], target: &[u8], meta: &Meta, all: &Settling<'_>) -> io::Result<()> {
    let place = Place::of(path)?;
    make_room(&place, path, all)?;
    symlinkat(OsStr::from_bytes(target), &place.dir, place.name)?;
    settle(&just_made(&place, Kind::Symlink)?, &place, meta, all)
}

fn link(path: &[u8], to: &[u8], all: &Settling<'_>) -> io::Result<()> {
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

fn make_special(path: &[u8], kind: Kind, meta: &Meta, all: &Settling<'_>) -> io::Result<()> {
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
        // The directory's default list, or a mask, has taken something away.
        let link = format!("/proc/thread-self/fd/{}", made.as_raw_fd());
        fchmodat(AT_FDCWD, link.as_str(), mode, FchmodatFlags::FollowSymlink)?;
    }
    settle(&made, &place, meta, all)
}

/// Gives an open file its owner, mode, attributes and time, where they are not so already.
fn settle_open(file: &OwnedFd, meta: &Meta, all: &Settling<'_>) -> io::Result<()> {
    // Lists that are gone first: they decide what a mode means.
    for name in &meta.without {
        xattr::remove(file, name)?;
    }
    let now = Attr::of(&fstat(file)?);
    if (now.uid, now.gid) != (meta.uid, meta.gid) {
        let (uid, gid) = (Uid::from_raw(meta.uid), Gid::from_raw(meta.gid));
        nix::unistd::fchown(file, Some(uid), Some(gid))?;
    }
    if now.mode != meta.mode {
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

/// Sets the time of a directory. One that was there before may be in use by others: it keeps the time
/// of what the commit has just done in it, unless the walk has set another.
fn set_dir_time(path: &[u8], mtime: Mtime, is_new: bool, all: &Settling<'_>) -> io::Result<()> {
    let place = Place::of(path)?;
    let moved = place.attr()?.is_some_and(|now| now.mtime >= all.now.before(CLOCK_TICK_NANOS_MAX));
    if moved && !is_new && matches!(mtime, Mtime::Since(_)) {
        return Ok(());
    }
    let (atime, mtime) = (TimeSpec::UTIME_OMIT, all.time(mtime));
    Ok(utimensat(&place.dir, place.name, &atime, &mtime, UtimensatFlags::NoFollowSymlink)?)
}
