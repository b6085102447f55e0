//! What is committed: changes with their content, on whose behalf, and where they may be made.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::change::ChangeSet;
use crate::packet::{Digest, Packed, PacketRef};
use crate::path::TreePath;
use crate::tree::Time;

/// The content of a commit's packets, checked against their names.
pub(super) type Contents<'a> = HashMap<Digest, Cow<'a, [u8]>>;

/// On whose behalf changes are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// A change set with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// On whose behalf.
    pub owner: Owner,
    /// Where the walk may change something.
    pub scope: Scope,
    /// The changes.
    pub changes: ChangeSet,
    /// The packets that their files consist of.
    pub packets: Vec<(PacketRef, Packed)>,
    /// What others have changed meanwhile may be overwritten: the walk cannot be repeated.
    pub last_wins: bool,
    /// When the walk began: the times of what it wrote count from there.
    pub began: Time,
}

/// The part of the tree that a walk may change, besides what its user may.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// Only what is below these, if there are any.
    pub only_below: Vec<TreePath>,
    /// Nothing that is, or is below, one of these.
    pub closed: Vec<TreePath>,
    /// It may make programs that act with the rights of their owner.
    pub set_id: bool,
}
