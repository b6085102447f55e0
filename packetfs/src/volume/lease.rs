//! Asks the kernel whether others have a file open or mapped.
//!
//! The kernel gives a write lease to the only open description of a file. A mapping has one of its own, also after its descriptor was
//! closed, and so has a program that reads or writes a file through a mount whose agent was killed.
#![expect(unsafe_code, reason = "no library asks for a lease")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

/// What the kernel sends if somebody opens the file during the question. Its default is to be ignored, unlike that of `SIGIO`.
const SIGNAL: libc::c_int = libc::SIGURG;
/// `fcntl`'s number for the signal.
const F_SETSIG: libc::c_int = 10;

/// Held while a file has a lease: the end of one makes the signal of another on the same file be `SIGIO`, which ends the agent.
static TURN: Mutex<()> = Mutex::new(());

/// Tells whether nobody else has a file open, which must be open for writing.
pub(super) fn is_alone(file: &File) -> io::Result<bool> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    set(file, F_SETSIG, SIGNAL)?;
    match set(file, libc::F_SETLEASE, libc::F_WRLCK) {
        Ok(()) => {
            set(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(true)
        }
        Err(Errno::EAGAIN) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Tells whether somebody has a file open for writing, which must be open for reading only. An error says that this cannot be
/// known: the file is another user's, or its file system has no leases.
pub(crate) fn has_writer(file: &File) -> io::Result<bool> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    set(file, F_SETSIG, SIGNAL)?;
    match set(file, libc::F_SETLEASE, libc::F_RDLCK) {
        Ok(()) => {
            set(file, libc::F_SETLEASE, libc::F_UNLCK)?;
            Ok(false)
        }
        Err(Errno::EAGAIN) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// Tells whether the file system of a file, which nobody else has open, knows leases.
pub(super) fn is_known(file: &File) -> bool {
    is_alone(file).unwrap_or(false)
}

fn set(file: &File, command: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: these commands take a number, and the descriptor is open as long as `file` is.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, value) };
    Errno::result(done).map(drop)
}
