//! What is known of another node's volume, and what it is sent next. Pure.

use std::collections::VecDeque;

use worknode::history::{Author, Summary};

use crate::link::queued::FRAME_COST_BYTES;
use crate::wire::feed::Has;
use crate::wire::limits::{AUTHORS_MAX, EVENTS_AT_ONCE};

/// Most bytes of events that are sent before it is known whether they were taken.
const SENT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Most bytes of others' events that it has asked for and not taken.
const GIVEN_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The volume of another node.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Whose it is, once it has said so.
    pub(super) author: Option<Author>,
    /// What it has.
    pub(super) has: Summary,
    /// Up to which own event it was sent all.
    sent: u64,
    /// Bytes of messages that were not answered yet, with the cost of each, and their sum.
    waiting: VecDeque<usize>,
    waiting_bytes: usize,
    /// Messages that were answered.
    answered: u64,
}

impl Peer {
    /// Takes note of what it has. `sent` is how many messages of events have gone to its socket since the link began: what waits
    /// before the socket it cannot have answered, whatever it says.
    pub(super) fn hear(&mut self, has: Has, own: Author, sent: u64) {
        if has.is_all {
            self.author = has.author;
            self.has = has.summary;
        } else if self.answered < sent
            && let Some(bytes) = self.waiting.pop_front()
        {
            self.waiting_bytes -= bytes;
            self.answered += 1;
            let known = &mut self.has.0;
            for (author, last) in has.summary.0 {
                if known.len() < AUTHORS_MAX || known.contains_key(&author) {
                    known.insert(author, last);
                }
            }
        } else {
            return;
        }
        // What was sent and not taken, since events were missing before it, is sent again.
        if self.waiting.is_empty() {
            self.sent = self.has.of(own);
        }
    }

    /// Returns after which own event it is sent more, if it may be.
    pub(super) fn next(&self) -> Option<u64> {
        let may_be = self.waiting.len() < EVENTS_AT_ONCE && self.waiting_bytes < SENT_BYTES_MAX;
        (self.author.is_some() && may_be).then_some(self.sent)
    }

    /// Tells whether it has taken enough of what it was sent that it may ask for more.
    pub(super) fn may_be_given(&self) -> bool {
        self.waiting_bytes < GIVEN_BYTES_MAX
    }

    /// Takes note of a message of own events up to a number.
    pub(super) fn note_sent(&mut self, covers: u64, bytes: usize) {
        self.sent = covers;
        self.note_given(bytes);
    }

    /// Takes note of a message of others' events, which it has asked for.
    pub(super) fn note_given(&mut self, bytes: usize) {
        let bytes = bytes + FRAME_COST_BYTES;
        self.waiting.push_back(bytes);
        self.waiting_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Author = Author([1; 16]);
    const THEIRS: Author = Author([2; 16]);

    fn has(last: u64, is_all: bool) -> Has {
        Has { author: Some(THEIRS), summary: Summary([(OWN, last)].into()), is_all }
    }

    #[test]
    fn a_volume_is_sent_what_it_lacks_and_not_too_much_at_once() {
        let mut peer = Peer::default();
        assert_eq!(peer.next(), None, "it is not known whether there is one");
        peer.hear(has(5, true), OWN, 0);
        assert_eq!(peer.next(), Some(5));
        for message in 1..=EVENTS_AT_ONCE as u64 {
            peer.note_sent(5 + message, 100);
        }
        assert_eq!(peer.next(), None);
        peer.hear(has(6, false), OWN, 9);
        assert_eq!(peer.next(), Some(5 + EVENTS_AT_ONCE as u64));
        peer.note_sent(99, SENT_BYTES_MAX);
        peer.hear(has(7, false), OWN, 9);
        assert_eq!(peer.next(), None);
    }

    #[test]
    fn what_was_not_taken_is_sent_again() {
        let mut peer = Peer::default();
        peer.hear(has(5, true), OWN, 0);
        peer.note_sent(6, 100);
        peer.note_sent(7, 100);
        peer.hear(has(3, false), OWN, 9);
        assert_eq!(peer.next(), Some(7), "the other answer may say more");
        peer.hear(has(3, false), OWN, 9);
        assert_eq!(peer.next(), Some(3));
    }

    #[test]
    fn what_was_not_sent_yet_is_not_answered() {
        let mut peer = Peer::default();
        peer.hear(has(0, true), OWN, 0);
        for message in 1..=EVENTS_AT_ONCE as u64 {
            peer.note_sent(message, 100);
        }
        for _ in 0..100 {
            peer.hear(has(0, false), OWN, 1);
        }
        assert_eq!(peer.next(), Some(EVENTS_AT_ONCE as u64), "one was answered");
        peer.note_sent(99, 100);
        peer.hear(has(0, false), OWN, 1);
        assert_eq!(peer.next(), None);
        peer.hear(has(2, false), OWN, 2);
        assert_eq!(peer.next(), Some(99));
    }

    #[test]
    fn many_short_messages_are_bounded_too() {
        let mut peer = Peer::default();
        let given = (0..).take_while(|_| {
            peer.note_given(0);
            peer.may_be_given()
        });
        assert!(given.count() <= GIVEN_BYTES_MAX / FRAME_COST_BYTES);
    }
}
