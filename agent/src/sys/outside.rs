//! The mount namespace in which the agent was started. The agent itself moves to a new one, where later
//! mounts of users are visible only if `/` is shared.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chroot, fchdir, geteuid};

/// A mount namespace, and a root in it.
#[derive(Debug)]
pub(crate) struct Outside {
    namespace: File,
    root: OwnedFd,
}

impl Outside {
    /// Opens the calling process's namespace and root.
    ///
    /// # Errors
    /// There is no `/proc`.
    pub(crate) fn keep() -> io::Result<Self> {
        let namespace = File::open("/proc/self/ns/mnt")?;
        let root = open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        Ok(Self { namespace, root })
    }

    /// Moves the calling thread there, so that paths mean what they mean to users. Its root, working
    /// directory and umask are then separate from the process's. An agent without root has never left.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(crate) fn enter(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        if !geteuid().is_root() {
            return Ok(());
        }
        setns(&self.namespace, CloneFlags::CLONE_NEWNS)?;
        // The agent's root differs from the namespace's if it was started in a `chroot`.
        fchdir(&self.root)?;
        Ok(chroot(".")?)
    }

    /// Returns the root. Paths opened relative to it are users' paths.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }
}

#[cfg(test)]
mod tests {
    use nix::mount::{MsFlags, mount};

    use super::*;

    #[test]
    fn outside_mounts_are_visible() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().to_owned();
        // A new thread, so that its namespace ends with it.
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
