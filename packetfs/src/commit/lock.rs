//! The origin's own locks. A walk's locks are seen within the walk only, so a commit stands in for it: where a process of
//! this machine has locked a file, that one reads and writes it just now, and the walk comes later.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

/// A file that nobody else locks until this is dropped, by either kind of lock.
pub(super) struct Locked {
    _file: Flock<File>,
}

/// Somebody has locked the file.
pub(super) struct Taken;

impl Locked {
    /// Locks a file that is open for writing, without waiting. A file system without locks has nothing to be locked.
    pub(super) fn new(file: File) -> Result<Option<Self>, Taken> {
        let [l_type, l_whence] = [libc::F_WRLCK, libc::SEEK_SET]
            .map(|number| libc::c_short::try_from(number).expect("a small number"));
        let whole = libc::flock { l_type, l_whence, l_start: 0, l_len: 0, l_pid: 0 };
        if let Err(Errno::EAGAIN | Errno::EACCES) = fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
            return Err(Taken);
        }
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Err(Taken),
            Err(_) => Ok(None),
        }
    }
}
