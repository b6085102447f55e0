//! Events that wait for others. Pure, but for what the tables have.

use std::collections::{BTreeMap, VecDeque};

use worknode::history::{Author, Event};

use super::tree::Tree;

/// Events in the logs that are not applied yet, of each author in their order.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<Author, VecDeque<Event>>);

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an event, unless it is there, or one before it is missing.
    pub(super) fn add(&mut self, event: Event, applied: u64) {
        let waiting = self.0.entry(event.dot.author).or_default();
        let last = waiting.back().map_or(applied, |last| last.dot.seq);
        if event.dot.seq == last + 1 {
            waiting.push_back(event);
        }
    }

    /// Takes back an event that was taken.
    pub(super) fn put_back(&mut self, event: Event) {
        self.0.entry(event.dot.author).or_default().push_front(event);
    }

    /// Takes the earliest event whose causes are applied.
    pub(super) fn next(&mut self, tree: &Tree) -> Option<Event> {
        let is_ready = |event: &Event| {
            event.causes().iter().all(|cause| cause.seq <= tree.applied(cause.author))
        };
        let heads = self.0.iter().filter_map(|(author, events)| Some((*author, events.front()?)));
        let ready = heads.filter(|(_, event)| is_ready(event));
        let (author, _) = ready.min_by_key(|(_, event)| (event.hlc, event.dot))?;
        let events = self.0.get_mut(&author)?;
        let event = events.pop_front();
        if events.is_empty() {
            self.0.remove(&author);
        }
        event
    }
}
