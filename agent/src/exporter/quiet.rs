//! What the main thread and the exporter's share, so that a walk need not wait for the exporter if nothing has changed.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use packetfs::mounts::MountWatch;
use packetfs::watch::ReaderId;

use crate::own_volume::OwnVolume;

/// State by which the main thread can tell, without waiting, that there are no changes to send.
#[derive(Debug)]
pub(super) struct Quiet {
    /// The inotify queue.
    pub(super) queue: OwnedFd,
    /// Reports each change of the mounts once. `mounted` keeps that.
    pub(super) mounts: MountWatch,
    /// Whether the mounts have changed since the thread read them.
    pub(super) mounted: AtomicBool,
    /// Whether the thread is working, and so may have read changes that it has not passed on yet, or does not get events for
    /// all changes.
    pub(super) busy: AtomicBool,
    /// Number of its batches that have not been passed to the links.
    pub(super) under_way: Arc<AtomicUsize>,
    /// Number of pending jobs that hide further files.
    pub(super) retells: AtomicUsize,
    /// The agent's own volume, whose changes have no events.
    pub(super) own_volume: OwnVolume,
    /// Readers with pending changes.
    pub(super) behind: Mutex<HashSet<ReaderId>>,
}

impl Quiet {
    /// Checks the queue before the busy flag. Events that are no longer queued were read by a thread that had set the flag
    /// before, and that passes them on before clearing it.
    pub(super) fn holds(&self, reader: ReaderId) -> bool {
        !self.is_unread()
            && self.own_volume.is_quiet()
            && !self.mounted.load(Ordering::SeqCst)
            && !self.busy.load(Ordering::SeqCst)
            && self.under_way.load(Ordering::SeqCst) == 0
            && self.retells.load(Ordering::SeqCst) == 0
            && !self.behind().contains(&reader)
    }

    /// Tells by one system call whether events are queued.
    pub(super) fn is_unread(&self) -> bool {
        let queue = PollFd::new(self.queue.as_fd(), PollFlags::POLLIN);
        let mut asked = [queue, self.mounts.poll_fd()];
        match poll(&mut asked, PollTimeout::ZERO) {
            Ok(0) => return false,
            Ok(_) if !MountWatch::is_set(&asked[1]) => {}
            _ => self.mounted.store(true, Ordering::SeqCst),
        }
        true
    }

    pub(super) fn behind(&self) -> MutexGuard<'_, HashSet<ReaderId>> {
        // A panic under the lock leaves at worst a reader that gets changes early.
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
