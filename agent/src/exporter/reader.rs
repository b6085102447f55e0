//! A reader: a node that executes walks for users of this machine, and what it knows of their files.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Instant;

use packetfs::identity::Owner;
use packetfs::packet::Digest;
use packetfs::path::{TreePath, is_within, join};
use packetfs::tree::Change;
use tokio::sync::mpsc::UnboundedSender;

use super::profile::{Known, Likeness};
use crate::wire::frame::Frame;
use crate::wire::message::Ask;
use crate::wire::squeeze::Squeezer;

/// Most users of a reader that are remembered. Beyond this, the oldest one is forgotten, whose walks then find some of
/// their directories closed, and are executed here.
const USERS_MAX: usize = 256;
/// Most directories that are closed to a reader. Beyond this, it is refused even their attributes.
pub(super) const CLOSED_MAX: usize = 10_000;

/// Everybody's rights: those of a question that no walk has asked.
pub(super) static NOBODY: Owner = Owner { uid: 65_534, gid: 65_534, groups: Vec::new() };

pub(super) struct Reader {
    pub(super) out_tx: UnboundedSender<Frame>,
    pub(super) squeezer: Squeezer,
    pub(super) sent: HashSet<Digest>,
    /// The part of this tree that it knows.
    pub(super) told: Known,
    /// Pending changes, which go out before the next message.
    pub(super) changes: Vec<Change>,
    /// When the oldest pending change was drained.
    pub(super) behind_since: Instant,
    /// The users whose walks it executes or has executed.
    pub(super) users: Vec<Owner>,
    /// Directories that none of them may search, and of which it knows the attributes alone.
    pub(super) closed: BTreeSet<TreePath>,
    /// Directories of whose files it was not told all attributes, because none of them may read these.
    pub(super) withheld: BTreeSet<TreePath>,
}

impl Reader {
    pub(super) fn new(out_tx: UnboundedSender<Frame>) -> Self {
        Self {
            out_tx,
            squeezer: Squeezer::default(),
            sent: HashSet::new(),
            told: Known::default(),
            changes: Vec::new(),
            behind_since: Instant::now(),
            users: Vec::new(),
            closed: BTreeSet::new(),
            withheld: BTreeSet::new(),
        }
    }

    /// Records a user. Returns whether the user is new.
    pub(super) fn add_user(&mut self, user: &Owner) -> bool {
        if self.users.contains(user) {
            return false;
        }
        if self.users.len() >= USERS_MAX {
            self.users.remove(0);
        }
        self.users.push(user.clone());
        true
    }

    /// Forgets what it does not know any more once it has been told of a change.
    pub(super) fn forget(&mut self, change: &Change) {
        match change {
            Change::Names { dir, names, .. } => {
                names.iter().for_each(|(name, _)| self.told.forget(&join(dir, name)));
            }
            Change::Forget { dir } => {
                self.told.forget(dir);
                self.closed.retain(|closed| !is_within(closed, dir));
                self.withheld.retain(|withheld| !is_within(withheld, dir));
            }
        }
    }
}

/// Returns the users of walks whose tokens let them ask this, each once.
pub(super) fn users_of<'a>(walks: &'a [Arc<Likeness>], ask: &Ask) -> Vec<&'a Owner> {
    if walks.is_empty() {
        return vec![&NOBODY];
    }
    let mut users: Vec<&Owner> = Vec::new();
    for walk in walks.iter().filter(|walk| walk.reach.has(ask)) {
        if !users.contains(&&walk.user) {
            users.push(&walk.user);
        }
    }
    users
}
