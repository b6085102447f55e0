//! The root of a mount for processes of other mount namespaces. \[unsafe\]: nix has neither `open_tree` nor `mount_setattr`.
#![expect(unsafe_code, reason = "open_tree and mount_setattr have no safe wrapper")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags, fstat, fstatfs, openat};

/// The type of FUSE file systems in `statfs`.
const FUSE: u64 = 0x6573_5546;

/// Opens the root of the FUSE file system that is mounted at `point`, on a private copy of the mount that lies in no
/// namespace. Its root has no parent: whoever holds the descriptor reaches nothing outside of the file system by `..`.
/// Devices and set-user-id bits have no effect there, and the copy can neither be mounted anywhere nor be given other flags.
///
/// # Errors
/// The process may not copy mounts, or nothing is mounted there.
pub(crate) fn root_of(point: &Path) -> io::Result<OwnedFd> {
    let root = copy(point)?;
    if fstatfs(&root)?.f_type.cast_unsigned() != FUSE {
        return Err(io::Error::other("something else is mounted there"));
    }
    restrict(&root)?;
    detach(&root, point)?;
    check_is_top(&root)?;
    Ok(root)
}

/// Mounts a copy in a namespace that ends at once, and unmounts it there. Only what has not been in a namespace yet can be moved
/// into one, by whoever has the descriptor.
fn detach(root: &OwnedFd, point: &Path) -> io::Result<()> {
    let root = root.as_raw_fd();
    let (path, point) = (CString::new(point.as_os_str().as_bytes())?, point.to_owned());
    let detached = std::thread::spawn(move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
        let flags = libc::MOVE_MOUNT_F_EMPTY_PATH;
        // SAFETY: both paths are C strings, and the descriptor stays open, since its owner waits for this thread.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                root,
                c"".as_ptr(),
                libc::AT_FDCWD,
                path.as_ptr(),
                flags,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?)
    });
    detached.join().map_err(|_| io::Error::other("a thread panicked"))?
}

fn copy(point: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(point.as_os_str().as_bytes())?;
    let flags =
        libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW.cast_unsigned();
    // SAFETY: the path is a live C string.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has made the descriptor for this call, and nothing else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The mount may be lent to a container whose users are not to meet devices or foreign rights.
fn restrict(root: &OwnedFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path is a C string, and the structure as long as is said.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes sure that `..` does not lead out.
///
/// # Errors
/// It does, or the file system does not answer.
pub(crate) fn check_is_top(root: &OwnedFd) -> io::Result<()> {
    let above = openat(root.as_fd(), "..", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (above, root) = (fstat(&above)?, fstat(root)?);
    if (above.st_dev, above.st_ino) == (root.st_dev, root.st_ino) {
        return Ok(());
    }
    Err(io::Error::other("the copy of the mount has a parent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_outside_of_the_mount_is_reached_from_its_root() {
        let dir = tempfile::tempdir().expect("a directory");
        let (point, secret) = (dir.path().join("mount"), dir.path().join("secret"));
        std::fs::create_dir(&point).expect("a directory");
        std::fs::write(secret, "secret").expect("a file");
        // A thread of its own, so that the mount ends with it.
        let tried = std::thread::spawn(move || -> io::Result<()> {
            unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)?;
            mount(Some("none"), &point, Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
            std::fs::write(point.join("file"), "inside")?;
            assert!(root_of(&point).is_err(), "a file system that is not FUSE is not lent");
            let root = copy(&point)?;
            restrict(&root)?;
            detach(&root, &point)?;
            check_is_top(&root)?;
            // Who has it gives it neither a place nor other flags.
            assert!(detach(&root, &point).is_err() && restrict(&root).is_err());
            let open = |path: &str| openat(&root, path, OFlags::RDONLY, Mode::empty());
            open("file").expect("what is inside is reached");
            open("../file").expect("`..` stays at the root");
            assert!(open("../secret").is_err() && open("../../etc/passwd").is_err());
            // What is not a copy has a parent.
            let plain = openat(rustix::fs::CWD, &point, OFlags::PATH, Mode::empty())?;
            assert!(check_is_top(&plain).is_err());
            umount2(&point, MntFlags::MNT_DETACH)?;
            open("file").expect("the copy lives on");
            Ok(())
        });
        match tried.join().expect("no panic") {
            Ok(()) => {}
            Err(error) => assert!(!nix::unistd::geteuid().is_root(), "{error}"),
        }
    }
}
