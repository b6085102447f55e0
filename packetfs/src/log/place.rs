//! Names of places in the log.

use std::fmt;

use serde::{Deserialize, Serialize};
use worknode::history::Hlc;

/// A position between events: after the one of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

/// A byte of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Place {
    /// The number of the segment.
    pub segment: u32,
    /// The offset of the byte.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "segment {:08}, byte {}", self.segment, self.offset)
    }
}

/// The hash of a record and all before it.
pub(super) type Chain = [u8; 32];

/// The hash of an event and all events of its author before it. Unlike a [`Chain`] it is the same on every node.
pub(super) type FeedHash = [u8; 32];

/// The end of a record, and what the next one follows on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Tip {
    pub(super) place: Place,
    /// The number of the last event.
    pub(super) seq: u64,
    /// The moment of the last event.
    pub(super) hlc: Hlc,
    /// The feed hash of the last event.
    pub(super) feed: FeedHash,
    pub(super) chain: Chain,
}
