//! Feeds: runs of one author's events as they are sent to other nodes, each with a signature of its author.
//!
//! Every node has the same bytes of an event, so a feed can be passed on by anybody and is checked by everybody.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use worknode::history::{Author, Event};
use worknode::key::{Key, Signature};

use super::place::FeedHash;
use super::record::{self, PAYLOAD_BYTES_MAX};

/// A run of events. It ends with one that is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Feed {
    /// The number of the event before the first one.
    pub after: u64,
    /// The feed hash of that event.
    pub before: [u8; 32],
    /// The encoded events.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub events: Vec<ByteBuf>,
    /// The author's signature of all events up to the last one.
    pub signature: Signature,
}

/// Why a feed is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Its events are there already.
    #[error("its events are here already")]
    Known,
    /// Events are missing before it.
    #[error("events are missing before it")]
    Gap,
    /// It is not signed by its author, or not what its author signed.
    #[error("it is not what its author has signed")]
    Forged,
    /// What its author signed does not decode, or is no event of this author that follows.
    #[error("its author has signed what is no event")]
    Senseless,
    /// The author has signed another history of the events that are here.
    #[error("its author has signed two different histories")]
    Fork,
}

impl Feed {
    /// Returns the number of its last event.
    #[must_use]
    pub fn covers(&self) -> u64 {
        self.after.saturating_add(self.events.len() as u64)
    }

    /// Returns the bytes of its events.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.len()).sum()
    }

    /// Checks it against what is here, which are the events up to `last` with its feed hash. Returns the new events.
    ///
    /// # Errors
    /// See [`Unfit`].
    pub fn check(
        &self,
        (author, key): (Author, &Key),
        (last, hash): (u64, &FeedHash),
    ) -> Result<Vec<Event>, Unfit> {
        if self.covers() <= last {
            return Err(Unfit::Known);
        }
        if self.after > last {
            return Err(Unfit::Gap);
        }
        let mut feed = self.before;
        let mut is_fork = self.after == last && feed != *hash;
        for (seq, event) in (self.after + 1..).zip(&self.events) {
            feed = record::feed_hash(&feed, event);
            is_fork |= seq == last && feed != *hash;
        }
        let message = record::signed(self.covers(), &feed);
        key.verify(&message, &self.signature).map_err(|_| Unfit::Forged)?;
        if is_fork {
            return Err(Unfit::Fork);
        }
        let news = (self.after + 1..).zip(&self.events).filter(|(seq, _)| *seq > last);
        news.map(|(seq, event)| decode(event, author, seq).ok_or(Unfit::Senseless)).collect()
    }
}

/// Decodes an event that its own log could have. Encoded again it has the same bytes.
fn decode(bytes: &[u8], author: Author, seq: u64) -> Option<Event> {
    if bytes.len() > PAYLOAD_BYTES_MAX {
        return None;
    }
    let event: Event = postcard::from_bytes(bytes).ok()?;
    let is_next = event.dot.author == author && event.dot.seq == seq;
    let again = postcard::to_extend(&event, Vec::with_capacity(bytes.len())).ok()?;
    (is_next && again == bytes).then_some(event)
}
