//! Lends the root of a mounted volume to processes whose mount namespace does not have it.
//!
//! They reach the door, but not the mount. The preload library asks for a descriptor of the mount's root, and makes what
//! the program does below the mount point relative to it: the kernel then checks the program's own rights.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;
use worknode::door::Kind;

use super::{Job, Keeper, VolumeHandle};
use crate::door::Visitor;
use crate::sys::lent;

/// Longest wait for the thread that mounts, which may be busy: below the preload library's own.
const LEND_MAX: Duration = Duration::from_millis(1500);
/// Lets others search a directory.
const OTHERS_SEARCH: u32 = 0o001;
/// May search every directory.
const ROOT: u32 = 0;

/// Most copies of mounts that are kept.
const COPIES_MAX: usize = 64;

/// Copies of mounts, by mount point and user. A user's processes get the same copy: the kernel neither links nor renames from one
/// copy to another. Different users get different ones, since a user could move it to a namespace of their own.
#[derive(Debug, Default)]
pub(super) struct Lent(BTreeMap<(PathBuf, u32), OwnedFd>);

impl Lent {
    fn root(&mut self, point: &Path, uid: u32) -> io::Result<OwnedFd> {
        let key = (point.to_owned(), uid);
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

/// Answers a process that asks for the root of the volume mounted at a path.
pub(crate) async fn answer(volume: &VolumeHandle, mut visitor: Visitor, point: Vec<u8>) {
    let point = PathBuf::from(OsString::from_vec(point));
    let lent = volume.ask(|done| Job::Lend(point, visitor.who.uid, done));
    let Ok(lent) = tokio::time::timeout(LEND_MAX, lent).await else {
        // Without an answer the asker tries again.
        tracing::warn!("the volume was not lent in time: the thread that mounts is busy");
        return;
    };
    // The asker may be gone.
    let _ = match lent {
        Ok(root) => visitor.writer.send_descriptor(Kind::Root, &root),
        Err(error) => {
            tracing::debug!("the volume is not lent: {error:#}");
            visitor.writer.send(Kind::Failed, 0, format!("{error:#}").as_bytes()).await
        }
    };
}

impl Keeper {
    /// Does a [`Job::Lend`] for somebody who may have gone.
    pub(super) fn lend(
        &mut self,
        point: &Path,
        uid: u32,
        done: oneshot::Sender<anyhow::Result<OwnedFd>>,
    ) -> bool {
        done.is_closed() || done.send(self.root(point, uid)).is_ok()
    }

    fn root(&mut self, point: &Path, uid: u32) -> anyhow::Result<OwnedFd> {
        self.forget_unmounted();
        anyhow::ensure!(
            self.mounts.contains_key(point),
            "the volume is not mounted at {}: mount it with 'oswalk mount'",
            point.display()
        );
        check_way(point, uid)?;
        self.lent.root(point, uid).with_context(|| {
            format!(
                "failed to copy the mount {}: only an agent that runs as root on Linux 5.12 or newer can lend it",
                point.display()
            )
        })
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
