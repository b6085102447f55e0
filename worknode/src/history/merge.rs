//! Sets of events, and what one lacks of another. Two sets are merged by union.

use std::collections::BTreeMap;
use std::iter;
use std::ops::Bound;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::event::{Author, Dot, Event};

/// What somebody has: of each author all events up to a number.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Summary(pub BTreeMap<Author, u64>);

impl Summary {
    /// Returns the number up to which all events of an author are there.
    #[must_use]
    pub fn of(&self, author: Author) -> u64 {
        self.0.get(&author).copied().unwrap_or(0)
    }
}

/// A set of events.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Events {
    events: BTreeMap<Dot, Arc<Event>>,
    summary: Summary,
}

impl Events {
    /// Adds an event. Returns false if it was there. Nobody makes two events of one name: the log's chain and
    /// signatures prove it.
    pub fn insert(&mut self, event: &Event) -> bool {
        self.insert_shared(&Arc::new(event.clone()))
    }

    /// Adds an event that other sets have too.
    pub(super) fn insert_shared(&mut self, event: &Arc<Event>) -> bool {
        if self.events.contains_key(&event.dot) {
            return false;
        }
        self.events.insert(event.dot, event.clone());
        self.count(event.dot.author);
        true
    }

    fn count(&mut self, author: Author) {
        let all = self.summary.of(author);
        let next = |seq: &u64| self.events.contains_key(&Dot { author, seq: *seq });
        let more = (all + 1..).take_while(next).count() as u64;
        if more > 0 {
            self.summary.0.insert(author, all + more);
        }
    }

    /// Adds all events of another set.
    pub fn unite(&mut self, other: &Self) {
        for event in other.shared() {
            self.insert_shared(event);
        }
    }

    /// Returns an event.
    #[must_use]
    pub fn get(&self, dot: Dot) -> Option<&Arc<Event>> {
        self.events.get(&dot)
    }

    /// Returns all events, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = &Event> {
        self.shared().map(AsRef::as_ref)
    }

    pub(super) fn shared(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.values()
    }

    /// Returns the number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Returns what is here, for another set that sends what is missing.
    #[must_use]
    pub const fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Returns the events that somebody lacks. Some of them may be there already, beyond a gap.
    pub fn missing<'a>(&'a self, there: &'a Summary) -> impl Iterator<Item = &'a Event> {
        let lacked = |author| {
            let first = Dot { author, seq: there.of(author).saturating_add(1) };
            self.events.range(first..=last_of(author))
        };
        self.authors().flat_map(lacked).map(|(_, event)| event.as_ref())
    }

    fn authors(&self) -> impl Iterator<Item = Author> {
        let first = self.events.keys().next().map(|dot| dot.author);
        let next = |author: &Author| {
            let behind = (Bound::Excluded(last_of(*author)), Bound::Unbounded);
            self.events.range(behind).next().map(|(dot, _)| dot.author)
        };
        iter::successors(first, next)
    }
}

const fn last_of(author: Author) -> Dot {
    Dot { author, seq: u64::MAX }
}

#[cfg(test)]
mod tests {
    use super::super::event::Op;
    use super::super::hlc::Hlc;
    use super::*;

    fn event(author: u8, seq: u64) -> Event {
        let dot = Dot { author: Author([author; 16]), seq };
        let op = Op::Unlink { dir: Dot::default(), name: b"a".to_vec() };
        Event { dot, hlc: Hlc(seq), time: 0, parents: Vec::new(), op }
    }

    fn events(dots: &[(u8, u64)]) -> Events {
        let mut events = Events::default();
        for &(author, seq) in dots {
            assert!(events.insert(&event(author, seq)));
        }
        events
    }

    #[test]
    fn a_summary_ends_at_the_first_gap() {
        let mut events = events(&[(1, 2), (2, 1), (1, 4), (3, 2)]);
        let summary = |events: &Events| [1, 2, 3].map(|a| events.summary().of(Author([a; 16])));
        assert_eq!(summary(&events), [0, 1, 0]);
        assert!(events.insert(&event(1, 1)) && !events.insert(&event(1, 1)));
        assert_eq!(summary(&events), [2, 1, 0]);
        events.insert(&event(1, 3));
        assert_eq!(summary(&events), [4, 1, 0]);
    }

    #[test]
    fn two_sets_send_each_other_what_is_missing() {
        let mut left = events(&[(1, 1), (1, 2), (2, 1), (4, 1)]);
        let right = events(&[(1, 1), (2, 1), (2, 2), (2, 4), (3, 1)]);
        let dots = |from: &Events, to: &Events| -> Vec<(u8, u64)> {
            from.missing(to.summary()).map(|event| (event.dot.author.0[0], event.dot.seq)).collect()
        };
        assert_eq!(dots(&left, &right), [(1, 2), (4, 1)]);
        assert_eq!(dots(&right, &left), [(2, 2), (2, 4), (3, 1)]);
        assert_eq!(dots(&left, &left), []);
        left.unite(&right);
        assert_eq!(left.len(), 7);
        assert_eq!(dots(&right, &left), [(2, 4)], "it is beyond a gap");
    }
}
