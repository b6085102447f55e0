//! The merged tree: the pure function of all events that are applied, in memory. It exists only while concurrent events
//! concern something that changes, since the tables are enough for all else.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use worknode::history::{Author, Event, Tree};

use super::error::VolumeError;
use super::model::{Merged, Shared, State};
use crate::log;

/// Time for which it is kept after its last use: a conflict is seldom alone, and to read a log takes long.
const KEPT: Duration = Duration::from_secs(60);

impl Shared {
    /// Makes the merged tree without the lock, so that programs go on meanwhile, unless it is there. Who needs it and has the
    /// lock finds it then.
    pub(super) fn make_merged(&self) -> Result<(), VolumeError> {
        let _turn = self.merging.lock().unwrap_or_else(PoisonError::into_inner);
        let applied = {
            let state = self.lock();
            if state.merged.is_some() {
                return Ok(());
            }
            self.applied(&state)
        };
        let none = HashMap::new();
        let mut tree = Tree::of(&self.events(&none, &applied)?);
        let mut state = self.lock();
        let now = self.applied(&state);
        // Otherwise the tables were read again meanwhile, and are behind.
        let is_behind =
            now.iter().any(|(author, last)| applied.get(author).is_some_and(|it| it > last));
        if state.merged.is_none() && !is_behind {
            tree.apply_all(&self.events(&applied, &now)?);
            tree.take_changed();
            state.merged = Some(Merged { tree, used: Instant::now() });
        }
        Ok(())
    }

    /// Makes the merged tree if it is needed to write a file.
    pub(super) fn make_merged_for(&self, ino: u64) -> Result<(), VolumeError> {
        let is_needed = {
            let state = self.lock();
            let is_disputed = state.tree.find(ino)?.is_some_and(|node| node.is_disputed);
            state.merged.is_none() && (is_disputed || state.bases.contains_key(&ino))
        };
        if is_needed { self.make_merged() } else { Ok(()) }
    }

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
        Ok(Tree::of(&self.events(&HashMap::new(), &self.applied(state))?))
    }

    /// Returns up to which event of each author the tables have all.
    fn applied(&self, state: &State) -> HashMap<Author, u64> {
        let foreign = self.foreign.all();
        let authors = foreign.iter().map(|foreign| foreign.author).chain([self.author]);
        authors.map(|author| (author, state.tree.applied(author))).collect()
    }

    /// Returns the events after some, up to others.
    fn events(
        &self,
        after: &HashMap<Author, u64>,
        to: &HashMap<Author, u64>,
    ) -> Result<Vec<Event>, VolumeError> {
        let mut events = Vec::new();
        for (&author, &to) in to {
            let after = after.get(&author).copied().unwrap_or_default();
            if after >= to {
                continue;
            }
            let from = match self.foreign.get(author) {
                Some(foreign) => foreign.read_from(after + 1)?,
                None => self.log.read_from(after + 1)?,
            };
            take(from, to, &mut events)?;
        }
        Ok(events)
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
