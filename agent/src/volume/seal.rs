//! Keeps programs from writing into the directory below a mount while the volume is not mounted there: the next mount would hide
//! what they write.
//!
//! The directory gets a mode without writing, which is taken back when the mount is given up. It does not keep the superuser from
//! writing; but the volume is not mounted over files, so they are not hidden.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

/// Reading and searching for all.
const SEALED: u32 = 0o555;
const MODE_BITS: u32 = 0o7777;

/// A directory before it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Former {
    mode: u32,
    ino: u64,
}

/// The directory below a mount, opened before the volume is mounted there.
#[derive(Debug)]
pub(super) struct Below(File);

impl Below {
    pub(super) fn open(point: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(point).map(Self)
    }

    /// Returns what it is.
    pub(super) fn former(&self) -> io::Result<Former> {
        let data = self.0.metadata()?;
        Ok(Former { mode: data.permissions().mode() & MODE_BITS, ino: data.ino() })
    }

    /// Tells whether it is one that was sealed. Somebody may have moved another one to its path.
    pub(super) fn was(&self, former: Former) -> bool {
        self.former().is_ok_and(|now| now == Former { mode: SEALED, ..former })
    }

    /// Lets nobody write in it, as far as that can be done.
    pub(super) fn seal(&self) {
        if let Err(error) = self.0.set_permissions(Permissions::from_mode(SEALED)) {
            tracing::debug!(%error, "the directory below a mount stays writable");
        }
    }

    /// Makes it what it was, if it was sealed.
    pub(super) fn open_again(&self, former: Former) -> io::Result<()> {
        if !self.was(former) {
            return Ok(());
        }
        self.0.set_permissions(Permissions::from_mode(former.mode))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_directory_takes_no_files_until_it_is_opened_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let point = dir.path().join("m");
        std::fs::create_dir(&point).expect("the name is free");
        std::fs::set_permissions(&point, Permissions::from_mode(0o750)).expect("it is there");
        let below = Below::open(&point).expect("it is there");
        let former = below.former().expect("it is there");
        below.seal();
        assert!(below.was(former) && below.former().is_ok_and(|now| now.mode == SEALED));
        if !nix::unistd::geteuid().is_root() {
            File::create(point.join("f")).expect_err("nobody may write there");
        }
        below.open_again(Former { ino: 0, ..former }).expect("it is left alone");
        assert!(below.was(former));
        below.open_again(former).expect("it is this user's");
        assert_eq!(below.former().expect("it is there"), former);
        File::create(point.join("f")).expect("it can be written again");
    }
}
