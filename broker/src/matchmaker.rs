//! What an agent asks of the cluster's matchmaker.

use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::error::BrokerError;
use crate::model::{
    Finished, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted,
};

/// One node's access to the matchmaker. What the matchmaker says without being asked arrives as
/// [`Event`](crate::Event)s. Every call may be made twice: the second has the same answer, and no
/// further effect.
///
/// Every call fails if the matchmaker is away, and tells nothing of whether it was heard.
#[expect(
    async_fn_in_trait,
    reason = "an agent has one thread: nobody needs the futures to be Send"
)]
pub trait Matchmaker {
    /// Returns where the matchmaker is, as it may be shown: without a password.
    fn url(&self) -> &str;

    /// Tells whether the connection stands.
    fn is_up(&self) -> bool;

    /// Enters a node, or changes what it said of itself. Walks that an earlier agent of this name ran
    /// are placed again; those it was the origin of are cancelled.
    ///
    /// # Errors
    /// A living agent elsewhere has the name.
    async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError>;

    /// Extends the lease of the caller's node, and buries nodes whose lease ended. After the first one,
    /// heartbeats that are due also go out with other calls (see [`Self::heard_lately`]).
    async fn heartbeat(&self) -> Result<Registered, BrokerError>;

    /// Returns the answer to the last heartbeat if it is recent: then no other is needed yet.
    fn heard_lately(&self) -> Option<Registered>;

    /// Takes a node out of the cluster. Walks that it runs are placed again; those it is the origin of
    /// are cancelled.
    async fn leave(&self, node: &NodeId) -> Result<(), BrokerError>;

    /// Returns the nodes of the cluster, and those that have gone, as far as they are remembered.
    async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError>;

    /// Places a walk of the caller, or lets it wait for its turn.
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

    /// Says that the link to a node broke: the caller's walks there are placed again at once, and no
    /// walk is placed there until the node's next heartbeat.
    async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError>;
}
