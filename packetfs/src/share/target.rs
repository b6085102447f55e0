//! Writes the ordinary directory of a share, with the rights of its user: by descriptors, without following symbolic links.
//!
//! A file is complete before it gets its name. What had the name is exchanged for it and looked at: if it is not what it was, a
//! program has changed it, and gets it back. What is under a hidden name after a crash is removed or given a name: see
//! [`Source::clear`].

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, fchmod, fchown,
    fstat, futimens, linkat, openat, renameat, renameat_with, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use worknode::history::{Nanos, Permissions};

use super::known::Stamp;
use super::source::{Source, stamp};
use crate::path::Bytes;
use crate::volume::has_writer;

/// What is being written has this at the beginning of its name, …
pub(super) const NEW: &[u8] = b".oswalk-share-new-";
/// … and what was replaced or is being removed this.
const OLD: &[u8] = b".oswalk-share-old-";
/// What both begin with.
const HIDDEN: &[u8] = b".oswalk-share-";
/// Read and written at once.
const PART_BYTES: usize = 1024 * 1024;
/// Longest name of the usual file systems.
const NAME_BYTES_MAX: usize = 255;
/// Other names that are tried for a file whose name another one has.
const ASIDE_MAX: u32 = 1000;

/// Why the disk stays what it is.
#[derive(Debug)]
pub(super) enum Failed {
    /// A program has changed what is there.
    Changed,
    /// A program has it open for writing.
    Open,
    /// A directory is not empty.
    Full,
    /// Its content cannot be read from the volume.
    Content(io::Error),
    /// The share is to end.
    Cancelled,
    /// The disk refuses.
    Disk(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Errno> for Failed {
    fn from(error: Errno) -> Self {
        Self::Disk(error.into())
    }
}

/// A file to be written.
pub(super) enum New<'a> {
    /// A regular file with so many bytes.
    File(&'a mut dyn Read, u64, Nanos),
    /// A symbolic link with its target.
    Link(&'a [u8]),
}

/// Tells whether a name is one under which files are written.
pub(super) fn is_hidden(name: &[u8]) -> bool {
    name.starts_with(HIDDEN)
}

impl Source {
    /// Writes a file. `former` is what has the name, if anything has.
    pub(super) fn write(
        &self,
        (dir, name): (&[u8], &[u8]),
        new: New<'_>,
        permissions: Permissions,
        former: Option<&Stamp>,
        cancel: &AtomicBool,
    ) -> Result<Stamp, Failed> {
        self.act(|| {
            let at = self.open_at(dir, OFlags::DIRECTORY)?;
            // What is in vain is found before a long content is written.
            match former {
                None if is_taken(&at, name)? => return Err(Failed::Changed),
                None => {}
                Some(former) => check(&at, name, former)?,
            }
            let (part, temp) = (hidden(NEW), hidden(OLD));
            let made = self.make(&at, &part, new, permissions, cancel).and_then(|own| {
                rename_new(&at, &part, &temp)?;
                Ok(own)
            });
            let own = made.inspect_err(|_| drop_name(&at, &part))?;
            match former {
                None => place(&at, &temp, name)?,
                Some(former) => match exchange(&at, &temp, name, former, &own) {
                    // Not every file system can exchange names.
                    Err(Failed::Disk(error)) if error.raw_os_error() == Some(libc::EINVAL) => {
                        take_out(&at, name, former).inspect_err(|_| drop_name(&at, &temp))?;
                        place(&at, &temp, name)?;
                    }
                    exchanged => exchanged?,
                },
            }
            // A program may have changed it already.
            let now = look(&at, name).ok().filter(|now| is_same(now, &own));
            Ok(now.unwrap_or(own))
        })
    }

    /// Removes a file that is no directory.
    pub(super) fn remove(&self, (dir, name): (&[u8], &[u8]), former: &Stamp) -> Result<(), Failed> {
        self.act(|| take_out(&self.open_at(dir, OFlags::DIRECTORY)?, name, former))
    }

    /// Gives a directory another mode, if it is still what it was.
    pub(super) fn set_dir(
        &self,
        dir: &[u8],
        permissions: Permissions,
        former: &Stamp,
    ) -> Result<Stamp, Failed> {
        self.act(|| {
            let opened = self.open_at(dir, OFlags::DIRECTORY)?;
            let now = stamp(&fstat(&opened)?);
            let rights = |stamp: &Stamp| (stamp.mode, stamp.uid, stamp.gid);
            if !is_one(&now, former) || rights(&now) != rights(former) {
                return Err(Failed::Changed);
            }
            // In the directory of another user, a directory keeps whose it is.
            if fstat(self.open_at(b"", OFlags::DIRECTORY)?)?.st_uid == 0 {
                self.dress(&opened, permissions)?;
            }
            fchmod(&opened, dir_mode(permissions))?;
            Ok(stamp(&fstat(&opened)?))
        })
    }

    /// Removes an empty directory, if it is still the same one.
    pub(super) fn remove_dir(
        &self,
        (dir, name): (&[u8], &[u8]),
        former: &Stamp,
    ) -> Result<(), Failed> {
        self.act(|| {
            let at = self.open_at(dir, OFlags::DIRECTORY)?;
            match statat(&at, os(name), AtFlags::SYMLINK_NOFOLLOW).map(|now| stamp(&now)) {
                Ok(now) if !is_one(&now, former) => return Err(Failed::Changed),
                Ok(_) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            match unlinkat(&at, os(name), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Failed::Full),
                Err(Errno::NOTDIR) => Err(Failed::Changed),
                Err(error) => Err(error.into()),
            }
        })
    }

    /// Gives a file another name that is free.
    pub(super) fn set_aside(&self, (dir, name): (&[u8], &[u8])) -> Result<Bytes, Failed> {
        self.act(|| Ok(set_aside(&self.open_at(dir, OFlags::DIRECTORY)?, name, name)?))
    }

    /// Tells whether anything has a name.
    pub(super) fn has(&self, (dir, name): (&[u8], &[u8])) -> bool {
        let has = || Ok(is_taken(&self.open_at(dir, OFlags::DIRECTORY)?, name)?);
        self.as_user(has).unwrap_or(false)
    }

    /// Tells what a name is, if it is neither a file, a directory nor a link.
    pub(super) fn is_special(&self, (dir, name): (&[u8], &[u8])) -> bool {
        let found = self.as_user(|| {
            let at = self.open_at(dir, OFlags::DIRECTORY)?;
            Ok(statat(&at, os(name), AtFlags::SYMLINK_NOFOLLOW)?)
        });
        found.is_ok_and(|stat| {
            let known = [FileType::RegularFile, FileType::Directory, FileType::Symlink];
            !known.contains(&FileType::from_raw_mode(stat.st_mode))
        })
    }

    /// Ends what a crash has left under a hidden name: half of a file is removed, likewise what the volume has; else it is a
    /// change of a program, and gets a name that is seen.
    pub(super) fn clear(
        &self,
        (dir, name): (&[u8], &[u8]),
        is_in_volume: impl FnOnce(&Stamp) -> Result<bool, Failed>,
    ) -> Result<(), Failed> {
        let at = self.act(|| Ok(self.open_at(dir, OFlags::DIRECTORY)?))?;
        let found = self.act(|| look(&at, name))?;
        let is_superfluous = name.starts_with(NEW) || is_in_volume(&found)?;
        self.act(|| {
            if is_superfluous {
                unlinkat(&at, os(name), AtFlags::empty())?;
            } else {
                set_aside(&at, name, b"saved")?;
            }
            Ok(())
        })
    }

    /// Makes the names in a directory durable, and its mode. One that is gone has none.
    pub(super) fn sync_dir(&self, dir: &[u8]) -> io::Result<()> {
        let synced = self.as_user(|| Ok(rustix::fs::fsync(self.open_at(dir, OFlags::DIRECTORY)?)?));
        synced.or_else(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EXDEV) => Ok(()),
            _ => Err(error),
        })
    }

    pub(super) fn act<T>(&self, act: impl FnOnce() -> Result<T, Failed>) -> Result<T, Failed> {
        self.as_user(|| Ok(act()))?
    }

    fn make(
        &self,
        at: &OwnedFd,
        part: &[u8],
        new: New<'_>,
        permissions: Permissions,
        cancel: &AtomicBool,
    ) -> Result<Stamp, Failed> {
        let (content, bytes, modified) = match new {
            New::Link(target) => {
                symlinkat(os(target), at, os(part))?;
                return look(at, part);
            }
            New::File(content, bytes, modified) => (content, bytes, modified),
        };
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(at, os(part), flags, Mode::RUSR | Mode::WUSR)?);
        fill(&file, content, bytes, cancel)?;
        self.dress(&file, permissions)?;
        // What could act for its owner is never given by others.
        fchmod(&file, Mode::from_raw_mode(permissions.mode & 0o777))?;
        let time = timespec(modified);
        futimens(&file, &Timestamps { last_access: time, last_modification: time })?;
        // After a power cut it would be a change if it had less.
        file.sync_all()?;
        // Others may exchange the name, but not what is open.
        Ok(stamp(&fstat(&file)?))
    }

    /// Gives a new file its owner, as far as this process may: in a directory of the superuser the one of the volume, and in
    /// another one its owner.
    pub(super) fn dress(
        &self,
        file: impl std::os::fd::AsFd,
        permissions: Permissions,
    ) -> io::Result<()> {
        if !self.is_root() {
            return Ok(());
        }
        let top = fstat(self.open_at(b"", OFlags::DIRECTORY)?)?;
        let (uid, gid) = match top.st_uid {
            0 => (permissions.uid, permissions.gid),
            uid => (uid, top.st_gid),
        };
        let is_id = |id: u32| id != u32::MAX;
        if is_id(uid) && is_id(gid) {
            fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        }
        Ok(())
    }
}

fn fill(
    file: &File,
    content: &mut dyn Read,
    bytes: u64,
    cancel: &AtomicBool,
) -> Result<(), Failed> {
    let (mut at, mut part) = (0, vec![0; PART_BYTES]);
    loop {
        if cancel.load(Ordering::Relaxed) {
            return Err(Failed::Cancelled);
        }
        let count = content.read(&mut part).map_err(Failed::Content)?;
        if count == 0 {
            break;
        }
        // What is zero stays a hole.
        if part[..count].iter().any(|&byte| byte != 0) {
            file.write_all_at(&part[..count], at)?;
        }
        at += count as u64;
    }
    if at != bytes {
        return Err(Failed::Content(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(file.set_len(bytes)?)
}

/// Gives a file a name that is free. Otherwise the file is removed.
fn place(at: &OwnedFd, temp: &[u8], name: &[u8]) -> Result<(), Failed> {
    match rename_new(at, temp, name) {
        Ok(()) => Ok(()),
        Err(error) => {
            drop_name(at, temp);
            Err(if error == Errno::EXIST { Failed::Changed } else { error.into() })
        }
    }
}

/// Puts a file in the place of another one if that is the former one. Otherwise the new file is removed.
fn exchange(
    at: &OwnedFd,
    temp: &[u8],
    name: &[u8],
    former: &Stamp,
    own: &Stamp,
) -> Result<(), Failed> {
    let swapped = check(at, name, former).and_then(|()| match swap(at, temp, name) {
        Err(Errno::NOENT) => Err(Failed::Changed),
        swapped => Ok(swapped?),
    });
    if let Err(failed) = swapped {
        if !matches!(&failed, Failed::Disk(error) if error.raw_os_error() == Some(libc::EINVAL)) {
            drop_name(at, temp);
        }
        return Err(failed);
    }
    settle(at, temp, name, former, own)
}

/// Ends an exchange: removes what came out if it is the former file. Otherwise a program was faster, and what it has made gets its
/// name back. What a program has put under the name since keeps that, and what it has replaced gets another one.
pub(super) fn settle(
    at: &OwnedFd,
    temp: &[u8],
    name: &[u8],
    former: &Stamp,
    own: &Stamp,
) -> Result<(), Failed> {
    let Err(failed) = check_out(at, temp, former) else {
        drop_name(at, temp);
        return Ok(());
    };
    let is_back = swap(at, temp, name).is_ok();
    if is_back && !is_untouched(at, temp, own) {
        // If it fails, what is under the hidden name is a program's, too.
        let _ = swap(at, temp, name);
    }
    if is_back && is_untouched(at, temp, own) {
        drop_name(at, temp);
    } else {
        set_aside(at, temp, name)?;
    }
    Err(failed)
}

pub(super) fn swap(at: &OwnedFd, one: &[u8], other: &[u8]) -> Result<(), Errno> {
    renameat_with(at, os(one), at, os(other), RenameFlags::EXCHANGE)
}

/// Tells whether a file is the one that was made here, no program has changed it, and none can.
fn is_untouched(at: &OwnedFd, name: &[u8], own: &Stamp) -> bool {
    let Ok(stat) = statat(at, os(name), AtFlags::SYMLINK_NOFOLLOW) else { return false };
    if !is_same(&stamp(&stat), own) {
        return false;
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
        return true;
    }
    // What was written before the descriptor tells it was seen, so it is looked at in this order.
    let has_no_writer = open_file(at, name).is_ok_and(|it| has_writer(&it).is_ok_and(|has| !has));
    has_no_writer && look(at, name).is_ok_and(|now| is_same(&now, own))
}

/// Removes a file if it is the former one.
fn take_out(at: &OwnedFd, name: &[u8], former: &Stamp) -> Result<(), Failed> {
    match check(at, name, former) {
        Err(Failed::Disk(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        checked => checked?,
    }
    let temp = hidden(OLD);
    match rename_new(at, name, &temp) {
        Err(Errno::NOENT) => return Ok(()),
        renamed => renamed?,
    }
    let Err(failed) = check_out(at, &temp, former) else {
        return Ok(unlinkat(at, os(&temp), AtFlags::empty())?);
    };
    if rename_new(at, &temp, name).is_err() {
        set_aside(at, &temp, name)?;
    }
    Err(failed)
}

/// Makes sure that a file is the former one, and that no program has it open for writing.
fn check(at: &OwnedFd, name: &[u8], former: &Stamp) -> Result<(), Failed> {
    if look(at, name)? != *former {
        return Err(Failed::Changed);
    }
    check_open(at, name)
}

/// Does the same for a file that was renamed since.
fn check_out(at: &OwnedFd, name: &[u8], former: &Stamp) -> Result<(), Failed> {
    if !is_same(&look(at, name)?, former) {
        return Err(Failed::Changed);
    }
    check_open(at, name)
}

fn check_open(at: &OwnedFd, name: &[u8]) -> Result<(), Failed> {
    // A link has no content, and of what may not be read or has no leases nothing is known.
    let Ok(file) = open_file(at, name) else { return Ok(()) };
    match has_writer(&file) {
        Ok(true) => Err(Failed::Open),
        _ => Ok(()),
    }
}

fn open_file(at: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(at, os(name), flags, Mode::empty()).map(File::from)
}

/// Tells whether it is the same file, whatever has become of it.
fn is_one(one: &Stamp, other: &Stamp) -> bool {
    (one.dev, one.ino) == (other.dev, other.ino)
}

/// Tells whether a file has not changed, except for its name.
fn is_same(one: &Stamp, other: &Stamp) -> bool {
    Stamp { changed: other.changed, ..*one } == *other
}

pub(super) fn look(at: &OwnedFd, name: &[u8]) -> Result<Stamp, Failed> {
    Ok(stamp(&statat(at, os(name), AtFlags::SYMLINK_NOFOLLOW)?))
}

/// Renames a file to a name that is free.
fn rename_new(at: &OwnedFd, from: &[u8], to: &[u8]) -> Result<(), Errno> {
    move_new((at, from), (at, to))
}

/// Moves a file to a name that is free.
pub(super) fn move_new(from: (&OwnedFd, &[u8]), to: (&OwnedFd, &[u8])) -> Result<(), Errno> {
    let ((from_at, from), (to_at, to)) = (from, to);
    match renameat_with(from_at, os(from), to_at, os(to), RenameFlags::NOREPLACE) {
        // Not every file system can say so.
        Err(Errno::INVAL | Errno::NOSYS) if is_hidden(to) => {
            renameat(from_at, os(from), to_at, os(to))
        }
        Err(Errno::INVAL | Errno::NOSYS) => {
            let stat = statat(from_at, os(from), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                // A directory has no second name. Nothing but an empty one is replaced.
                return if is_taken(to_at, to)? {
                    Err(Errno::EXIST)
                } else {
                    renameat(from_at, os(from), to_at, os(to))
                };
            }
            linkat(from_at, os(from), to_at, os(to), AtFlags::empty())?;
            unlinkat(from_at, os(from), AtFlags::empty())
        }
        renamed => renamed,
    }
}

/// Tells whether something has a name.
pub(super) fn is_taken(at: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    match statat(at, os(name), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Gives a file a name that is free and is like another one.
pub(super) fn set_aside(at: &OwnedFd, from: &[u8], like: &[u8]) -> Result<Bytes, Errno> {
    for number in 1..=ASIDE_MAX {
        let end = format!(".conflict-{number}");
        let like = &like[..like.len().min(NAME_BYTES_MAX - end.len())];
        let name = [like, end.as_bytes()].concat();
        match rename_new(at, from, &name) {
            Ok(()) => return Ok(name),
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EXIST)
}

fn drop_name(at: &OwnedFd, name: &[u8]) {
    // What stays is removed with the next comparison.
    let _ = unlinkat(at, os(name), AtFlags::empty());
}

/// Returns a hidden name that no other file has.
pub(super) fn hidden(begin: &[u8]) -> Bytes {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let (process, number) = (std::process::id(), LAST.fetch_add(1, Ordering::Relaxed));
    [begin, format!("{now:x}-{process:x}-{number:x}").as_bytes()].concat()
}

/// Returns the mode of a directory: its owner can always work in it.
pub(super) fn dir_mode(permissions: Permissions) -> Mode {
    Mode::from_raw_mode(permissions.mode & 0o1777 | 0o700)
}

fn timespec(nanos: Nanos) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    Timespec { tv_sec: nanos.div_euclid(SECOND), tv_nsec: nanos.rem_euclid(SECOND) }
}

pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}
