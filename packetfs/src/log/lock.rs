//! A log is used by one process at a time.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::error::LogError;

/// Only the agent may read events from disk.
const DIR_MODE: u32 = 0o700;
/// Longest number of a process, with room.
const PID_BYTES_MAX: u64 = 20;

/// The log's directory, locked until this is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks the log in a directory, creating the directory if necessary.
    pub(super) fn take(dir: &Path) -> Result<Self, LogError> {
        let make = DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
        make.map_err(LogError::io("create", dir))?;
        let path = dir.join("lock");
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(LogError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LogError::InUse { dir: dir.to_owned(), pid: holder(file) });
            }
            Err(TryLockError::Error(source)) => {
                return Err(LogError::io("lock", path)(source));
            }
        }
        sign(&file);
        Ok(Self { _file: file })
    }
}

/// Notes who holds the lock, for the message that another process shows. On a full disk nobody is noted.
fn sign(mut file: &File) {
    let noted =
        file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    if let Err(error) = noted {
        tracing::debug!(%error, "the log's lock does not name this process");
    }
}

fn holder(file: File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok()
}
