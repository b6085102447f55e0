//! What this agent knows of its cluster, through the broker: which nodes there are, and which of them take its walks.

mod ends;
mod members;
mod slots;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::{
    Broker, BrokerError, Event, LEASE, Matchmaker, NodeInfo, NodeState, Registered, Trouble,
};
use tokio::sync::{Notify, watch};
use worknode::id::NodeId;
use worknode::notice;
use worknode::request::{NodeCondition, NodeStatus};

use members::Members;
pub(crate) use members::{Failure, SAME_VERSION};
use slots::Slots;
pub(crate) use slots::{Queued, Slot, Turn};

/// How long a name that is taken is waited for, and how often it is asked for.
const NAME_PATIENCE: Duration = LEASE.saturating_add(Duration::from_millis(500));
const NAME_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The agent's view of its cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) info: NodeInfo,
    pub(crate) broker: Broker,
    pub(crate) nodes: RefCell<Vec<NodeState>>,
    pub(crate) members: Members,
    /// Living nodes that cannot take this origin's walks.
    avoided: RefCell<Vec<NodeId>>,
    /// The number of the list of nodes that was fetched last.
    list: Cell<Option<u64>>,
    /// The slots that this origin holds, and the walks that wait for one.
    pub(crate) slots: Rc<Slots>,
    /// What is wrong with this node, and where others reach it.
    trouble: Cell<Option<Trouble>>,
    address: Cell<SocketAddr>,
    /// The agent ends.
    leaves: Cell<bool>,
    /// Told whenever the list of nodes is another one.
    changed_tx: watch::Sender<()>,
    /// Told at every other heartbeat.
    beaten: Notify,
}

impl Cluster {
    pub(crate) fn new(info: NodeInfo, broker: Broker) -> Self {
        let changed_tx = watch::Sender::new(());
        let (nodes, slots) = (RefCell::default(), Rc::new(Slots::new(broker.clone())));
        let (list, beaten) = (Cell::default(), Notify::new());
        let members = Members::new(info.node.clone(), info.version.clone());
        let avoided = RefCell::default();
        let (trouble, address) = (Cell::new(info.trouble), Cell::new(info.address));
        Self {
            info,
            broker,
            nodes,
            members,
            avoided,
            trouble,
            address,
            leaves: Cell::new(false),
            list,
            slots,
            changed_tx,
            beaten,
        }
    }

    /// Returns what hears whenever the list of nodes is another one.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed_tx.subscribe()
    }

    /// Returns within a second, at the next beat: for periodic checks that need no timer of their own.
    pub(crate) async fn beaten(&self) {
        self.beaten.notified().await;
    }

    /// Tells whether a living node besides this one takes walks, those in `failed` not counted; only
    /// `on` counts if it is named.
    pub(crate) fn has_runner_for(&self, on: Option<&NodeId>, failed: &[NodeId]) -> bool {
        self.nodes.borrow().iter().any(|state| {
            let suits = match on {
                Some(on) => state.info.node == *on,
                None => state.info.node != self.info.node,
            };
            suits && self.members.is_usable(state) && !failed.contains(&state.info.node)
        })
    }

    /// Tells whether the broker lists a node.
    pub(crate) fn lists(&self, node: &NodeId) -> bool {
        self.nodes.borrow().iter().any(|state| state.info.node == *node)
    }

    /// Tells whether all nodes that take walks have this node's processor.
    pub(crate) fn is_of_one_kind(&self) -> bool {
        let nodes = self.nodes.borrow();
        let mut runners = nodes.iter().filter(|state| self.members.is_usable(state));
        runners.all(|state| state.info.cpu == self.info.cpu)
    }

    /// Fetches the list of nodes; tells whether it could.
    pub(crate) async fn refresh(&self) -> bool {
        match self.broker.list().await {
            Ok((nodes, past)) => {
                let old = self.takers();
                self.members.take_list(&nodes, &past, Instant::now());
                self.nodes.replace(nodes);
                self.note_takers(&old);
                true
            }
            Err(error) => {
                tracing::debug!(%error, "failed to list the nodes");
                false
            }
        }
    }

    /// Takes in whether a node could be greeted; tells whether that is news.
    pub(crate) fn note_greeting(&self, node: &NodeId, greeted: Result<(), Failure>) -> bool {
        let old = self.takers();
        let is_news = match greeted {
            Ok(()) => self.members.note_greeted(node),
            Err(failure) => self.members.note_failed(node, failure, Instant::now()),
        };
        if is_news {
            self.note_takers(&old);
        }
        is_news
    }

    /// Returns living nodes that cannot take this origin's walks.
    pub(crate) fn to_avoid(&self) -> Vec<NodeId> {
        self.avoided.borrow().clone()
    }

    /// Returns why nothing of a session walks as things stand; nothing if something may.
    pub(crate) fn notice(&self, on: Option<&NodeId>) -> Option<String> {
        let silent = (!self.broker.is_up()).then(|| self.broker.url());
        notice::why_nothing_walks(&self.status(), &self.info.node, on, silent)
    }

    /// Returns what is shown of all nodes, by name.
    pub(crate) fn status(&self) -> Vec<NodeStatus> {
        let mut statuses = self.members.status(self.broker.is_up(), Instant::now());
        statuses.push(self.own_status());
        statuses.sort_by(|a, b| a.node.cmp(&b.node));
        statuses
    }

    fn own_status(&self) -> NodeStatus {
        let info = self.own();
        let nodes = self.nodes.borrow();
        let listed = nodes.iter().find(|state| state.info.node == info.node);
        let trouble = info.trouble.map(members::trouble);
        NodeStatus {
            node: info.node,
            address: info.address,
            version: info.version,
            slots: info.slots,
            running: listed.map_or(0, |state| state.running),
            state: trouble.map_or(NodeCondition::Alive, |(state, ..)| state),
            why: trouble.map(|(_, why, _)| why.to_owned()),
            remedy: trouble.map(|(.., remedy)| remedy.to_owned()),
            last_seen: 0,
            left: false,
        }
    }

    /// Returns what this node says of itself.
    pub(crate) fn own(&self) -> NodeInfo {
        let trouble = self.trouble.get();
        // Nobody sends walks to where they would fail.
        let slots = if trouble.is_some() { 0 } else { self.info.slots };
        NodeInfo { trouble, slots, address: self.address.get(), ..self.info.clone() }
    }

    /// Takes in what is wrong with this node, and where it is reached; the broker hears of it if that is news.
    pub(crate) async fn note_own(&self, trouble: Option<Trouble>, address: SocketAddr) {
        let old = (self.trouble.replace(trouble), self.address.replace(address));
        if old != (trouble, address) {
            tracing::warn!(?trouble, %address, "this node is not as it was");
            self.register().await;
        }
    }

    /// Returns the nodes that take walks of this origin.
    fn takers(&self) -> Vec<NodeId> {
        let nodes = self.nodes.borrow();
        let takers = nodes.iter().filter(|state| self.members.is_usable(state));
        takers.map(|state| state.info.node.clone()).collect()
    }

    fn note_takers(&self, old: &[NodeId]) {
        self.avoided.replace(self.members.to_avoid());
        if self.takers() != old {
            self.changed_tx.send_replace(());
        }
        let nodes = self.nodes.borrow();
        let usable = nodes.iter().filter(|state| self.members.is_usable(state));
        let slots = usable.map(|state| state.info.slots).fold(0, u32::saturating_add);
        self.slots.note_all(slots);
    }

    /// Takes this node out of the cluster: from now on it does not register, whoever finds it missing.
    pub(crate) async fn leave(&self) {
        self.leaves.set(true);
        if let Err(error) = self.broker.leave(&self.info.node).await {
            tracing::warn!(%error, "failed to leave the cluster: this node is missed after its lease");
        }
    }

    /// Extends this node's lease, and takes in what the broker answers.
    pub(crate) async fn beat(&self) {
        let registered = match self.broker.heard_lately() {
            // It went with what a walk had to say.
            Some(registered) => Ok(registered),
            None => self.broker.heartbeat().await,
        };
        match registered {
            Ok(Registered::Yes { list, others_wait }) => {
                if self.list.get() != Some(list) {
                    // What changes while the list is fetched has another number again.
                    self.list.set(self.refresh().await.then_some(list));
                }
                self.slots.note_others(others_wait);
            }
            Ok(Registered::No) => self.register().await,
            Err(error) => tracing::debug!(%error, "no heartbeat"),
        }
    }

    /// Wakes those who wait for a beat.
    pub(crate) fn note_beaten(&self) {
        self.beaten.notify_waiters();
    }

    /// Takes in what the broker says of itself.
    pub(crate) async fn take_event(&self, event: Event) {
        match event {
            Event::Granted(grant) => self.slots.take_grant(grant),
            Event::Cancelled(walk) | Event::Exhausted(walk) => self.slots.drop_walk(walk),
            Event::Lost => tracing::warn!(url = self.broker.url(), "lost the broker"),
            Event::Back => {
                tracing::info!(url = self.broker.url(), "the broker is back");
                self.register().await;
                self.refresh().await;
                // Walks that waited ask again: their turn may have been missed.
                self.slots.drop_all();
            }
        }
    }

    async fn register(&self) {
        if self.leaves.get() {
            return;
        }
        if let Err(error) = self.broker.register(&self.own()).await {
            tracing::error!(%error, "failed to register");
        }
    }
}

/// Enters this node. A name that an agent elsewhere has is waited for as long as the lease of one that was killed
/// lasts: nobody extends that.
pub(crate) async fn enter(cluster: &Cluster) -> Result<(), BrokerError> {
    let begun = Instant::now();
    loop {
        match cluster.broker.register(&cluster.own()).await {
            Err(BrokerError::NameTaken { .. }) if begun.elapsed() < NAME_PATIENCE => {
                tokio::time::sleep(NAME_AGAIN_AFTER).await;
            }
            entered => return entered,
        }
    }
}
