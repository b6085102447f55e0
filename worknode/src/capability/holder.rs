//! The holder of a token: whom its node minted it for.

use super::right::Rights;
use crate::id::NodeId;

/// Who a token was minted for, and what that user may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The node whose key is the token's root.
    pub node: NodeId,
    /// The user there.
    pub uid: u32,
    /// The user's name there, for people.
    pub user: Option<String>,
    /// When, in seconds since 1970.
    pub minted_s: u64,
    /// What the node grants the user.
    pub rights: Rights,
}
