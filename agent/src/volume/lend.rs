//! Lends the root of a mounted volume to processes whose mount namespace does not have it.
//!
//! They reach the door, but not the mount. The preload library asks for a descriptor of the mount's root, and makes what
//! the program does below the mount point relative to it: the kernel then checks the program's own rights.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use crate::sys::lent;
use crate::sys::process::Namespace;

/// Lets others search a directory.
const OTHERS_SEARCH: u32 = 0o001;
/// May search every directory.
const ROOT: u32 = 0;

/// Most copies of mounts that are kept, of one user and of all. The oldest goes first.
const COPIES_OF_USER_MAX: usize = 16;
const COPIES_MAX: usize = 256;

/// Most requests of one user that wait for a new copy, which takes milliseconds.
const WAITING_MAX: usize = 8;

/// Copies of mounts. A user's processes in one namespace get the same copy: the kernel neither links nor renames from one copy to
/// another. Others get other ones. Clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Lent {
    copies: Arc<Mutex<VecDeque<Copy>>>,
    /// Who waits for new ones.
    waiting: Arc<Mutex<Vec<u32>>>,
}

/// The place of a request among those that wait, until it is dropped.
#[derive(Debug)]
pub(super) struct Waiting {
    of: Arc<Mutex<Vec<u32>>>,
    uid: u32,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiting = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = waiting.iter().position(|uid| *uid == self.uid) {
            waiting.swap_remove(at);
        }
    }
}

/// A copy, the oldest first.
#[derive(Debug)]
struct Copy {
    point: PathBuf,
    to: Borrower,
    root: OwnedFd,
}

/// Who borrows a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Borrower {
    pub(super) uid: u32,
    /// Their mount namespace. Where it cannot be told, each process gets a copy of its own.
    pub(super) namespace: Option<Namespace>,
}

impl Lent {
    /// Returns the root of what is mounted at a point, for a user who could reach it by its path.
    pub(super) fn root(&self, point: &Path, to: Borrower) -> anyhow::Result<OwnedFd> {
        check_way(point, to.uid)?;
        self.copy(point, to).with_context(|| {
            format!(
                "failed to copy the mount {}: only an agent that runs as root on Linux 5.12 or newer can lend it",
                point.display()
            )
        })
    }

    fn copy(&self, point: &Path, to: Borrower) -> io::Result<OwnedFd> {
        if let Some(known) = self.known(point, to) {
            return Ok(known);
        }
        let root = lent::root_of(point)?;
        if to.namespace.is_some() {
            let mut copies = self.lock();
            copies.retain(|copy| copy.point != point || copy.to != to);
            make_room(&mut copies, to.uid);
            copies.push_back(Copy { point: point.to_owned(), to, root: root.try_clone()? });
        }
        Ok(root)
    }

    /// Returns the place of a request of a user that waits for a new copy; none if too many of the user's wait.
    pub(super) fn wait(&self, uid: u32) -> Option<Waiting> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.iter().filter(|other| **other == uid).count() >= WAITING_MAX {
            return None;
        }
        waiting.push(uid);
        Some(Waiting { of: Arc::clone(&self.waiting), uid })
    }

    /// Returns a copy that was lent before. Does not ask the file system unless it is there.
    pub(super) fn known(&self, point: &Path, to: Borrower) -> Option<OwnedFd> {
        to.namespace?;
        let copies = self.lock();
        let known = copies.iter().find(|copy| copy.point == point && copy.to == to)?;
        known.root.try_clone().ok()
    }

    /// Forgets what is not mounted any more.
    pub(super) fn forget(&self, point: &Path) {
        self.lock().retain(|copy| copy.point != point);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Copy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes the oldest copies until there is room for another one of a user.
fn make_room(copies: &mut VecDeque<Copy>, uid: u32) {
    let of_user = copies.iter().filter(|copy| copy.to.uid == uid).count();
    if of_user >= COPIES_OF_USER_MAX
        && let Some(oldest) = copies.iter().position(|copy| copy.to.uid == uid)
    {
        copies.remove(oldest);
    }
    while copies.len() >= COPIES_MAX {
        copies.pop_front();
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
    fn one_user_does_not_take_the_copies_of_others() {
        let mut copies = VecDeque::new();
        let mut add = |uid: u32, number: u64| {
            make_room(&mut copies, uid);
            let root = std::fs::File::open("/").expect("it is there").into();
            let to = Borrower { uid, namespace: Some((1, number)) };
            copies.push_back(Copy { point: PathBuf::from("/cluster"), to, root });
        };
        add(0, 1);
        (0..100).for_each(|number| add(33, number));
        add(33, 7);
        let of = |uid| copies.iter().filter(move |copy| copy.to.uid == uid).count();
        assert_eq!((of(0), of(33)), (1, COPIES_OF_USER_MAX));
        assert_eq!(copies.back().map(|copy| copy.to.namespace), Some(Some((1, 7))));
    }

    #[test]
    fn one_user_does_not_wait_too_often_at_once() {
        let lent = Lent::default();
        let waiting: Vec<_> = (0..2 * WAITING_MAX).map_while(|_| lent.wait(33)).collect();
        assert_eq!(waiting.len(), WAITING_MAX);
        assert!(lent.wait(34).is_some());
        drop(waiting);
        assert!(lent.wait(33).is_some());
    }

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
