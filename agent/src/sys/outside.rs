//! The mounts of those who started the agent. It makes mounts of its own in a namespace of its own;
//! what users mount later is seen there only where `/` is shared.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir};

/// A mount namespace, and a root in it.
#[derive(Debug)]
pub(crate) struct Outside {
    namespace: File,
    root: OwnedFd,
}

impl Outside {
    /// Keeps hold of those of the calling process.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(crate) fn keep() -> io::Result<Self> {
        let namespace = File::open("/proc/self/ns/mnt")?;
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { namespace, root })
    }

    /// Moves the calling thread there: its paths are those of users from then on, and its root, working
    /// directory and umask its own.
    ///
    /// # Errors
    /// It is not root's.
    pub(crate) fn enter(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        // The namespace's root is not the agent's where that was started behind a `chroot`.
        fchdir(&self.root)?;
        Ok(chroot(".")?)
    }

    /// Returns the root: what is opened in it is what users mean by a path.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn what_is_mounted_outside_is_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        // In a thread: it has a namespace of its own then, which ends with it.
        let seen = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            mount(
                None::<&str>,
                "/",
                None::<&str>,
                MsFlags::MS_REC | MsFlags::MS_PRIVATE,
                None::<&str>,
            )?;
            let outside = Outside {
                namespace: File::open("/proc/thread-self/ns/mnt")?,
                root: open("/", OFlag::O_PATH, Mode::empty())?,
            };
            unshare(CloneFlags::CLONE_NEWNS)?;
            let inside = File::open("/proc/thread-self/ns/mnt")?;
            outside.enter()?;
            mount(Some("none"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            std::fs::write(path.join("new"), "")?;
            setns(&inside, CloneFlags::CLONE_NEWNS)?;
            let before = path.join("new").exists();
            outside.enter()?;
            io::Result::Ok((before, path.join("new").exists()))
        });
        match seen.join().expect("no panic") {
            Ok(seen) => assert_eq!(seen, (false, true)),
            Err(error) => assert!(!nix::unistd::geteuid().is_root(), "{error}"),
        }
    }
}
