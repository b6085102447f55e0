//! One name of a file, or the place of a directory: what the events that concern it make of it.

use super::super::event::{Dot, FileId};
use super::super::register::Stamp;
use super::moves::Moves;
use super::names::{Claim, Place};

/// What an event does with a link.
#[derive(Debug, Clone)]
pub(super) enum Act {
    /// It is at a place from now on.
    Put(Place),
    /// It is removed, by an author who knows that these events put it where it is.
    Take(Vec<Dot>),
}

/// Where a link is.
#[derive(Debug, Clone, Default)]
pub(super) struct State {
    /// Its place, and the event that put it there. None before the first event.
    pub(super) put: Option<(Place, Stamp)>,
    /// The event that removed it.
    pub(super) gone: Option<Stamp>,
}

/// A link is named by the event that made it. A directory has one link, named as the directory is.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) file: FileId,
    /// In the order of their stamps.
    steps: Vec<(Stamp, Act)>,
    pub(super) state: State,
    /// What it says in the index of names.
    pub(super) claim: Option<(Place, Claim)>,
}

impl Link {
    pub(super) fn of(file: FileId) -> Self {
        Self { file, steps: Vec::new(), state: State::default(), claim: None }
    }

    /// Adds a step. Only a late one makes the others be repeated.
    pub(super) fn add(&mut self, stamp: Stamp, act: Act, moves: &Moves) {
        let at = self.steps.partition_point(|(earlier, _)| *earlier < stamp);
        self.steps.insert(at, (stamp, act));
        if at + 1 < self.steps.len() {
            self.repeat(moves);
        } else if !moves.skips(stamp) {
            self.state.step(stamp, &self.steps[at].1);
        }
    }

    /// Repeats all steps, those that are not skipped.
    pub(super) fn repeat(&mut self, moves: &Moves) {
        self.state = State::default();
        for (stamp, act) in self.steps.iter().filter(|(stamp, _)| !moves.skips(*stamp)) {
            self.state.step(*stamp, act);
        }
    }
}

impl State {
    fn step(&mut self, stamp: Stamp, act: &Act) {
        match act {
            Act::Put(place) => *self = Self { put: Some((place.clone(), stamp)), gone: None },
            Act::Take(seen)
                if self.put.as_ref().is_some_and(|(_, put)| seen.contains(&put.dot)) =>
            {
                self.gone = Some(stamp);
            }
            // It was moved concurrently, and a removal does not follow it there.
            Act::Take(_) => {}
        }
    }
}
