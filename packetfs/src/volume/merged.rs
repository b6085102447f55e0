//! The merged tree: the pure function of all events that are applied, in memory. It exists only while concurrent events
//! concern something that changes, since the tables are enough for all else.

use std::time::{Duration, Instant};

use worknode::history::{Event, Tree};

use super::error::VolumeError;
use super::model::{Merged, Shared, State};
use crate::log;

/// Time for which it is kept after its last use: a conflict is seldom alone, and to read a log takes long.
const KEPT: Duration = Duration::from_secs(60);

impl Shared {
    /// Returns the merged tree of what the tables have.
    pub(super) fn merged<'a>(&self, state: &'a mut State) -> Result<&'a mut Tree, VolumeError> {
        if state.merged.is_none() {
            let mut tree = self.merge(state)?;
            tree.take_changed();
            state.merged = Some(Merged { tree, used: Instant::now() });
        }
        let merged = state.merged.as_mut().expect("it was just made");
        merged.used = Instant::now();
        Ok(&mut merged.tree)
    }

    /// Makes the tree of all events that the tables have, from the logs.
    pub(super) fn merge(&self, state: &State) -> Result<Tree, VolumeError> {
        let mut events = Vec::new();
        let applied = state.tree.applied(self.author);
        take(self.log.read_from(1)?, applied, &mut events)?;
        for foreign in self.foreign.all() {
            let applied = state.tree.applied(foreign.author);
            take(foreign.read_from(1)?, applied, &mut events)?;
        }
        Ok(Tree::of(&events))
    }
}

/// Adds an author's events up to a number.
fn take(from: log::Events, last: u64, events: &mut Vec<Event>) -> Result<(), VolumeError> {
    let mut seen = 0;
    for event in from {
        let event = event?;
        if event.dot.seq > last {
            break;
        }
        seen = event.dot.seq;
        events.push(event);
    }
    if seen == last { Ok(()) } else { Err(VolumeError::Incomplete) }
}

impl State {
    /// Notes an event that the tables have, too.
    pub(super) fn note_merged(&mut self, event: &Event) {
        if let Some(merged) = &mut self.merged {
            merged.tree.apply(event);
            merged.tree.take_changed();
        }
    }

    /// Forgets the merged tree if nobody has used it lately.
    pub(super) fn forget_merged(&mut self) {
        if self.merged.as_ref().is_some_and(|merged| merged.used.elapsed() > KEPT) {
            self.merged = None;
        }
    }
}
