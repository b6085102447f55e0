//! Where the volume may be mounted.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};

/// Makes sure that a directory can be mounted on.
pub(super) fn prepare(point: &Path) -> anyhow::Result<()> {
    let shown = point.display();
    // What an agent that was killed has left. The kernel may still know the attributes of the directory, but not the space.
    if statfs(point).err() == Some(Errno::ENOTCONN) {
        umount2(point, MntFlags::MNT_DETACH)
            .with_context(|| format!("failed to unmount {shown}, which an agent has left"))?;
    }
    match fs::create_dir(point) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            anyhow::bail!("the directory above {shown} does not exist: make it with 'mkdir -p'")
        }
        Err(error) => anyhow::bail!("failed to make the directory {shown}: {error}"),
    }
    check_mounts(point)?;
    let mut entries = match fs::read_dir(point) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            anyhow::bail!("{shown} is not a directory: choose an empty directory")
        }
        Err(error) => anyhow::bail!("failed to look at {shown}: {error}"),
    };
    anyhow::ensure!(
        entries.next().is_none(),
        "{shown} is not empty, and its files would be hidden: move them away, or choose an empty directory"
    );
    Ok(())
}

/// Refuses a directory where a FUSE file system is mounted already: that of another agent may be empty.
fn check_mounts(point: &Path) -> anyhow::Result<()> {
    let shown = point.display();
    let device =
        |path: &Path| fs::metadata(path).map(|it| std::os::unix::fs::MetadataExt::dev(&it));
    let above = point.parent().map(device);
    let is_mount = above.is_some_and(|above| above.ok() != device(point).ok());
    let is_fuse = statfs(point).is_ok_and(|found| found.filesystem_type() == FUSE_SUPER_MAGIC);
    anyhow::ensure!(
        !(is_mount && is_fuse),
        "something is mounted at {shown} already: unmount it with 'umount {shown}', or choose another directory"
    );
    Ok(())
}
