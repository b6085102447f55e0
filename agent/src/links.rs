//! The links of this agent, at most one per node. A link is opened when it is first needed, or accepted from a
//! calling node.

mod answer;
mod callers;
pub(crate) mod dial;
mod greet;
mod holders;
mod keep;
mod order;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use broker::{Grant, Guest};
use tokio::task::AbortHandle;
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::request::NodeCondition;

use crate::cluster::{Cluster, Failure};
use crate::link::call::Called;
use crate::link::handshake::Peer;
use crate::link::socket::Socket;
use crate::link::{Link, call, tasks};
use crate::membership::Membership;
use crate::transfer::Transfers;
use crate::wire::frame::Frame;
use crate::wire::greeting::Purpose;

/// Delay before an unreachable node is tried again.
const UNREACHABLE_FOR: Duration = Duration::from_secs(2);
const FOUND: &str =
    "make a cluster with 'oswalk cluster init', or join one with 'oswalk cluster join'";
/// Most nodes that are reported to the broker as warm.
const WARM_MAX: usize = 4;

/// Receives the frames and the ends of all links.
pub(crate) trait Receive {
    /// Handles a frame. Never blocks.
    fn take(&self, link: &Rc<Link>, frame: Frame);

    /// Handles a new link.
    fn begin(&self, link: &Rc<Link>);

    /// Handles the end of a link.
    fn end(&self, link: &Rc<Link>);
}

/// All links by peer.
pub(crate) struct Links {
    own: Peer,
    /// Absent if this node belongs to no cluster. Then it calls nobody.
    membership: Option<Rc<Membership>>,
    cluster: Rc<Cluster>,
    receiver: Rc<dyn Receive>,
    /// How other members reach the broker through this node, if it runs the broker.
    guest: Option<Guest>,
    /// Connections of members to the broker, through this node.
    relays: RefCell<Vec<(Key, AbortHandle)>>,
    /// Distances of nodes, and the programs that they have.
    pub(crate) transfers: Transfers,
    by_node: RefCell<HashMap<NodeId, Rc<Link>>>,
    /// Locks held while a node is being called, so that two walks do not call it twice.
    calling: RefCell<HashMap<NodeId, Rc<tokio::sync::Mutex<()>>>>,
    next_number: Cell<u32>,
    /// How many members have been asked where the broker is.
    sought: Cell<usize>,
    /// Bytes sent and received on ended links.
    ended_bytes: Cell<(u64, u64)>,
}

impl Links {
    /// Makes the links of the agent `own`.
    pub(crate) fn new(
        own: Peer,
        membership: Option<Rc<Membership>>,
        cluster: Rc<Cluster>,
        receiver: Rc<dyn Receive>,
        guest: Option<Guest>,
    ) -> Self {
        Self {
            own,
            membership,
            cluster,
            receiver,
            guest,
            relays: RefCell::default(),
            transfers: Transfers::default(),
            by_node: RefCell::default(),
            calling: RefCell::default(),
            next_number: Cell::new(1),
            sought: Cell::new(0),
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
        anyhow::ensure!(
            !self.cluster.members.is_quarantined(&grant.node),
            "{} is quarantined",
            grant.node
        );
        if let Some(failure) = self.cluster.members.failed_since(&grant.node, UNREACHABLE_FOR) {
            anyhow::bail!("the last handshake with {} failed: {failure}", grant.node);
        }
        let called = self.call(&grant.node, grant.address, Purpose::Link).await;
        let greeted = called.as_ref().map(drop).map_err(Clone::clone);
        self.note_greeting(&grant.node, greeted);
        let called = called.with_context(|| format!("failed to call {}", grant.node))?;
        Ok(self.start(called.socket, called.peer, true))
    }

    /// Returns the nodes that have received most of this machine's tree, in descending order.
    pub(crate) fn warm_nodes(&self) -> Vec<NodeId> {
        let links = self.by_node.borrow();
        let is_warm = |link: &&Rc<Link>| !link.is_closed() && link.walk_bytes() > 0;
        let mut warm: Vec<_> = links.values().filter(is_warm).collect();
        warm.sort_by_key(|link| std::cmp::Reverse(link.walk_bytes()));
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
        self: &Rc<Self>,
        node: &NodeId,
        address: SocketAddr,
        purpose: Purpose,
    ) -> Result<Called, Failure> {
        let Some(membership) = &self.membership else {
            let why = "this node belongs to no cluster".to_owned();
            return Err(Failure { condition: NodeCondition::Refused, why, remedy: FOUND });
        };
        let called = call::call(&self.own, membership, (node, address), purpose).await?;
        self.transfers.note_distance(node, called.took);
        if called.has_news {
            self.note_members();
        }
        Ok(called)
    }

    /// Applies what is new of the cluster's members: ends all connections of removed ones, and tells the others.
    pub(crate) fn note_members(self: &Rc<Self>) {
        let Some(membership) = &self.membership else { return };
        let is_member = |link: &Link| link.key.and_then(|key| membership.node(&key)).is_some();
        let links: Vec<_> = self.by_node.borrow().values().cloned().collect();
        for link in links.into_iter().filter(|link| !is_member(link)) {
            tracing::warn!(peer = %link.peer, "dropping the link: the node was removed from the cluster");
            link.close();
        }
        self.relays.borrow_mut().retain(|(key, relay)| {
            let stays = membership.node(key).is_some();
            if !stays {
                relay.abort();
            }
            stays && !relay.is_finished()
        });
        self.begin_telling();
    }

    /// Ends the walks here whose token is revoked now.
    pub(crate) fn end_revoked(&self) {
        let Some(membership) = &self.membership else { return };
        for link in self.by_node.borrow().values() {
            let Some(key) = link.key else { continue };
            link.introduced.revoke(|capability| membership.revoked(key, &capability.ids));
        }
    }

    /// Shuts out a node whose data does not match its digest, and ends its link.
    pub(crate) fn quarantine(&self, node: &NodeId, evidence: String) {
        self.cluster.quarantine(node, evidence);
        if let Some(link) = self.get(node) {
            link.close();
        }
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
        self.receiver.begin(&link);
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
