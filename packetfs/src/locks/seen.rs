//! Which events the holder of a lock must see, and who says so.
//!
//! An author is believed about its own events. What another node says of an author is waited for here, but said to nobody before
//! these events are here: so a number that is too great stays where it was said. The author itself may deny it, and what was
//! waited for in vain is dropped.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use worknode::history::Author;

use super::limits::{AUTHORS_MAX, DENIED_AFTER, DOUBTED};

/// What was said of an author's events.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The last one by its own word.
    own: u64,
    /// The last one by anybody's.
    heard: u64,
    /// Since when.
    since: Instant,
}

/// The events that holders of locks must see.
#[derive(Debug, Default)]
pub struct Seen {
    entries: BTreeMap<Author, Entry>,
    /// Until when nobody is believed about an author.
    doubts: BTreeMap<Author, Instant>,
}

impl Seen {
    /// A node says which events a holder must see. `knows` tells which authors have events here.
    pub fn hear(
        &mut self,
        from: Author,
        seen: &[(Author, u64)],
        knows: impl Fn(Author) -> bool,
        now: Instant,
    ) {
        self.doubts.retain(|_, until| now < *until);
        for &(author, last) in seen.iter().take(AUTHORS_MAX) {
            if self.doubts.contains_key(&author) || author != from && !knows(author) {
                continue;
            }
            let new = Entry { own: 0, heard: 0, since: now };
            let entry = self.entries.entry(author).or_insert(new);
            if last > entry.heard {
                (entry.heard, entry.since) = (last, now);
            }
            if author == from {
                entry.own = last.max(entry.own);
            }
        }
    }

    /// A node that is linked says how many events it has made. More is not waited for, unless
    /// it may have been said before that was heard.
    pub fn note_has(&mut self, author: Author, last: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&author)
            && now >= entry.since + DENIED_AFTER
        {
            (entry.heard, entry.own) = (entry.heard.min(last), entry.own.min(last));
        }
    }

    /// The link to a node has ended. It is not asked for its events any more.
    pub fn end(&mut self, author: Author) {
        self.doubts.remove(&author);
        if let Some(entry) = self.entries.get_mut(&author) {
            entry.own = 0;
        }
    }

    /// Returns what other nodes are told: the events that are here, and those that their author says it has.
    #[must_use]
    pub fn to_tell(&self, applied: impl Fn(Author) -> u64) -> Vec<(Author, u64)> {
        let told = self.entries.iter();
        let told = told.map(|(author, it)| (*author, it.own.max(it.heard.min(applied(*author)))));
        told.filter(|(_, last)| *last > 0).collect()
    }

    /// Returns those authors of whom not all is here that a holder must see.
    #[must_use]
    pub fn missing(&self, applied: impl Fn(Author) -> u64) -> BTreeSet<Author> {
        let missing = self.entries.iter().filter(|(author, it)| it.heard > applied(**author));
        missing.map(|(author, _)| *author).collect()
    }

    /// Events of an author were waited for in vain, and none came. Nobody is believed about it for some time.
    pub fn doubt(&mut self, author: Author, now: Instant) {
        self.entries.remove(&author);
        self.doubts.insert(author, now + DOUBTED);
    }

    /// Events of an author that is not linked were waited for long enough.
    pub fn give_up(&mut self, author: Author) {
        self.entries.remove(&author);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const A: Author = Author([1; 16]);
    const B: Author = Author([2; 16]);
    const MASTER: Author = Author([3; 16]);

    #[test]
    fn what_was_only_heard_is_not_said_to_others() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.hear(MASTER, &[(A, u64::MAX), (B, 7)], |_| true, now);
        assert_eq!(seen.to_tell(|_| 5), [(A, 5), (B, 5)]);
        assert_eq!(seen.missing(|_| 5), [A, B].into());
        seen.hear(B, &[(B, 7)], |_| true, now);
        assert_eq!(seen.to_tell(|_| 5), [(A, 5), (B, 7)], "an author knows its events");
        assert_eq!(seen.missing(|_| 7), [A].into());
    }

    #[test]
    fn an_author_denies_what_others_say_of_it() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.hear(MASTER, &[(A, u64::MAX)], |_| true, now);
        seen.note_has(A, 5, now + DENIED_AFTER / 2);
        assert_eq!(seen.missing(|_| 5), [A].into(), "that may have been said before");
        seen.note_has(A, 5, now + DENIED_AFTER);
        assert_eq!(seen.missing(|_| 5), [].into());
        assert_eq!(seen.missing(|_| 4), [A].into());
    }

    #[test]
    fn what_was_waited_for_in_vain_is_not_believed_again_soon() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        seen.hear(A, &[(A, u64::MAX)], |_| true, now);
        seen.doubt(A, now);
        seen.hear(MASTER, &[(A, u64::MAX)], |_| true, now + DOUBTED - Duration::from_millis(1));
        assert_eq!(seen.missing(|_| 5), [].into());
        seen.hear(A, &[(A, 6)], |_| true, now + DOUBTED);
        assert_eq!(seen.missing(|_| 5), [A].into());
    }

    #[test]
    fn authors_that_nobody_knows_are_not_noted_and_nodes_that_are_gone_not_believed() {
        let (mut seen, now) = (Seen::default(), Instant::now());
        let strangers: Vec<_> = (9..99).map(|number| (Author([number; 16]), 1)).collect();
        seen.hear(MASTER, &strangers, |_| false, now);
        assert_eq!(seen.missing(|_| 0), [].into());
        seen.hear(A, &[(A, u64::MAX)], |_| false, now);
        seen.end(A);
        assert_eq!(seen.to_tell(|_| 5), [(A, 5)]);
    }
}
