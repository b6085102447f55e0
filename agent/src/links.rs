//! The links of this agent, at most one per node. A link is opened when it is first needed, or accepted from a
//! calling node.

mod callers;
mod greet;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use broker::Grant;
use worknode::id::NodeId;

use crate::cluster::{Cluster, Failure};
use crate::link::handshake::Peer;
use crate::link::socket::Socket;
use crate::link::{Link, call, tasks};
use crate::transfer::Transfers;
use crate::wire::frame::Frame;
use crate::wire::greeting::{Purpose, Secret};

/// Delay before an unreachable node is tried again.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);
/// Most nodes that are reported to the broker as warm.
const WARM_MAX: usize = 4;

/// Receives the frames and the ends of all links.
pub(crate) trait Receive {
    /// Handles a frame. Never blocks.
    fn take(&self, link: &Rc<Link>, frame: Frame);

    /// Handles the end of a link.
    fn end(&self, link: &Rc<Link>);
}

/// All links by peer.
pub(crate) struct Links {
    own: Peer,
    secret: Secret,
    cluster: Rc<Cluster>,
    receiver: Rc<dyn Receive>,
    /// Distances of nodes, and the programs that they have.
    pub(crate) transfers: Transfers,
    by_node: RefCell<HashMap<NodeId, Rc<Link>>>,
    /// Locks held while a node is being called, so that two walks do not call it twice.
    calling: RefCell<HashMap<NodeId, Rc<tokio::sync::Mutex<()>>>>,
    next_number: Cell<u32>,
    /// Bytes sent and received on ended links.
    ended_bytes: Cell<(u64, u64)>,
}

impl Links {
    /// Makes the links of the agent `own`, which authenticates with the cluster's `secret`.
    pub(crate) fn new(
        own: Peer,
        secret: Secret,
        cluster: Rc<Cluster>,
        receiver: Rc<dyn Receive>,
    ) -> Self {
        Self {
            own,
            secret,
            cluster,
            receiver,
            transfers: Transfers::default(),
            by_node: RefCell::default(),
            calling: RefCell::default(),
            next_number: Cell::new(1),
            ended_bytes: Cell::new((0, 0)),
        }
    }

    /// Returns the link to a node, if there is one.
    pub(crate) fn get(&self, node: &NodeId) -> Option<Rc<Link>> {
        self.by_node.borrow().get(node).filter(|link| !link.is_closed()).cloned()
    }

    /// Returns the link to the node of a grant, and calls the node if there is none.
    ///
    /// # Errors
    /// The node cannot be reached, or is not the one that was granted.
    pub(crate) async fn get_or_call(self: &Rc<Self>, grant: &Grant) -> anyhow::Result<Rc<Link>> {
        if let Some(link) = self.get(&grant.node) {
            return Ok(link);
        }
        let calling = Rc::clone(self.calling.borrow_mut().entry(grant.node.clone()).or_default());
        let _calling = calling.lock().await;
        if let Some(link) = self.get(&grant.node) {
            return Ok(link);
        }
        if let Some(failure) = self.cluster.members.failed_since(&grant.node, UNREACHABLE_FOR) {
            anyhow::bail!("the last handshake with {} failed: {failure}", grant.node);
        }
        let called = self.call(&grant.node, grant.address, Purpose::Link).await;
        let greeted = called.as_ref().map(drop).map_err(Clone::clone);
        self.note_greeting(&grant.node, greeted);
        let (socket, peer) = called.with_context(|| format!("failed to call {}", grant.node))?;
        Ok(self.start(socket, peer, true))
    }

    /// Returns the nodes that have received most of this machine's tree, in descending order.
    pub(crate) fn warm_nodes(&self) -> Vec<NodeId> {
        let links = self.by_node.borrow();
        let mut warm: Vec<_> = links.values().filter(|link| !link.is_closed()).collect();
        warm.sort_by_key(|link| std::cmp::Reverse(link.bytes().0));
        warm.into_iter().take(WARM_MAX).map(|link| link.peer.clone()).collect()
    }

    /// Returns the bytes sent and received so far on all links, including ended ones.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let links = self.by_node.borrow();
        let sum = links.values().map(|link| link.bytes());
        sum.fold(self.ended_bytes.get(), |(a, b), (c, d)| (a + c, b + d))
    }

    /// Ends all links.
    pub(crate) fn close(&self) {
        self.by_node.borrow().values().for_each(|link| link.close());
    }

    async fn call(
        &self,
        node: &NodeId,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<(Socket, Peer), Failure> {
        let called = call::call(&self.own, &self.secret, (node, address), purpose).await;
        let (socket, peer, round_trip) = called?;
        self.transfers.note_distance(node, round_trip);
        Ok((socket, peer))
    }

    /// Records the result of a handshake.
    fn note_greeting(&self, node: &NodeId, greeted: Result<(), Failure>) {
        let failure = greeted.as_ref().err().cloned();
        let is_news = self.cluster.note_greeting(node, greeted);
        if let Some(failure) = failure.filter(|_| is_news) {
            let remedy = failure.remedy;
            tracing::warn!(%node, why = %failure, remedy, "the handshake with a node failed");
        }
    }

    /// Makes a link of a connection. If both peers have called each other, both keep the same link.
    fn start(self: &Rc<Self>, socket: Socket, peer: Peer, called: bool) -> Rc<Link> {
        let replaced = match self.get(&peer.node) {
            Some(other) if !other.gives_way_to(&self.own.node, &peer, called) => {
                tracing::info!(peer = %peer.node, "both agents have called each other: keeping the other link");
                return other;
            }
            other => other,
        };
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        let (receiver, links) = (Rc::clone(&self.receiver), Rc::clone(self));
        let take = move |link: &Rc<Link>, frame| receiver.take(link, frame);
        let link = tasks::start(socket, peer, number, called, take, move |link| links.end(link));
        self.by_node.borrow_mut().insert(link.peer.clone(), Rc::clone(&link));
        if let Some(replaced) = replaced {
            // Walks look the link up anew.
            tracing::info!(peer = %link.peer, "a newer link replaces the previous one");
            replaced.close();
        }
        link
    }

    fn end(&self, link: &Rc<Link>) {
        let ((out, back), (link_out, link_back)) = (self.ended_bytes.get(), link.bytes());
        self.ended_bytes.set((out + link_out, back + link_back));
        let mut links = self.by_node.borrow_mut();
        if links.get(&link.peer).is_some_and(|present| present.number == link.number) {
            links.remove(&link.peer);
        }
        drop(links);
        self.receiver.end(link);
    }
}
