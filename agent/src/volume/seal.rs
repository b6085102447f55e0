//! Keeps programs from writing into the directory below a mount while the volume is not mounted there: the next mount would hide
//! what they write.
//!
//! The directory gets a mode without writing, and the attribute that lets not even the superuser write, where the agent may set
//! it and the file system has it. Both are taken back when the mount is given up. What cannot be set is left as it is.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::fcntl::OFlag;
use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

/// Reading and searching for all.
const SEALED: u32 = 0o555;
const MODE_BITS: u32 = 0o7777;

/// The directory below a mount, opened before the volume is mounted there.
#[derive(Debug)]
pub(super) struct Below(File);

impl Below {
    pub(super) fn open(point: &Path) -> io::Result<Self> {
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(point).map(Self)
    }

    /// Returns its mode.
    pub(super) fn mode(&self) -> io::Result<u32> {
        Ok(self.0.metadata()?.permissions().mode() & MODE_BITS)
    }

    /// Lets nobody write in it, as far as that can be done.
    pub(super) fn seal(&self) {
        let sealed = self.0.set_permissions(Permissions::from_mode(SEALED));
        let sealed = sealed.and_then(|()| self.flag(true));
        if let Err(error) = sealed {
            tracing::debug!(%error, "the directory below a mount stays writable for some");
        }
    }

    /// Makes it what it was.
    pub(super) fn open_again(&self, mode: u32) -> io::Result<()> {
        // Where the attribute cannot be set, it is not set.
        let _ = self.flag(false);
        self.0.set_permissions(Permissions::from_mode(mode))
    }

    fn flag(&self, is_immutable: bool) -> io::Result<()> {
        let mut flags = ioctl_getflags(&self.0)?;
        if flags.contains(IFlags::IMMUTABLE) != is_immutable {
            flags.set(IFlags::IMMUTABLE, is_immutable);
            ioctl_setflags(&self.0, flags)?;
        }
        Ok(())
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
        let mode = below.mode().expect("it is there");
        below.seal();
        assert_eq!(below.mode().expect("it is there"), SEALED);
        // Whether the superuser is kept out, too, depends on the file system and on rights.
        let is_immutable = ioctl_getflags(&below.0).is_ok_and(|it| it.contains(IFlags::IMMUTABLE));
        if is_immutable || !nix::unistd::geteuid().is_root() {
            File::create(point.join("f")).expect_err("nobody may write there");
        }
        below.open_again(mode).expect("it is this user's");
        assert_eq!(below.mode().expect("it is there"), 0o750);
        File::create(point.join("f")).expect("it can be written again");
    }
}
