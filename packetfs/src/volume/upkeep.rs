//! Makes all changes durable, every second, and writes the tables. What programs keep open is made durable every few seconds.

use std::fs::File;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use super::error::VolumeError;
use super::model::{Shared, State, Volume};

/// Time between barriers.
const PERIOD: Duration = Duration::from_secs(1);

/// A content that was not made durable is after this time, as on other disks.
const OVERDUE: Duration = Duration::from_secs(5);
/// Most contents that are made durable in a row, so that programs get their turn at the disk.
const CONTENTS_MAX: usize = 64;

/// Makes contents durable that stay in backing files for long, until the volume is closed.
pub(super) fn write_back(shared: &Shared) {
    let mut state = shared.lock();
    while !state.is_closed {
        let overdue: Vec<_> = state.uses.overdue(OVERDUE).take(CONTENTS_MAX).cloned().collect();
        drop(state);
        for backing in overdue {
            if let Err(error) = backing.sync() {
                tracing::warn!(%error, path = %backing.path().display(), "failed to make a content durable");
            }
        }
        let waited = shared.closing.wait_timeout(shared.lock(), PERIOD);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Keeps the volume durable until it is closed.
pub(super) fn run(shared: &Shared) {
    let mut state = shared.lock();
    while !state.is_closed {
        let waited = shared.closing.wait_timeout(state, PERIOD);
        drop(waited.unwrap_or_else(PoisonError::into_inner).0);
        shared.room.look(&shared.dir);
        if let Err(error) = shared
            .heal()
            .and_then(|()| shared.bury_rest())
            .and_then(|()| shared.settle())
            .and_then(|()| shared.hand_over_rest())
        {
            tracing::error!(%error, "failed to make the volume durable");
        }
        state = shared.lock();
        state.forget_merged();
    }
}

impl Shared {
    pub(super) fn open_dir(&self) -> PathBuf {
        self.dir.join("open")
    }

    /// Makes all events so far durable, with what they need.
    pub(super) fn settle_log(&self) -> Result<(), VolumeError> {
        self.log.barrier(|| self.prepare().map_err(std::io::Error::other))?;
        Ok(())
    }

    /// Makes durable what the events so far refer to.
    fn prepare(&self) -> Result<(), VolumeError> {
        let replaced: Vec<_> = {
            let mut state = self.lock();
            let replaced = state
                .uses
                .backed()
                .filter(|(_, _, it)| it.replaced)
                .map(|(ino, it, _)| (ino, it.clone()));
            let replaced: Vec<_> = replaced.collect();
            replaced.iter().for_each(|&(ino, _)| state.uses.of(ino).replaced = false);
            replaced
        };
        let synced = replaced.iter().try_for_each(|(_, backing)| {
            backing.sync().map_err(|source| VolumeError::io("sync", &backing.path())(source))
        });
        if synced.is_err() {
            // Whoever makes changes durable next tries again.
            let mut state = self.lock();
            let kept = replaced.iter().filter(|(ino, it)| state.uses.is_backing(*ino, it));
            let kept: Vec<u64> = kept.map(|(ino, _)| *ino).collect();
            kept.into_iter().for_each(|ino| state.uses.of(ino).replaced = true);
        }
        synced?;
        let dir = self.open_dir();
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(VolumeError::io("sync", &dir))?;
        // Events of this node may refer to them.
        self.foreign.sync()?;
        self.library.sync()
    }

    /// Makes all changes durable and writes the tables; then deletes backing files that are not needed any more.
    pub(super) fn settle(&self) -> Result<(), VolumeError> {
        let _turn = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let (batch, doomed) = {
            let mut state = self.lock();
            if state.is_broken || !state.has_changed() {
                return Ok(());
            }
            state.tree.note_state()?;
            (state.tree.tables.settle(), std::mem::take(&mut state.doomed))
        };
        let result = self
            .settle_log()
            .and_then(|()| self.foreign.sync())
            .and_then(|()| batch.as_ref().map_or(Ok(()), |batch| batch.write(true)));
        let was_written = batch.is_some();
        // The file can be opened again only when nobody has it open.
        drop(batch);
        let mut state = self.lock();
        if let Err(error) = result {
            if was_written {
                state.tree.tables.unsettle();
            }
            state.doomed.extend(doomed);
            if matches!(error, VolumeError::Tables { .. }) {
                state.tree.tables.reopen()?;
            }
            return Err(error);
        }
        if was_written {
            state.tree.tables.settled()?;
        }
        drop(state);
        for path in doomed {
            self.spares.keep(&path);
        }
        Ok(())
    }
}

impl Volume {
    /// Tells whether the disk is full, or nearly so, as far as that is known without asking it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.shared.room.is_full()
    }

    /// Returns how many bytes of the disk are free, by its own account.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        self.shared.room.look(&self.shared.dir);
        self.shared.room.free_bytes()
    }
}

impl State {
    fn has_changed(&self) -> bool {
        self.tree.tables.unwritten() > 0 || !self.doomed.is_empty()
    }
}
