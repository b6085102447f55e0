//! Lends the root of a mounted volume to processes whose mount namespace does not have it.
//!
//! They reach the door, but not the mount. The preload library asks for a descriptor of the mount's root, and makes what
//! the program does below the mount point relative to it: the kernel then checks the program's own rights.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::sys::lent;
use crate::sys::process::Namespace;

/// Lets others search a directory.
const OTHERS_SEARCH: u32 = 0o001;
/// May search every directory.
const ROOT: u32 = 0;

/// Most copies of mounts that are kept.
const COPIES_MAX: usize = 64;

/// Copies of mounts. A user's processes in one namespace get the same copy: the kernel neither links nor renames from one copy to
/// another. Others get other ones, since who has a copy could move it to a namespace of their own.
#[derive(Debug, Default)]
pub(super) struct Lent(BTreeMap<(PathBuf, Borrower), OwnedFd>);

/// Who borrows a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Borrower {
    pub(super) uid: u32,
    /// Their mount namespace. Where it cannot be told, each process gets a copy of its own.
    pub(super) namespace: Option<Namespace>,
}

impl Lent {
    /// Returns the root of what is mounted at a point, for a user who could reach it by its path.
    pub(super) fn root(&mut self, point: &Path, to: Borrower) -> anyhow::Result<OwnedFd> {
        check_way(point, to.uid)?;
        self.copy(point, to).with_context(|| {
            format!(
                "failed to copy the mount {}: only an agent that runs as root on Linux 5.12 or newer can lend it",
                point.display()
            )
        })
    }

    fn copy(&mut self, point: &Path, to: Borrower) -> io::Result<OwnedFd> {
        if to.namespace.is_none() {
            return lent::root_of(point);
        }
        let key = (point.to_owned(), to);
        if let Some(known) = self.0.get(&key).filter(|known| lent::check_is_top(known).is_ok()) {
            return known.try_clone();
        }
        let root = lent::root_of(point)?;
        while self.0.len() >= COPIES_MAX && self.0.pop_first().is_some() {}
        self.0.insert(key, root.try_clone()?);
        Ok(root)
    }

    /// Forgets what is not mounted any more.
    pub(super) fn forget(&mut self, point: &Path) {
        self.0.retain(|(at, _), _| at != point);
    }
}

/// Makes sure that a user could reach the mount by its path. The descriptor would lead past directories that are closed to them.
fn check_way(point: &Path, uid: u32) -> anyhow::Result<()> {
    for above in point.ancestors().skip(1) {
        let data = std::fs::metadata(above);
        let data = data.with_context(|| format!("failed to look at {}", above.display()))?;
        anyhow::ensure!(
            uid == ROOT || data.permissions().mode() & OTHERS_SEARCH != 0,
            "{} is closed to other users: mount the volume below directories that all may search",
            above.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_the_mount_is_open_to_all_or_only_root_has_it() {
        let dir = tempfile::tempdir_in("/tmp").expect("a directory");
        let closed = dir.path().join("closed");
        let point = closed.join("cluster");
        std::fs::create_dir_all(&point).expect("directories");
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("own files");
        };
        set(dir.path(), 0o755);
        set(&closed, 0o750);
        assert!(check_way(&point, 1000).is_err());
        assert!(check_way(&point, ROOT).is_ok());
        set(&closed, 0o711);
        assert!(check_way(&point, 1000).is_ok());
        assert!(check_way(&closed.join("gone/cluster"), ROOT).is_err());
    }
}
