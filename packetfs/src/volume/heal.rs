//! Has a volume work again after its tables failed, without a restart.

use std::sync::PoisonError;

use super::error::VolumeError;
use super::model::Shared;
use super::open::{TABLES, replay};
use super::tree::Tree;

impl Shared {
    /// Brings tables that do not work back: the file is opened again; if an event is missing in them, all later ones are applied
    /// again, too.
    pub(super) fn heal(&self) -> Result<(), VolumeError> {
        let _turn = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        if !state.is_broken {
            return if state.tree.tables.is_open() { Ok(()) } else { state.tree.tables.reopen() };
        }
        let path = self.dir.join(TABLES);
        state.tree.tables.close();
        state.tree = Tree::open(&path, self.author)?;
        if self.foreign.all().is_empty() {
            replay(&self.log, &mut state.tree)?;
        } else {
            state.is_broken = false;
            self.replay_all(&mut state)?;
        }
        self.bury_orphans(&mut state)?;
        state.is_broken = false;
        tracing::warn!("the tables work again: the events that they lacked were applied");
        Ok(())
    }
}
