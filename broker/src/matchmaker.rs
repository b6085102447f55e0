//! The interface of a matchmaker.

use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::error::BrokerError;
use crate::model::{
    Finished, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted,
};

/// One node's access to the matchmaker. Unsolicited messages arrive as [`Event`](crate::Event)s. All calls are
/// idempotent.
///
/// Every call fails if the matchmaker is away. Whether it has taken effect is then unknown.
#[expect(
    async_fn_in_trait,
    reason = "an agent has one thread: nobody needs the futures to be Send"
)]
pub trait Matchmaker {
    /// Returns the matchmaker's address without a password, for display.
    fn url(&self) -> &str;

    /// Tells whether the connection is up.
    fn is_up(&self) -> bool;

    /// Registers a node, or updates its entry. Walks that an earlier agent of this name ran are placed again; walks of
    /// which it was the origin are cancelled.
    ///
    /// # Errors
    /// Another alive agent has the name.
    async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError>;

    /// Extends the lease of the caller's node, and buries nodes whose lease ended. After the first one,
    /// heartbeats that are due also go out with other calls (see [`Self::heard_lately`]).
    async fn heartbeat(&self) -> Result<Registered, BrokerError>;

    /// Notes the load average of the caller's machine, in hundredths, for the next heartbeats.
    fn note_load(&self, load_percent: u32);

    /// Returns the answer to the last heartbeat if it is recent: then no other is needed yet.
    fn heard_lately(&self) -> Option<Registered>;

    /// Removes a node from the cluster. Walks that it runs are placed again; walks of which it is the origin are
    /// cancelled.
    async fn leave(&self, node: &NodeId) -> Result<(), BrokerError>;

    /// Returns the nodes of the cluster, and remembered nodes that have gone.
    async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError>;

    /// Places a walk of the caller, or queues it.
    async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError>;

    /// Gives up an attempt at a walk of the caller and asks for another, not on `avoid`.
    async fn retry(
        &self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Result<Retried, BrokerError>;

    /// Ends a walk: frees its slot and grants it to the walk whose turn it is.
    async fn finish(
        &self,
        walk: WalkId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<Finished, BrokerError>;

    /// Removes a walk, waiting or granted. Returns whether the matchmaker knew it.
    async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError>;

    /// Removes all walks of a session.
    async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError>;

    /// Reports that the link to a node has failed: the caller's walks there are placed again at once, and no walk is
    /// placed there until the node's next heartbeat.
    async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError>;
}
