//! The types of requests and answers of a matchmaker.

use std::net::SocketAddr;
use std::time::Duration;

use worknode::id::{Attempt, NodeId, WalkId};
use worknode::said::Said;

/// An unsolicited message from the matchmaker to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A walk of this origin that was waiting, or whose runner was lost, has got a slot.
    Granted(Grant),
    /// A walk whose origin or runner this node is was cancelled.
    Cancelled(WalkId),
    /// A walk of this origin failed too often and was dropped.
    Exhausted(WalkId),
    /// The connection broke. Calls wait for a moment, then fail.
    Lost,
    /// The connection is up again. Grants may have been lost: register, and submit all waiting walks again.
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

/// A node's description of itself.
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
    /// A problem that it has detected.
    pub trouble: Option<Trouble>,
    /// Which walks it takes.
    pub takes: Takes,
}

/// Which walks a node takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Takes {
    /// All.
    #[default]
    All,
    /// Compile steps: its agent runs without root.
    CompileSteps,
}

impl Takes {
    /// Returns its word in the list of nodes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "",
            Self::CompileSteps => "compile-steps",
        }
    }

    /// Reads the word of a list of nodes. Words of newer versions count as the smallest set.
    pub(crate) fn parse(word: &str) -> Self {
        if word.is_empty() { Self::All } else { Self::CompileSteps }
    }
}

/// A problem that a node detects in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It has no space for packets.
    Full,
    /// Its machine does not have the address that it advertises.
    Address,
    /// It finishes its walks and takes no others, as somebody has asked.
    Draining,
}

impl Trouble {
    /// Returns its word in the list of nodes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Address => "address",
            Self::Draining => "draining",
        }
    }

    /// Reads the word of a list of nodes. Words of newer versions count as [`Self::Address`]: no walk can
    /// reach the node.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "" => None,
            "full" => Some(Self::Full),
            "draining" => Some(Self::Draining),
            _ => Some(Self::Address),
        }
    }
}

/// A node, as the matchmaker knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Its description of itself.
    pub info: NodeInfo,
    /// Walks that hold its slots.
    pub running: u32,
    /// Whether its lease is valid.
    pub alive: bool,
    /// Distinguishes its agent from earlier ones of the same name.
    pub incarnation: Said,
    /// How long ago the matchmaker heard it.
    pub heard_ago: Duration,
    /// The load average of its machine, in hundredths, by its last heartbeat.
    pub load_percent: u32,
}

/// A node that has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastNode {
    /// Its name.
    pub node: NodeId,
    /// Whether its agent left orderly; otherwise it fell silent.
    pub left: bool,
    /// How long ago the matchmaker heard it.
    pub heard_ago: Duration,
}

/// Whether the matchmaker knows the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registered {
    /// It is known, and its lease has been extended.
    Yes {
        /// The version of the list of nodes: how often it has changed.
        list: u64,
        /// Whether walks of other origins wait for a slot.
        others_wait: bool,
    },
    /// It is unknown and must register.
    No,
}

/// A request to place a walk of the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submit {
    /// The walk.
    pub walk: WalkId,
    /// The last attempt, which the origin gave up; 0 for a new walk. A matchmaker that has lost its state continues to
    /// count from here.
    pub after: Attempt,
    /// The user, as the origin knows it. Slots are shared evenly between the users of all origins.
    pub uid: u32,
    /// The only acceptable node, if given.
    pub only: Option<NodeId>,
    /// Nodes to avoid.
    pub avoid: Vec<NodeId>,
    /// Nodes that have most of what the walk reads: used before all others while they have a free slot.
    pub near: Vec<NodeId>,
    /// Nodes to prefer among equally loaded ones.
    pub prefer: Vec<NodeId>,
}

/// The result of submitting a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Submitted {
    /// It has a slot.
    Granted(Grant),
    /// It waits at this place of its lane (1 is next); an [`Event`] announces the grant.
    Queued(u64),
    /// Too many walks are waiting, so it should be executed at the origin.
    Busy,
    /// The walk failed too often and was dropped.
    Exhausted,
}

/// The result of retrying a walk whose attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retried {
    /// The result of submitting the next attempt.
    Submitted(Submitted),
    /// The walk is unknown: it has ended, was cancelled, or the matchmaker has lost its state.
    NotNeeded,
}

/// The answer to the end of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The slot is free again, or granted to `next`.
    Done {
        /// The caller's walk that has got the slot.
        next: Option<Grant>,
    },
    /// A newer attempt is valid; its number is at least this.
    Fenced(Attempt),
    /// The walk is unknown: it has ended before, or the matchmaker has lost its state.
    Unknown,
}
