//! Makes the directories of a share where nobody can exchange them before they have their owner and mode.
//!
//! A directory cannot be made and opened at once. If others may write the directory above, they can put another one in its place
//! in between, and the superuser would give that away. So it is made in a hidden directory that only its owner may enter, and
//! moved from there.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, fchmod, fstat, mkdirat, openat, unlinkat};
use rustix::io::Errno;
use worknode::history::Permissions;

use super::known::Stamp;
use super::source::{Source, stamp};
use super::target::{Failed, NEW, dir_mode, hidden, is_taken, look, move_new, os, set_aside};

/// The name of the new directory in the hidden one.
const INNER: &[u8] = b".oswalk-share-dir";
const OPENING: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Source {
    /// Makes a directory.
    pub(super) fn make_dir(
        &self,
        (dir, name): (&[u8], &[u8]),
        permissions: Permissions,
    ) -> Result<Stamp, Failed> {
        self.act(|| {
            let at = self.open_at(dir, OFlags::DIRECTORY)?;
            if is_taken(&at, name)? {
                return Err(Failed::Changed);
            }
            let stage = hidden(NEW);
            mkdirat(&at, os(&stage), Mode::RWXU)?;
            let made = self.make_in(&at, &stage, name, permissions);
            // What stays is removed with the next comparison.
            let _ = unlinkat(&at, os(&stage), AtFlags::REMOVEDIR);
            made
        })
    }

    /// Makes a directory by way of a hidden one, which was just made.
    pub(super) fn make_in(
        &self,
        at: &OwnedFd,
        stage: &[u8],
        name: &[u8],
        permissions: Permissions,
    ) -> Result<Stamp, Failed> {
        let stage = openat(at, os(stage), OPENING, Mode::empty())?;
        if !self.is_own(&stage)? {
            // The file system has no owners, or it is somebody else's. What is made in one step needs no other rights.
            mkdirat(at, os(name), dir_mode(permissions) & Mode::from_raw_mode(0o777))
                .map_err(taken)?;
            return look(at, name);
        }
        mkdirat(&stage, os(INNER), Mode::RWXU)?;
        let made = self.move_out(&stage, (at, name), permissions);
        if made.is_err() {
            let _ = unlinkat(&stage, os(INNER), AtFlags::REMOVEDIR);
        }
        made
    }

    fn move_out(
        &self,
        stage: &OwnedFd,
        to: (&OwnedFd, &[u8]),
        permissions: Permissions,
    ) -> Result<Stamp, Failed> {
        let made = openat(stage, os(INNER), OPENING, Mode::empty())?;
        self.dress(&made, permissions)?;
        fchmod(&made, dir_mode(permissions))?;
        move_new((stage, INNER), to).map_err(taken)?;
        Ok(stamp(&fstat(&made)?))
    }

    /// Tells whether nobody else may change what is in a directory.
    fn is_own(&self, dir: &OwnedFd) -> Result<bool, Errno> {
        let stat = fstat(dir)?;
        Ok(stat.st_uid == self.uid() && stat.st_mode & 0o777 == 0o700)
    }

    /// Ends what a crash has left of a directory: an empty one is removed. Any other one is a program's, and gets a name that
    /// is seen.
    pub(super) fn clear_dir(&self, (dir, name): (&[u8], &[u8])) -> Result<(), Failed> {
        self.act(|| {
            let at = self.open_at(dir, OFlags::DIRECTORY)?;
            if name.starts_with(NEW) {
                let stage = openat(&at, os(name), OPENING, Mode::empty())?;
                let _ = unlinkat(&stage, os(INNER), AtFlags::REMOVEDIR);
            }
            match unlinkat(&at, os(name), AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => drop(set_aside(&at, name, b"saved")?),
                removed => removed?,
            }
            Ok(())
        })
    }
}

fn taken(error: Errno) -> Failed {
    if error == Errno::EXIST { Failed::Changed } else { error.into() }
}
