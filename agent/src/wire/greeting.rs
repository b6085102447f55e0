//! The greeting is the handshake of a link: both sides identify themselves and prove that they hold the cluster's
//! secret, without sending it.
//!
//! `caller: Hello` → `callee: Hello, Proof` → `caller: Proof`. Each [`Hello`] contains 32 fresh random bytes, so a
//! [`Proof`] cannot be replayed.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use worknode::id::NodeId;
use worknode::said::Said;

use super::limits::GREETING_MESSAGE_BYTES_MAX;
use super::message::encode;

/// An agent's claimed identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Its [`super::VERSION`].
    pub protocol: u32,
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
    /// Fresh random bytes.
    pub nonce: [u8; 32],
}

/// Why an agent calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To open a link.
    Link,
    /// To check whether a link is possible.
    Greet,
}

/// Decodes a message of the greeting. Returns `None` if it is damaged or too long.
#[must_use]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let is_short = bytes.len() <= GREETING_MESSAGE_BYTES_MAX;
    is_short.then(|| postcard::from_bytes(bytes).ok()).flatten()
}

/// The key derived from the cluster's secret.
#[derive(Clone)]
pub struct Secret([u8; 32]);

/// A proof that a side holds the secret.
#[derive(Debug, Clone, Copy, Eq, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

/// The side that gives a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The agent that called.
    Caller,
    /// The agent that was called.
    Callee,
}

impl Secret {
    /// Derives the key from the content of the secret file.
    #[must_use]
    pub fn new(text: &[u8]) -> Self {
        Self(blake3::derive_key("oswalk 2026 link secret", text.trim_ascii()))
    }

    /// Returns the proof of a side for these hellos.
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
