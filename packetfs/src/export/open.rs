//! Opens what a runner asks for, and nothing that a link leads to.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

/// Opens a directory to read its names.
pub(super) fn open_dir(path: &[u8]) -> std::io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}

/// Opens a path without following symbolic links: a runner names only real directories, and a
/// link put in their place meanwhile must not lead anywhere else.
pub(super) fn open(path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = nix::fcntl::openat2(nix::fcntl::AT_FDCWD, OsStr::from_bytes(path), how);
    opened.map_err(shown)
}

/// Returns the error that a runner is told when this machine refuses something.
fn shown(errno: Errno) -> Errno {
    match errno {
        // Nobody has hidden it: a server keeps it from this agent, though perhaps not from the walk's user.
        Errno::EACCES => Errno::EIO,
        errno => errno,
    }
}

/// Opens a regular file to read it that was opened as a place only. Anything else is not opened: the writer of a
/// fifo would go on, and a device may do something.
pub(super) fn open_again(place: &OwnedFd) -> Result<File, Errno> {
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(link);
    opened.map_err(|error| shown(errno(error)))
}

/// Returns the number of an error.
pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
