//! Identifiers of nodes, sessions and walks, each of its own type.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::said::Said;

/// Longest node name.
pub const NODE_NAME_BYTES_MAX: usize = 64;

/// A node's name, unique in its cluster. It consists of ASCII letters, digits, `-`, `_` and `.`, begins
/// with a letter or digit, and does not contain `..`, so that it is always a plain file name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

/// The text is not a node name.
#[derive(Debug, thiserror::Error)]
#[error(
    "'{0}' is not a node name: write 1 to {NODE_NAME_BYTES_MAX} letters, digits, '-', '_' or single '.', the first a letter \
     or digit"
)]
pub struct NodeIdError(Said);

impl NodeId {
    /// Returns the name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeId {
    type Error = NodeIdError;

    fn try_from(name: String) -> Result<Self, NodeIdError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let sound = name.len() <= NODE_NAME_BYTES_MAX
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(allowed)
            && !name.contains("..");
        if sound { Ok(Self(name)) } else { Err(NodeIdError(name.into())) }
    }
}

impl FromStr for NodeId {
    type Err = NodeIdError;

    fn from_str(name: &str) -> Result<Self, NodeIdError> {
        Self::try_from(name.to_owned())
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> Self {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A session's number, drawn at random to be unique in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u64);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A walk's identifier: its session, and its number within the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct WalkId {
    /// The session.
    pub session: SessionId,
    /// Counts from 1 within the session.
    pub number: u32,
}

impl fmt::Display for WalkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.session, self.number)
    }
}

/// The text is not a walk id.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a walk id")]
pub struct WalkIdError(Said);

impl FromStr for WalkId {
    type Err = WalkIdError;

    fn from_str(text: &str) -> Result<Self, WalkIdError> {
        let parse = || {
            let (session, number) = text.split_once('-')?;
            let session = SessionId(u64::from_str_radix(session, 16).ok()?);
            Some(Self { session, number: number.parse().ok()? })
        };
        parse().ok_or_else(|| WalkIdError(text.into()))
    }
}

/// The number of an attempt at a walk: the fencing token. Only the newest attempt may commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attempt(pub u32);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names() {
        for good in ["node-1.lab", "n", "7", "a_b-c.d.", &"n".repeat(64)] {
            assert!(good.parse::<NodeId>().is_ok(), "{good}");
        }
        let long = "n".repeat(65);
        for bad in [
            "", "a b", "ä", "x/y", &long, ".", "..", "...", ".n", "-n", "_n", "a..b", "n\n", "n\0",
            "n\x1b[m", "n+xattrs", "a,b", "a|b", "a@b", "*",
        ] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn walk_ids_print_and_parse() {
        let walk = WalkId { session: SessionId(0xab), number: 7 };
        assert_eq!(walk.to_string(), "00000000000000ab-7");
        assert_eq!(walk.to_string().parse::<WalkId>().ok(), Some(walk));
        assert!("ab".parse::<WalkId>().is_err());
    }
}
