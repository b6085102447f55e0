//! A value that several authors set, with all its versions.
//!
//! A version replaces those that its author saw. One that no other has replaced is a head. One head is the usual case;
//! more than one were set concurrently, and the latest of them wins. What was replaced is history.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::event::{Author, Dot, Event};
use super::hlc::Hlc;

/// A version is history, whoever has seen it, once its author has set the value so many times later. It bounds what an author
/// can keep in conflict: one that follows the protocol replaces its own versions, and has a few heads at most.
pub const SET_AGAIN_MAX: usize = 1024;

/// The place of an event in the total order of all events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct Stamp {
    /// Its moment.
    pub hlc: Hlc,
    /// Its name, which orders events of one moment.
    pub dot: Dot,
}

impl From<&Event> for Stamp {
    fn from(event: &Event) -> Self {
        Self { hlc: event.hlc, dot: event.dot }
    }
}

/// A value, and the event that set it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Version<V> {
    /// The event.
    pub stamp: Stamp,
    /// What it set.
    pub value: V,
}

/// All versions of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Register<V> {
    /// In the order of their stamps.
    heads: Vec<Version<V>>,
    /// In the order in which they were replaced.
    replaced: Vec<Version<V>>,
    /// The latest [`SET_AGAIN_MAX`] versions of each author, once there are more versions than that.
    latest: Option<BTreeMap<Author, BTreeSet<Stamp>>>,
}

impl<V> Default for Register<V> {
    fn default() -> Self {
        Self { heads: Vec::new(), replaced: Vec::new(), latest: None }
    }
}

impl<V: Clone + PartialEq> Register<V> {
    /// Adds a version. Its author saw some others, which were all added before.
    pub fn set(&mut self, stamp: Stamp, value: V, saw: impl Fn(Stamp) -> bool) {
        self.replaced.extend(self.heads.extract_if(.., |head| saw(head.stamp)));
        let at = self.heads.partition_point(|head| head.stamp < stamp);
        self.heads.insert(at, Version { stamp, value });
        if self.heads.len() + self.replaced.len() > SET_AGAIN_MAX {
            self.bound(stamp);
        }
    }

    /// Makes the version history that is too old now, since its author has set another one. It depends only on which versions
    /// there are, not on the order in which they came.
    fn bound(&mut self, added: Stamp) {
        let is_new = self.latest.is_none();
        let latest = self.latest.get_or_insert_default();
        let before: &[Version<V>] = if is_new { &self.replaced } else { &[] };
        let heads: &[Version<V>] = if is_new { &self.heads } else { &[] };
        let stamps = before.iter().chain(heads).map(|version| version.stamp);
        for stamp in stamps.chain([added]).collect::<Vec<_>>() {
            let of_author = latest.entry(stamp.dot.author).or_default();
            of_author.insert(stamp);
            if of_author.len() <= SET_AGAIN_MAX {
                continue;
            }
            let Some(old) = of_author.pop_first() else { continue };
            if let Ok(at) = self.heads.binary_search_by_key(&old, |head| head.stamp) {
                self.replaced.push(self.heads.remove(at));
            }
        }
    }

    /// Adds a version whose value is that of another, because a user chose it.
    /// Returns false if there is no such version.
    pub fn choose(&mut self, stamp: Stamp, version: Dot, saw: impl Fn(Stamp) -> bool) -> bool {
        let Some(value) = self.version(version).map(|version| version.value.clone()) else {
            return false;
        };
        self.set(stamp, value, saw);
        true
    }

    /// Returns the version that counts: the latest head.
    #[must_use]
    pub fn winner(&self) -> Option<&Version<V>> {
        self.heads.last()
    }

    /// Returns the value that counts.
    #[must_use]
    pub fn value(&self) -> Option<&V> {
        self.winner().map(|winner| &winner.value)
    }

    /// Returns the heads, the winner last.
    #[must_use]
    pub fn heads(&self) -> &[Version<V>] {
        &self.heads
    }

    /// Returns the names of the heads: the parents of an event that sets the value now, and ends every conflict.
    pub fn parents(&self) -> impl Iterator<Item = Dot> {
        self.heads.iter().map(|head| head.stamp.dot)
    }

    /// Returns the names of the heads with a value: the parents of an event that replaces it alone.
    pub fn parents_with(&self, value: &V) -> impl Iterator<Item = Dot> {
        self.heads.iter().filter(move |head| head.value == *value).map(|head| head.stamp.dot)
    }

    /// Returns the versions that lost against a concurrent one, latest first. Equal values are no conflict.
    pub fn siblings(&self) -> impl Iterator<Item = &Version<V>> {
        self.siblings_among(|_| true)
    }

    /// Returns the versions that lost against a concurrent one, where only some heads count.
    pub(super) fn siblings_among(
        &self,
        counts: impl Fn(Stamp) -> bool + Copy,
    ) -> impl Iterator<Item = &Version<V>> {
        let counting = move |head: &&Version<V>| counts(head.stamp);
        let differs_from_later = move |&(at, head): &(usize, &Version<V>)| {
            let mut later = self.heads[at + 1..].iter().filter(counting);
            later.all(|later| later.value != head.value)
        };
        let counted = self.heads.iter().enumerate().rev().filter(move |(_, head)| counting(head));
        counted.skip(1).filter(differs_from_later).map(|(_, head)| head)
    }

    /// Returns the versions that were replaced, earliest first.
    #[must_use]
    pub fn history(&self) -> Vec<&Version<V>> {
        let mut history: Vec<_> = self.replaced.iter().collect();
        history.sort_by_key(|version| version.stamp);
        history
    }

    /// Returns the version that an event set.
    #[must_use]
    pub fn version(&self, dot: Dot) -> Option<&Version<V>> {
        self.heads.iter().chain(&self.replaced).find(|version| version.stamp.dot == dot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Author;
    use super::*;

    fn stamp(ms: u64, author: u8) -> Stamp {
        Stamp { hlc: Hlc::at_ms(ms), dot: Dot { author: Author([author; 16]), seq: ms } }
    }

    #[test]
    fn an_author_keeps_a_bounded_number_of_versions_in_conflict_in_whatever_order_they_come() {
        let many = SET_AGAIN_MAX as u64 + 100;
        let of_others = [stamp(1, 2), stamp(many / 2, 3)];
        let all: Vec<_> = (1..=many).map(|ms| stamp(ms, 1)).chain(of_others).collect();
        let mut orders = vec![all.clone(), all.iter().rev().copied().collect()];
        // Every third first.
        orders.push((0..3).flat_map(|at| all.iter().skip(at).step_by(3).copied()).collect());
        let heads = |order: &[Stamp]| {
            let mut register = Register::default();
            order.iter().for_each(|stamp| register.set(*stamp, 'x', |_| false));
            assert_eq!(register.heads().len() + register.history().len(), all.len());
            register.heads().iter().map(|head| head.stamp).collect::<Vec<_>>()
        };
        let first = heads(&orders[0]);
        assert_eq!(first.len(), SET_AGAIN_MAX + of_others.len());
        assert!(of_others.iter().all(|other| first.contains(other)), "others have set one each");
        assert!(orders.iter().all(|order| heads(order) == first));
    }

    fn values(versions: &[&Version<char>]) -> String {
        versions.iter().map(|version| version.value).collect()
    }

    #[test]
    fn the_latest_of_concurrent_versions_wins_and_the_others_stay() {
        let mut register = Register::default();
        register.set(stamp(1, 1), 'a', |_| false);
        register.set(stamp(3, 1), 'b', |other| other == stamp(1, 1));
        register.set(stamp(2, 2), 'c', |other| other == stamp(1, 1));
        assert_eq!(register.value(), Some(&'b'));
        assert_eq!(values(&register.siblings().collect::<Vec<_>>()), "c");
        assert_eq!(values(&register.history()), "a");
    }

    #[test]
    fn equal_values_are_no_conflict() {
        let mut register = Register::default();
        for (author, value) in [(1, 'a'), (2, 'b'), (3, 'b'), (4, 'a')] {
            register.set(stamp(1, author), value, |_| false);
        }
        assert_eq!(register.value(), Some(&'a'));
        assert_eq!(values(&register.siblings().collect::<Vec<_>>()), "b");
    }

    #[test]
    fn a_choice_ends_a_conflict() {
        let mut register = Register::default();
        register.set(stamp(1, 1), 'a', |_| false);
        register.set(stamp(1, 2), 'b', |_| false);
        assert!(register.choose(stamp(2, 1), stamp(1, 1).dot, |_| true));
        assert_eq!(register.value(), Some(&'a'));
        assert_eq!(register.siblings().count(), 0);
        assert_eq!(values(&register.history()), "ab");
        assert!(
            !register.choose(stamp(3, 1), stamp(9, 9).dot, |_| true),
            "there is no such version"
        );
    }
}
