//! The greeting, the first messages on a link: both sides name themselves and prove that they hold the cluster's
//! secret, without sending it.
//!
//! `caller: Hello` → `callee: Hello, Proof` → `caller: Proof`. Each [`Hello`] has 32 fresh random bytes, so no
//! [`Proof`] serves twice.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use worknode::id::NodeId;
use worknode::said::Said;

use super::limits::GREETING_MESSAGE_BYTES_MAX;
use super::message::encode;

/// Who an agent says it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`super::VERSION`].
    pub protocol: u32,
    /// Its version of OS Walk.
    pub version: Said,
    /// Its node's name.
    pub node: NodeId,
    /// Tells this agent from an earlier one of the same name.
    pub incarnation: u64,
    /// Why it calls.
    pub purpose: Purpose,
    /// Its clock, in seconds since 1970.
    pub clock_s: u64,
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

/// Why an agent calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To have a link.
    Link,
    /// To know whether they could have one.
    Greet,
}

/// Reads a message of the greeting; nothing if it is damaged or too long.
#[must_use]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let is_short = bytes.len() <= GREETING_MESSAGE_BYTES_MAX;
    is_short.then(|| postcard::from_bytes(bytes).ok()).flatten()
}

/// The key that proves the cluster's secret.
#[derive(Clone)]
pub struct Secret([u8; 32]);

/// What proves that a side holds the secret.
#[derive(Debug, Clone, Copy, Eq, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

/// Who gives a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent that called.
    Caller,
    /// The agent that was called.
    Callee,
}

impl Secret {
    /// Derives the key from what the secret file holds.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        Self(blake3::derive_key("oswalk 2026 link secret", text.trim_ascii()))
    }

    /// Returns the proof that a side gives after these hellos.
    #[must_use]
    pub fn prove(&self, side: Side, caller: &Hello, callee: &Hello) -> Proof {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(side.name());
        for hello in [caller, callee] {
            hasher.update(&encode(hello));
        }
        Proof(*hasher.finalize().as_bytes())
    }
}

impl Side {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Caller => b"caller",
            Self::Callee => b"callee",
        }
    }
}

impl PartialEq for Proof {
    /// Compares in constant time.
    fn eq(&self, other: &Self) -> bool {
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}
