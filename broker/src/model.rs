//! What agents tell the broker, and what it answers.

use std::net::SocketAddr;
use std::time::Duration;

use worknode::id::{Attempt, NodeId, WalkId};
use worknode::said::Said;

/// Nodes that are listed, as many as a large cluster has; who writes more into Redis is not heard
/// (`LIST_MAX` in `functions.lua`).
pub const NODES_MAX: usize = 1024;
/// Slots of one node; a machine has fewer processors. One that says more has these.
pub(crate) const SLOTS_MAX: u32 = 4096;

/// A node that sends no heartbeat for so long has lost its walks (`LEASE_MS` in `functions.lua`).
/// Agents send one a little sooner than twice in it.
pub const LEASE: Duration = Duration::from_secs(1);

/// What the broker tells an agent without being asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A walk of this origin that waited, or whose runner was lost, has a slot.
    Granted(Grant),
    /// A walk that this node is origin or runner of was cancelled.
    Cancelled(WalkId),
    /// A walk of this origin failed too often; the broker has dropped it.
    Exhausted(WalkId),
    /// The connection to the broker broke. Calls wait for a moment, then fail.
    Lost,
    /// The connection is there again. Grants may have been missed: register, and submit all walks
    /// that wait once more.
    Back,
}

/// The broker's answer: this walk, on this node, under this attempt number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The walk.
    pub walk: WalkId,
    /// The runner.
    pub node: NodeId,
    /// Where its agent listens.
    pub address: SocketAddr,
    /// The fencing token: only the newest attempt may be committed.
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
    /// Walks it takes at once; 0 for an origin that runs nothing for others.
    pub slots: u32,
    /// Its processor.
    pub cpu: Said,
    /// What it has found wrong with itself; it takes no walks then.
    pub trouble: Option<Trouble>,
}

/// What a node may find wrong with itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It has no room for packets.
    Full,
    /// Its machine does not have the address that it is reached at.
    Address,
}

impl Trouble {
    /// Returns the word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
        }
    }

    /// Returns what a word says. Whatever else is wrong with a node, it is not reached.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "" => None,
            "full" => Some(Self::Full),
            _ => Some(Self::Address),
        }
    }
}

/// A node, as the broker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// What it said of itself.
    pub info: NodeInfo,
    /// Walks that hold its slots.
    pub running: u32,
    /// Its lease holds.
    pub alive: bool,
    /// Tells its agent from an earlier one of the same name.
    pub incarnation: Said,
    /// How long ago the broker heard it.
    pub heard_ago: Duration,
}

/// A node that has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastNode {
    /// Its name.
    pub node: NodeId,
    /// Its agent was ended and said so; else it fell silent.
    pub left: bool,
    /// How long ago the broker heard it.
    pub heard_ago: Duration,
}

/// Whether the broker knows the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It does; the lease was extended. The list of nodes is another one when the number is.
    Yes {
        /// How often the list of nodes has changed so far.
        list: u64,
        /// Walks of other origins wait for a slot.
        others_wait: bool,
    },
    /// It does not, or no longer: register.
    No,
}

/// A walk that is to be placed; the caller is its origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// The walk. To submit it twice is harmless.
    pub walk: WalkId,
    /// The last attempt that the origin knows and gave up; 0 for a new walk. A broker that lost
    /// its memory goes on counting from here.
    pub after: Attempt,
    /// The only node that will do.
    pub only: Option<NodeId>,
    /// Nodes that will not do.
    pub avoid: Vec<NodeId>,
    /// Nodes that come first among the equally loaded.
    pub prefer: Vec<NodeId>,
}

/// What became of a submitted walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It has a slot.
    Granted(Grant),
    /// It waits at this place (1 is next) of its session's queue; an [`Event`] will tell.
    Queued(u64),
    /// Too many walks wait: execute it at the origin.
    Busy,
    /// The walk failed too often; the broker has dropped it.
    Exhausted,
}

/// What became of a walk whose attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// A newer attempt was placed, or waits, or was dropped.
    Submitted(Submitted),
    /// The broker does not know the walk: it ended, was cancelled, or the broker lost its memory.
    NotNeeded,
}

/// What the broker says to the end of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The slot is free again, or already taken by `next`.
    Done {
        /// The caller's own walk that was granted the slot in the same breath.
        next: Option<Grant>,
    },
    /// Another attempt counts; its number is at least this.
    Fenced(Attempt),
    /// The broker does not know the walk: it ended before, or the broker lost its memory.
    Unknown,
}
