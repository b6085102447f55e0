//! A commit: changes with their content, their owner, and their scope.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::change::ChangeSet;
use crate::identity::Owner;
use crate::packet::{Digest, Packed, PacketRef};
use crate::path::TreePath;
use crate::tree::Time;

/// The content of a commit's packets, checked against their digests.
pub(super) type Contents<'a> = HashMap<Digest, Cow<'a, [u8]>>;

/// A change set with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The user on whose behalf it is made.
    pub owner: Owner,
    /// Where the walk may make changes.
    pub scope: Scope,
    /// The changes.
    pub changes: ChangeSet,
    /// The packets of the changed files.
    pub packets: Vec<(PacketRef, Packed)>,
    /// Whether concurrent changes of others are overwritten, because the walk cannot be repeated.
    pub last_wins: bool,
    /// When the walk began; times of its writes are relative to it.
    pub began: Time,
}

/// The part of the tree that a walk may change, in addition to the user's permissions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// If not empty, only paths below these may change.
    pub only_below: Vec<TreePath>,
    /// These paths, and those below them, must not change.
    pub closed: Vec<TreePath>,
    /// Whether it may create set-user-id and set-group-id files.
    pub set_id: bool,
}
