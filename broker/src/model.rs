//! What agents tell the matchmaker, and what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use worknode::id::{Attempt, NodeId, WalkId};
use worknode::said::Said;

/// What the matchmaker tells an agent without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A walk of this origin that waited, or whose runner was lost, has a slot now.
    Granted(Grant),
    /// A walk whose origin or runner this node is was cancelled.
    Cancelled(WalkId),
    /// A walk of this origin failed too often and was dropped.
    Exhausted(WalkId),
    /// The connection broke. Calls wait for a moment, then fail.
    Lost,
    /// The connection is there again. Grants may have been missed: register, and submit all waiting
    /// walks again.
    Back,
}

/// A slot for a walk: on this node, under this attempt number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The walk.
    pub walk: WalkId,
    /// The runner.
    pub node: NodeId,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The fencing token: only the newest attempt may commit.
    pub attempt: Attempt,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// Its name.
    pub node: NodeId,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// Version of its agent.
    pub version: Said,
    /// Walks that it runs at once; 0 for an origin that runs none.
    pub slots: u32,
    /// Its processor.
    pub cpu: Said,
    /// What it has found wrong with itself.
    pub trouble: Option<Trouble>,
}

/// What a node may find wrong with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It has no room for packets.
    Full,
    /// Its machine does not have the address at which others are to reach it.
    Address,
}

impl Trouble {
    /// Returns its word in the list of nodes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
        }
    }

    /// Reads the word of a list of nodes. Words of newer versions count as [`Self::Address`]: no walk can
    /// reach the node.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "" => None,
            "full" => Some(Self::Full),
            _ => Some(Self::Address),
        }
    }
}

/// A node, as the matchmaker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// What it said of itself.
    pub info: NodeInfo,
    /// Walks that hold its slots.
    pub running: u32,
    /// Whether its lease holds.
    pub alive: bool,
    /// Distinguishes its agent from earlier ones of the same name.
    pub incarnation: Said,
    /// How long ago the matchmaker heard it.
    pub heard_ago: Duration,
}

/// A node that has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastNode {
    /// Its name.
    pub node: NodeId,
    /// Whether its agent said that it leaves; otherwise it fell silent.
    pub left: bool,
    /// How long ago the matchmaker heard it.
    pub heard_ago: Duration,
}

/// Whether the matchmaker knows the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It does, and has extended the lease.
    Yes {
        /// The number of the list of nodes: how often it has changed.
        list: u64,
        /// Whether walks of other origins wait for a slot.
        others_wait: bool,
    },
    /// It does not, or no longer does: register.
    No,
}

/// A walk of the caller that is to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// The walk.
    pub walk: WalkId,
    /// The last attempt, which the origin gave up; 0 for a new walk. A matchmaker that lost its memory
    /// continues to count from here.
    pub after: Attempt,
    /// The only node that suits.
    pub only: Option<NodeId>,
    /// Nodes that do not suit.
    pub avoid: Vec<NodeId>,
    /// Nodes that come first among equally loaded ones.
    pub prefer: Vec<NodeId>,
}

/// What became of a submitted walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It has a slot.
    Granted(Grant),
    /// It waits at this place of its lane (1 is next); an [`Event`] tells of the grant.
    Queued(u64),
    /// Too many walks wait: it is to be executed at the origin.
    Busy,
    /// The walk failed too often and was dropped.
    Exhausted,
}

/// What became of a walk whose attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// What became of the next attempt.
    Submitted(Submitted),
    /// The walk is unknown: it ended, was cancelled, or the matchmaker lost its memory.
    NotNeeded,
}

/// The answer to the end of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The slot is free again, or granted to `next`.
    Done {
        /// The caller's walk that has the slot now.
        next: Option<Grant>,
    },
    /// A newer attempt counts; its number is at least this.
    Fenced(Attempt),
    /// The walk is unknown: it ended before, or the matchmaker lost its memory.
    Unknown,
}
