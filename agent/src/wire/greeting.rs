//! The greeting, the first messages on a link. TLS has proved the keys of both sides before. Here they say which nodes
//! they are, and bring each other's roll up to date.
//!
//! `caller: Hello` → `callee: Hello`. If what they know differs: `caller: Vec<Record>, Vec<RevocationList>` → the same from
//! the callee. If the caller orders something: `callee: Ordered`.

use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use worknode::capability::RevocationList;
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::membership::Record;
use worknode::said::Said;

use super::limits::{
    GREETING_MESSAGE_BYTES_MAX, OLDEST_VERSION, RECORDS_BYTES_MAX, REVOKED_BYTES_MAX, VERSION,
};

/// The versions that a side speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spoken {
    /// Its [`super::limits::VERSION`].
    pub newest: u32,
    /// Its [`super::limits::OLDEST_VERSION`].
    pub oldest: u32,
}

impl Spoken {
    /// What this side speaks.
    pub const OURS: Self = Self { newest: VERSION, oldest: OLDEST_VERSION };

    /// Returns the version that two sides speak with each other: the newest that both do.
    #[must_use]
    pub fn with(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Introduces an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The versions of this protocol that it speaks.
    pub spoken: Spoken,
    /// Its version of OS Walk.
    pub version: Said,
    /// Its node's name.
    pub node: NodeId,
    /// Distinguishes this agent from earlier ones of the same name.
    pub incarnation: u64,
    /// Why it calls.
    pub purpose: Purpose,
    /// Its clock, in seconds since 1970.
    pub clock_s: u64,
    /// The digest of what it knows.
    pub roll: [u8; 32],
    /// The records that make it a member, for a side that has not heard of it. Only a caller sends them: who is called
    /// has been found by its key. To a caller that it does not take, a callee sends the record that removes the caller.
    pub admission: Vec<Record>,
    /// Where it is reached.
    pub address: SocketAddr,
    /// The node that runs the broker, and where it was last seen. Only members are told.
    pub broker: Option<(Key, SocketAddr)>,
}

/// Why an agent calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To have a link.
    Link,
    /// To know whether they could have one.
    Greet,
    /// To have the callee finish its walks and take no others. Only the node that made the cluster may.
    Drain,
    /// To undo that.
    Resume,
}

/// What a callee answers to an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ordered {
    /// It has done it.
    Done,
    /// It has not, for this reason.
    Refused(Said),
}

/// Decodes the answer to an order; returns nothing if it is damaged or too long.
#[must_use]
pub fn ordered(bytes: &[u8]) -> Option<Ordered> {
    decode(bytes, GREETING_MESSAGE_BYTES_MAX)
}

/// Decodes a hello; returns nothing if it is damaged or too long.
#[must_use]
pub fn hello(bytes: &[u8]) -> Option<Hello> {
    decode(bytes, GREETING_MESSAGE_BYTES_MAX)
}

/// Decodes the records of a roll; returns nothing if they are damaged or too long.
#[must_use]
pub fn records(bytes: &[u8]) -> Option<Vec<Record>> {
    decode(bytes, RECORDS_BYTES_MAX)
}

/// Decodes lists of revoked tokens; returns nothing if they are damaged or too long.
#[must_use]
pub fn revoked(bytes: &[u8]) -> Option<Vec<RevocationList>> {
    decode(bytes, REVOKED_BYTES_MAX)
}

fn decode<T: DeserializeOwned>(bytes: &[u8], bytes_max: usize) -> Option<T> {
    (bytes.len() <= bytes_max).then(|| postcard::from_bytes(bytes).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::Spoken;

    /// The matrix of old and new.
    #[test]
    fn two_sides_speak_the_newest_version_that_both_do() {
        for (ours, theirs, both) in [
            ((14, 14), (14, 14), Some(14)),
            ((15, 14), (14, 14), Some(14)),
            ((15, 15), (14, 14), None),
            ((16, 14), (15, 13), Some(15)),
            ((16, 14), (18, 15), Some(16)),
            ((16, 14), (18, 17), None),
            ((14, 20), (14, 14), None),
            ((u32::MAX, 0), (14, 14), Some(14)),
        ] {
            let [ours, theirs] = [ours, theirs].map(|(newest, oldest)| Spoken { newest, oldest });
            assert_eq!(
                (ours.with(theirs), theirs.with(ours)),
                (both, both),
                "{ours:?}, {theirs:?}"
            );
        }
    }
}
