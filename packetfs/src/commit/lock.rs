//! Honours file locks at the origin. A walk's locks are visible only within the walk, so the commit takes them in its
//! place. If a process of this machine holds a lock on a file, the walk conflicts with it.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};

/// A file with both kinds of lock held until this is dropped.
pub(super) struct Locked {
    _file: Flock<File>,
}

/// Another process has locked the file.
pub(super) struct Taken;

impl Locked {
    /// Locks a file that is open for writing, without waiting. Returns `None` if its file system has no locks.
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
