//! Whose events an author's are: a node's key says so.

use serde::{Deserialize, Serialize};
use worknode::history::Author;
use worknode::key::{Forged, Key, SecretKey, Signature};

/// What the signature is for.
const SIGNED_CONTEXT: &[u8] = b"oswalk 2026 the events of this key are mine: ";

/// A node's statement that it makes the events that a key signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    /// The key that signs the events.
    pub events: Key,
    /// The node's key.
    pub node: Key,
    signature: Signature,
}

impl Statement {
    /// Makes the statement of a node.
    #[must_use]
    pub fn sign(events: Key, node: &SecretKey) -> Self {
        Self { events, node: node.key(), signature: node.sign(&signed(&events)) }
    }

    /// Checks that the node has made it.
    ///
    /// # Errors
    /// It has not.
    pub fn check(&self) -> Result<(), Forged> {
        self.node.verify(&signed(&self.events), &self.signature)
    }

    /// Returns who makes the events.
    #[must_use]
    pub fn author(&self) -> Author {
        author_of(&self.events)
    }
}

fn signed(events: &Key) -> Vec<u8> {
    [SIGNED_CONTEXT, &events.0].concat()
}

/// Returns who makes events that a key signs.
#[must_use]
pub fn author_of(key: &Key) -> Author {
    let digest = blake3::hash(&key.0);
    Author(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
}
