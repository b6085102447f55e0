//! Whether the disk of the volume has room: looked at every second, and whenever it takes an event or refuses one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

use super::error::VolumeError;

/// With less than this, programs that write soon find the disk full.
const LEAST_BYTES: u64 = 16 * 1024 * 1024;

/// What is known of the disk.
#[derive(Debug)]
pub(super) struct Room {
    free: AtomicU64,
    has_refused: AtomicBool,
}

impl Default for Room {
    fn default() -> Self {
        Self { free: AtomicU64::new(u64::MAX), has_refused: AtomicBool::new(false) }
    }
}

impl Room {
    /// Looks at the disk of a directory.
    pub(super) fn look(&self, dir: &Path) {
        if let Ok(disk) = statvfs(dir) {
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            self.free.store(free, Ordering::Relaxed);
        }
    }

    /// Returns how many bytes were free.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Notes whether the disk has taken an event.
    pub(super) fn note<T>(&self, done: &Result<T, VolumeError>) {
        let errno = |error: &VolumeError| error.os_error().map(Errno::from_raw);
        let refused = match done {
            Ok(_) => false,
            Err(error) => matches!(errno(error), Some(Errno::ENOSPC | Errno::EDQUOT)),
        };
        self.has_refused.store(refused, Ordering::Relaxed);
    }

    /// Tells whether it is full, or nearly so.
    pub(super) fn is_full(&self) -> bool {
        self.has_refused.load(Ordering::Relaxed) || self.free.load(Ordering::Relaxed) < LEAST_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_disk_that_refuses_is_full_until_it_takes_something() {
        let room = Room::default();
        room.look(Path::new("/"));
        let refused = |errno: Errno| -> Result<(), VolumeError> {
            let source = io::Error::from_raw_os_error(errno as i32);
            Err(VolumeError::Io { action: "write", path: "/log".into(), source })
        };
        room.note(&refused(Errno::ENOSPC));
        assert!(room.is_full());
        room.note(&refused(Errno::EIO));
        room.free.store(LEAST_BYTES, Ordering::Relaxed);
        assert!(!room.is_full());
        room.note(&refused(Errno::EDQUOT));
        assert!(room.is_full());
        room.note(&Ok(()));
        assert!(!room.is_full());
        room.free.store(LEAST_BYTES - 1, Ordering::Relaxed);
        assert!(room.is_full());
    }
}
