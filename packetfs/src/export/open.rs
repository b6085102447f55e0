//! Opens files for runners without following symbolic links.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, readlinkat};

use crate::path::{Bytes, above, normal, split};

/// Tells whether the file system at a path answers.
pub(super) type MayBeAsked = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// Opens a directory to read its names.
pub(super) fn open_dir(path: &[u8]) -> std::io::Result<OwnedFd> {
    Ok(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)
}

/// Opens a path without following symbolic links. Runners ask only for real directories, and a link that
/// replaces one meanwhile must not lead elsewhere.
pub(crate) fn open(path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let opened = nix::fcntl::openat2(nix::fcntl::AT_FDCWD, OsStr::from_bytes(path), how);
    opened.map_err(shown)
}

/// Most links that lead to a path, as in the kernel.
const LINKS_MAX: usize = 40;

/// Resolves the links on the way to a path, but not a link at its end. Returns `None` if one leads to where nobody may be
/// asked.
pub(super) fn resolved(path: &[u8], may_be_asked: &dyn Fn(&[u8]) -> bool) -> Option<Bytes> {
    let mut path = path.to_vec();
    for _ in 0..LINKS_MAX {
        let above: Vec<_> = above(&path).collect();
        let mut link = None;
        for dir in above.into_iter().rev() {
            if !may_be_asked(dir) {
                return None;
            }
            if let Ok(target) = open(dir, OFlag::O_PATH).and_then(|dir| readlinkat(&dir, "")) {
                link = Some((dir.len(), normal(split(dir)?.0, target.as_bytes())));
                break;
            }
        }
        let Some((bytes, target)) = link else { return Some(path) };
        path = normal(&target, &path[bytes + 1..]);
    }
    None
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
