//! What a mount must have the kernel forget.

use std::sync::mpsc::{Receiver, channel, sync_channel};
use std::time::Duration;

use super::model::{Shared, Volume};
use super::told::{Mark, Stale, Told};

/// Time for a mount to pass on what was told before. The kernel takes microseconds for each.
const TOLD_MAX: Duration = Duration::from_secs(10);

impl Volume {
    /// Returns what a mount must have the kernel forget from now on. It ends when the volume is closed.
    #[must_use]
    pub fn stale(&self) -> Receiver<Told> {
        let (told_tx, told_rx) = channel();
        self.shared.mounts.lock().push(told_tx);
        told_rx
    }

    /// Waits until the kernel has forgotten what it must. Never called while the kernel waits for an answer.
    pub fn wait_told(&self) {
        self.shared.wait_told();
    }
}

impl Shared {
    /// See [`Volume::wait_told`]. While the kernel waits for a lock it has locked no file or directory.
    pub(super) fn wait_told(&self) {
        let (done_tx, done_rx) = sync_channel(0);
        self.mounts.tell(|| Stale::Mark(Mark { _done: done_tx.clone() }));
        drop(done_tx);
        let _ = done_rx.recv_timeout(TOLD_MAX);
    }
}
