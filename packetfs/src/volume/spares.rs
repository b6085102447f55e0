//! Backing files that are not needed any more: they are used again instead of new ones.
//!
//! To rename a file costs less than to make one and to delete it. What is more, ext4 does not give the number of a deleted file to
//! another one for minutes, and each new file has it look at all those numbers.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, futimens};

use super::lease;

/// Most spare files: what a busy program makes between two barriers.
const SPARES_MAX: usize = 4096;

/// The spare files, in a directory of their own. They are empty, and named by numbers.
#[derive(Debug)]
pub(super) struct Spares {
    dir: PathBuf,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    spare: Vec<u64>,
    last: u64,
}

impl Spares {
    /// Finds the spare files of an earlier run.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let mut names = Names::default();
        for entry in std::fs::read_dir(&dir)? {
            let name = entry?.file_name();
            names.spare.extend(name.to_str().and_then(|name| name.parse::<u64>().ok()));
        }
        names.last = names.spare.iter().copied().max().unwrap_or(0);
        Ok(Self { dir, names: Mutex::new(names) })
    }

    /// Takes a file in that is not needed any more, or deletes it. A name that is left is deleted when the volume is opened again.
    pub(super) fn keep(&self, path: &Path) {
        if !self.take_in(path).unwrap_or(false) {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Makes a spare file of a file, unless a program still has it mapped, or a thread reads it.
    fn take_in(&self, path: &Path) -> io::Result<bool> {
        if self.lock().spare.len() >= SPARES_MAX || !lease::is_alone(&open(path)?)? {
            return Ok(false);
        }
        let number = {
            let mut names = self.lock();
            names.last += 1;
            names.last
        };
        open(path)?.set_len(0)?;
        std::fs::rename(path, self.path(number))?;
        self.lock().spare.push(number);
        Ok(true)
    }

    /// Gives a spare file a name, if there is one and the disk lets it be used.
    pub(super) fn take(&self, path: &Path) -> Option<File> {
        let spare = self.lock().spare.pop()?;
        renew(&self.path(spare), path).ok()
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(number.to_string())
    }

    fn lock(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn renew(spare: &Path, path: &Path) -> io::Result<File> {
    let file = open(spare)?;
    // A power cut may have kept the name without the emptying.
    file.set_len(0)?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    futimens(file.as_fd(), &Timestamps { last_access: now, last_modification: now })?;
    std::fs::rename(spare, path)?;
    Ok(file)
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path)
}
