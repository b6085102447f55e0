//! Opens files for runners without following symbolic links.

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

/// Opens a path without following symbolic links. Runners ask only for real directories, and a link that
/// replaces one meanwhile must not lead elsewhere.
pub(super) fn open(path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = nix::fcntl::openat2(nix::fcntl::AT_FDCWD, OsStr::from_bytes(path), how);
    opened.map_err(shown)
}

/// Translates an error of this machine for a runner.
fn shown(errno: Errno) -> Errno {
    match errno {
        // A file server denies this agent access, though perhaps not the walk's user.
        Errno::EACCES => Errno::EIO,
        errno => errno,
    }
}

/// Opens a regular file, given by an `O_PATH` descriptor, for reading. Other types are not opened: that would unblock
/// a fifo's writer, or may have effects on a device.
pub(super) fn open_again(place: &OwnedFd) -> Result<File, Errno> {
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(link);
    opened.map_err(|error| shown(errno(error)))
}

/// Converts an error to its number.
pub(super) fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
