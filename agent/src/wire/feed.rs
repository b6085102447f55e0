//! What volumes of two nodes say to each other.

use packetfs::packet::{Packed, PacketRef};
use packetfs::volume::Batch;
use serde::{Deserialize, Serialize};
use worknode::history::{Author, Summary};

use super::limits::{AUTHORS_MAX, FETCHED_MAX, PROBED_MAX, SHORT_BYTES_MAX};

/// Which events a volume has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Has {
    /// Whose volume it is; nobody's if the node has none.
    pub author: Option<Author>,
    /// Of each author the number up to which it has all events.
    pub summary: Summary,
    /// Whether that is all of them. Otherwise it answers a message of events, and is about its author.
    pub is_all: bool,
}

impl Has {
    /// Decodes it. Returns `None` if it is damaged or too long.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let has: Self = short(payload)?;
        (has.summary.0.len() <= AUTHORS_MAX).then_some(has)
    }
}

/// Events of one author, with the small contents that they write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// The events.
    pub batch: Batch,
    /// The contents. They are checked by their digests.
    pub packets: Vec<(PacketRef, Packed)>,
}

/// A request for events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Whose.
    pub author: Author,
    /// The number of the event before the first one.
    pub after: u64,
}

/// A request for packets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The packets.
    pub packets: Vec<PacketRef>,
}

impl Fetch {
    /// Decodes it. Returns `None` if it is damaged, or asks for too many.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let fetch: Self = short(payload)?;
        (fetch.packets.len() <= FETCHED_MAX).then_some(fetch)
    }
}

/// A question which of some packets are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The packets.
    pub packets: Vec<PacketRef>,
}

impl Probe {
    /// Decodes it. Returns `None` if it is damaged, or asks for too many.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let probe: Self = short(payload)?;
        (probe.packets.len() <= PROBED_MAX).then_some(probe)
    }
}

/// Which of the packets are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probed {
    /// Whether each is there, in the order of the question; none if the node has no volume.
    pub has: Option<Vec<bool>>,
}

impl Probed {
    /// Decodes it. Returns `None` if it is damaged or too long.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let probed: Self = short(payload)?;
        probed.has.as_ref().is_none_or(|has| has.len() <= PROBED_MAX).then_some(probed)
    }
}

fn short<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
    let fits = payload.len() <= SHORT_BYTES_MAX;
    fits.then(|| postcard::from_bytes(payload).ok()).flatten()
}
