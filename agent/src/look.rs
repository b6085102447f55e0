//! Looks at users' paths. The agent's one thread must not wait for their file systems: a server that
//! does not answer would stop it for everybody. So it looks at what the kernel has at hand, and only if
//! that is not enough does another thread look, which may wait.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};

use crate::sys::place::Place;

/// The root of those whose paths are looked at, if it is not this process's.
static ROOT: OnceLock<OwnedFd> = OnceLock::new();

/// Has all paths begin at this root.
pub(crate) fn begin_at(root: &OwnedFd) -> io::Result<()> {
    // It is the same one if there is one already.
    let _ = ROOT.set(root.try_clone()?);
    Ok(())
}

/// Opens a regular file to read it, following links.
///
/// # Errors
/// What the system says; `EINVAL` for anything else than a regular file. That is not even opened: it
/// would let the writer of a fifo go on.
pub(crate) fn open_file(path: &[u8]) -> Result<File, Errno> {
    let found = Look::Waiting.open(path)?;
    if SFlag::from_bits_truncate(fstat(&found)?.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    File::open(again).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

fn open_at_root(path: &[u8], how: OpenHow, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let path = OsStr::from_bytes(path);
    match ROOT.get() {
        Some(root) => openat2(root, path, how.resolve(resolve | ResolveFlag::RESOLVE_IN_ROOT)),
        None => openat2(AT_FDCWD, path, how.resolve(resolve)),
    }
}

/// A way to look at paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// At what the kernel knows without asking anybody; else it fails with `EAGAIN`.
    AtOnce,
    /// Also at what has to be read from a disk or a server.
    Waiting,
}

impl Look {
    /// Opens a path, following links, as a place only.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = match self {
            Self::AtOnce => ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED),
            Self::Waiting => ResolveFlag::empty(),
        };
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
        match open_at_root(path, how, resolve) {
            // The kernel is older than 5.12, and waits in any case.
            Err(Errno::EINVAL) if self == Self::AtOnce => Err(Errno::EAGAIN),
            opened => opened,
        }
    }

    fn place(self, path: &[u8]) -> Result<Place, Errno> {
        let place = Place::of(self.open(path)?);
        place.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
    }

    /// Returns what is at a path, if anything that can be looked at.
    ///
    /// # Errors
    /// `EAGAIN`: it cannot be told at once.
    pub(crate) fn find(self, path: &[u8]) -> Result<Option<Place>, Errno> {
        match self.place(path) {
            Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
            found => Ok(found.ok()),
        }
    }
}

/// Has a question answered at once if possible, by a thread that may wait if not.
pub(crate) async fn look<T, Q>(question: Q) -> Result<T, Errno>
where
    T: Send + 'static,
    Q: Fn(Look) -> Result<T, Errno> + Send + 'static,
{
    match question(Look::AtOnce) {
        Err(Errno::EAGAIN) => tokio::task::spawn_blocking(move || question(Look::Waiting))
            .await
            .unwrap_or(Err(Errno::EIO)),
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(path: &std::path::Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().join("real");
        std::fs::create_dir(&real).expect("writable");
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("writable");
        let link = dir.path().join("link");
        Look::Waiting.find(bytes(&link)).expect("can be looked at");
        let place = |path| Look::AtOnce.find(bytes(path)).expect("was looked up just now");
        assert!(place(&link).is_some() && place(&link) == place(&real));
        let gone = dir.path().join("gone");
        assert_eq!(Look::Waiting.find(bytes(&gone)).map(|found| found.is_some()), Ok(false));
    }

    #[tokio::test]
    async fn who_cannot_tell_at_once_looks_again() {
        let answer = look(|way| match way {
            Look::AtOnce => Err(Errno::EAGAIN),
            Look::Waiting => Ok(std::thread::current().id()),
        });
        assert_ne!(answer.await, Ok(std::thread::current().id()));
    }
}
