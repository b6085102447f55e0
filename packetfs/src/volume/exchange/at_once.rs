//! While somebody listens, changes become durable at once, and contents packets before they are moved.

use std::time::Instant;

use nix::errno::Errno;

use super::super::model::Shared;
use super::prompt::Due;

/// Makes barriers until the volume is closed.
pub(in crate::volume) fn run(shared: &Shared) {
    loop {
        let until = shared.holds.next_end(Instant::now());
        match shared.prompt.wait(until) {
            Due::Closed => break,
            // What was held back can be given.
            Due::Time => {
                shared.prompt.tell();
                continue;
            }
            Due::Events => {}
        }
        if let Err(error) = shared.settle_log() {
            tracing::error!(%error, "failed to make changes durable: other nodes do not get them");
        }
        shared.prompt.tell();
    }
}

impl Shared {
    /// Tells whether a file is about to become packets when it is moved.
    pub(in crate::volume) fn waits_before_move(&self, dir: u64, name: &[u8]) -> bool {
        self.prompt.is_wanted() && self.closed_at(dir, name).is_ok_and(|it| it.is_some())
    }

    /// Makes packets of a file that is about to be moved, if programs have closed it: on other nodes, too, the new name never
    /// leads to less than what was written.
    pub(in crate::volume) fn translate_before_move(
        &self,
        dir: u64,
        name: &[u8],
    ) -> Result<(), Errno> {
        if !self.prompt.is_wanted() {
            return Ok(());
        }
        self.closed_at(dir, name)?.map_or(Ok(()), |ino| self.catch_up(ino))
    }

    /// Returns the file of a name, if programs have written and closed it.
    fn closed_at(&self, dir: u64, name: &[u8]) -> Result<Option<u64>, Errno> {
        let state = self.lock();
        let entry = state.child(dir, name)?;
        // The kernel tells of the last close only some time after the program has returned from it.
        let is_closed = |ino: &u64| {
            let it = state.uses.get(*ino).filter(|it| it.backing.is_some());
            it.is_some_and(|it| it.writers == 0 || self.holds.has(*ino, Instant::now()))
        };
        Ok(entry.map(|entry| entry.ino).filter(is_closed))
    }
}
