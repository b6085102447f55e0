//! Where the volume may be mounted.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, statfs};
use worknode::said::escape;

/// Names of files that would be hidden that a message lists, and what it shows of each.
const NAMES_MAX: usize = 3;
const NAME_CHARS_MAX: usize = 60;

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
    let entries = match fs::read_dir(point) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            anyhow::bail!("{shown} is not a directory: choose an empty directory")
        }
        Err(error) => anyhow::bail!("failed to look at {shown}: {error}"),
    };
    let names = entries.take(NAMES_MAX + 1).map(|entry| entry.map(|it| it.file_name()));
    let names = names.collect::<Result<Vec<_>, _>>();
    let names = names.with_context(|| format!("failed to look at {shown}"))?;
    match hidden(&names) {
        None => Ok(()),
        Some(names) => anyhow::bail!(
            "{shown} is not empty, and what is in it ({names}) would be hidden: move it away, or choose an empty directory"
        ),
    }
}

/// Returns some names in words; none if there are none.
fn hidden(names: &[OsString]) -> Option<String> {
    let first = names.iter().take(NAMES_MAX);
    let first: Vec<_> = first.map(|name| escape(&name.to_string_lossy(), NAME_CHARS_MAX)).collect();
    let more = if names.len() > NAMES_MAX { " and more" } else { "" };
    (!names.is_empty()).then(|| format!("{}{more}", first.join(", ")))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_hidden_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        prepare(dir.path()).expect("it is empty");
        let refused = |name: &str| {
            fs::write(dir.path().join(name), "x").expect("write");
            prepare(dir.path()).expect_err("it is not empty").to_string()
        };
        assert!(refused("one").contains("what is in it (one) would be hidden: move it away"));
        refused("two");
        assert!(!refused("three").contains("more"));
        assert!(refused("four").contains(" and more) would be hidden"));
    }
}
