//! This agent's view of its cluster: the nodes that the broker lists, and which of them take walks of this origin.

mod conduct;
mod ends;
mod members;
mod slots;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::{
    Broker, BrokerError, Event, LEASE, Matchmaker, NodeInfo, NodeState, Registered, Takes, Trouble,
};
use tokio::sync::{Notify, watch};
use worknode::id::NodeId;
use worknode::notice;
use worknode::request::{NodeCondition, NodeStatus};

use crate::machine;
use members::Members;
pub(crate) use members::{Failure, LISTEN, SAME_VERSION};
use slots::Slots;
pub(crate) use slots::{Queued, Slot, Turn};

/// How long to wait for a node name that is in use, and how often to try again.
const NAME_PATIENCE: Duration = LEASE.saturating_add(Duration::from_millis(500));
const NAME_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The agent's view of its cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) info: NodeInfo,
    pub(crate) broker: Broker,
    pub(crate) nodes: RefCell<Vec<NodeState>>,
    pub(crate) members: Members,
    /// Alive nodes that cannot take walks of this origin.
    avoided: RefCell<Vec<NodeId>>,
    /// The version of the last fetched list of nodes.
    list: Cell<Option<u64>>,
    /// The slots that this origin holds, and the walks that wait for one.
    pub(crate) slots: Rc<Slots>,
    /// The trouble of this node, if any, and the address at which others reach it.
    trouble: Cell<Option<Trouble>>,
    /// Held while this node registers.
    registering: tokio::sync::Mutex<()>,
    address: Cell<SocketAddr>,
    /// Whether this node is to get no walks of others.
    drains: Cell<bool>,
    /// Whether the agent is ending.
    leaves: Cell<bool>,
    /// Notified when the list of nodes changes.
    changed_tx: watch::Sender<()>,
    /// Notified at every other heartbeat.
    beaten: Notify,
}

impl Cluster {
    pub(crate) fn new(info: NodeInfo, broker: Broker) -> Self {
        let changed_tx = watch::Sender::new(());
        let (nodes, slots) = (RefCell::default(), Rc::new(Slots::new(broker.clone())));
        let (list, beaten) = (Cell::default(), Notify::new());
        let members = Members::new(info.node.clone());
        let avoided = RefCell::default();
        let (trouble, address) = (Cell::new(info.trouble), Cell::new(info.address));
        Self {
            registering: tokio::sync::Mutex::default(),
            info,
            broker,
            nodes,
            members,
            avoided,
            trouble,
            address,
            drains: Cell::new(false),
            leaves: Cell::new(false),
            list,
            slots,
            changed_tx,
            beaten,
        }
    }

    /// Returns a receiver that is notified when the list of nodes changes.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed_tx.subscribe()
    }

    /// Waits for the next beat, within a second. Spares periodic checks a timer of their own.
    pub(crate) async fn beaten(&self) {
        self.beaten.notified().await;
    }

    /// Tells whether another alive node takes walks. Nodes in `failed` do not count; if `on` is given, only
    /// that node does.
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

    /// Returns the names of all nodes that the broker lists.
    pub(crate) fn names(&self) -> Vec<NodeId> {
        self.nodes.borrow().iter().map(|state| state.info.node.clone()).collect()
    }

    /// Tells whether all nodes that take walks have this node's processor model.
    pub(crate) fn is_of_one_kind(&self) -> bool {
        let nodes = self.nodes.borrow();
        let mut runners = nodes.iter().filter(|state| self.members.is_usable(state));
        runners.all(|state| state.info.cpu == self.info.cpu)
    }

    /// Fetches the list of nodes. Returns whether it succeeded.
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

    /// Records the result of a handshake with a node. Returns whether it changed.
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

    /// Shuts out a node whose data does not match its digest. The evidence says what it did.
    pub(crate) fn quarantine(&self, node: &NodeId, evidence: String) {
        tracing::error!(%node, evidence, "quarantined a node");
        self.change_conduct(|members, now| members.quarantine(node, evidence, now));
    }

    /// Notes which node has completed a walk, and which have failed it before.
    pub(crate) fn note_completed(&self, by: &NodeId, failed: &[NodeId]) {
        self.members.note_success(by);
        for node in failed {
            tracing::warn!(%node, completed_by = %by, "a node has failed a walk that another one has completed");
            self.change_conduct(|members, now| members.note_failure(node, now));
        }
    }

    /// Lets a node take walks again, whatever it did. Returns whether that is a change.
    pub(crate) fn trust(&self, node: &NodeId) -> bool {
        let mut was_known = false;
        self.change_conduct(|members, _| was_known = members.trust(node));
        was_known
    }

    fn change_conduct(&self, change: impl FnOnce(&Members, Instant)) {
        let old = self.takers();
        change(&self.members, Instant::now());
        self.note_takers(&old);
    }

    /// Returns alive nodes that cannot take walks of this origin.
    pub(crate) fn to_avoid(&self) -> Vec<NodeId> {
        self.avoided.borrow().clone()
    }

    /// Returns why no program of a session can walk at present, or `None` if walks are possible.
    pub(crate) fn notice(&self, on: Option<&NodeId>) -> Option<String> {
        let silent = (!self.broker.is_up()).then(|| self.broker.url());
        notice::why_nothing_walks(&self.status(), &self.info.node, on, silent)
    }

    /// Returns the status of all nodes, sorted by name.
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
            takes: members::takes(info.takes),
            load_percent: machine::load_percent(),
        }
    }

    /// Returns this node's entry for the broker.
    pub(crate) fn own(&self) -> NodeInfo {
        let draining = self.drains.get().then_some(Trouble::Draining);
        let trouble = self.trouble.get().or(draining);
        // A node in trouble offers no slots.
        let slots = if trouble.is_some() { 0 } else { self.info.slots };
        NodeInfo { trouble, slots, address: self.address.get(), ..self.info.clone() }
    }

    /// Returns the address at which others reach this node.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address.get()
    }

    /// Records this node's trouble and address, and registers anew with the broker if they changed.
    pub(crate) async fn note_own(&self, trouble: Option<Trouble>, address: SocketAddr) {
        let old = (self.trouble.replace(trouble), self.address.replace(address));
        if old != (trouble, address) {
            tracing::warn!(?trouble, %address, "this node's state or address has changed");
            self.register().await;
        }
    }

    /// Records whether this node is to get no walks of others, and registers anew with the broker if that is a change.
    pub(crate) async fn note_draining(&self, drains: bool) {
        if self.drains.replace(drains) != drains {
            tracing::info!(drains, "this node was told whether to take walks");
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
        self.slots.note_shut(self.members.shut());
        if self.takers() != old {
            self.changed_tx.send_replace(());
        }
        let nodes = self.nodes.borrow();
        let usable = nodes.iter().filter(|state| self.members.is_usable(state));
        let slots = usable.map(|state| state.info.slots).fold(0, u32::saturating_add);
        self.slots.note_all(slots);
    }

    /// Removes this node from the cluster. From then on it does not register again.
    pub(crate) async fn leave(&self) {
        self.leaves.set(true);
        if let Err(error) = self.broker.leave(&self.info.node).await {
            tracing::warn!(%error, "failed to leave the cluster: other nodes see this node as alive until its lease expires");
        }
    }

    /// Returns the other nodes that take compile steps only. This one executes all of its own programs.
    pub(crate) fn of_compile_steps(&self) -> Vec<NodeId> {
        let nodes = self.nodes.borrow();
        let others = nodes.iter().filter(|state| state.info.node != self.info.node);
        let of_steps = others.filter(|state| state.info.takes == Takes::CompileSteps);
        of_steps.map(|state| state.info.node.clone()).collect()
    }

    /// Extends this node's lease, and handles the broker's answer.
    pub(crate) async fn beat(&self) {
        self.broker.note_load(machine::load_percent());
        let old = self.takers();
        if self.members.wake(Instant::now()) {
            self.note_takers(&old);
        }
        let registered = match self.broker.heard_lately() {
            // The heartbeat was sent together with a walk's message.
            Some(registered) => Ok(registered),
            None => self.broker.heartbeat().await,
        };
        match registered {
            Ok(Registered::Yes { list, others_wait }) => {
                if self.list.get() != Some(list) {
                    // A change during the fetch gets another version.
                    self.list.set(self.refresh().await.then_some(list));
                }
                self.slots.note_others(others_wait);
            }
            Ok(Registered::No) => self.register().await,
            Err(error) => tracing::debug!(%error, "failed to send a heartbeat"),
        }
    }

    /// Wakes tasks that wait for a beat.
    pub(crate) fn note_beaten(&self) {
        self.beaten.notify_waiters();
    }

    /// Handles an event of the broker.
    pub(crate) async fn take_event(&self, event: Event) {
        match event {
            Event::Granted(grant) => self.slots.take_grant(grant),
            Event::Cancelled(walk) | Event::Exhausted(walk) => self.slots.drop_walk(walk),
            Event::Lost => tracing::warn!(url = self.broker.url(), "lost the broker"),
            Event::Back => {
                tracing::info!(url = self.broker.url(), "the broker is back");
                self.register().await;
                self.refresh().await;
                // Waiting walks ask again, because their grants may have been lost.
                self.slots.drop_all();
            }
        }
    }

    async fn register(&self) {
        if self.leaves.get() {
            return;
        }
        // One after the other: an older entry that waits for the broker must not replace a newer one.
        let _registering = self.registering.lock().await;
        if let Err(error) = self.broker.register(&self.own()).await {
            tracing::error!(%error, "failed to register with the broker");
        }
    }
}

/// Registers this node. If another agent has its name, waits for as long as the lease of a killed agent lasts,
/// which nobody extends.
pub(crate) async fn enter(cluster: &Cluster) -> Result<(), BrokerError> {
    let begun = Instant::now();
    // If the broker is away, the node registers when it is back.
    while cluster.broker.is_up() {
        match cluster.broker.register(&cluster.own()).await {
            Err(BrokerError::NameTaken { .. }) if begun.elapsed() < NAME_PATIENCE => {
                tokio::time::sleep(NAME_AGAIN_AFTER).await;
            }
            Err(BrokerError::Away { .. }) => {}
            entered => return entered,
        }
    }
    Ok(())
}
