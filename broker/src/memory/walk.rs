//! A walk's record.

use worknode::id::{Attempt, NodeId, WalkId};

use super::queue::{Lane, User};

/// A walk's record.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) id: WalkId,
    pub(crate) origin: NodeId,
    pub(crate) attempt: Attempt,
    /// The attempt after which the matchmaker began to count.
    pub(crate) first: Attempt,
    pub(crate) uid: u32,
    /// The node that runs it; `None` while it waits.
    pub(crate) node: Option<NodeId>,
    pub(crate) only: Option<NodeId>,
    pub(crate) avoid: Vec<NodeId>,
    pub(crate) near: Vec<NodeId>,
    pub(crate) prefer: Vec<NodeId>,
}

impl Walk {
    pub(crate) fn lane(&self) -> Lane {
        Lane { session: self.id.session, only: self.only.clone() }
    }

    pub(crate) fn user(&self) -> User {
        User { origin: self.origin.clone(), uid: self.uid }
    }

    /// Tells whether the walk may run on the node when its turn comes there.
    pub(crate) fn suits(&self, node: &NodeId) -> bool {
        self.only.is_some() || !self.avoid.contains(node)
    }
}
