//! What this agent knows of its cluster, through the broker: who is there, and whose turn it is.

pub(crate) mod greet;
mod members;
mod slots;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::{Broker, BrokerError, Event, Grant, LEASE, NodeInfo, NodeState, Registered, Trouble};
use tokio::sync::{Notify, mpsc, watch};
use worknode::id::{NodeId, SessionId, WalkId};
use worknode::notice;
use worknode::request::{NodeCondition, NodeStatus};
use worknode::said::Said;

use crate::agent::Agent;
use crate::sys::watch::Timer;
use members::Members;
pub(crate) use members::{Failure, SAME_VERSION};
pub(crate) use slots::Slot;
use slots::Slots;

/// Twice, and a little sooner, within the lease.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(450);
/// Heartbeats between two looks at whether this node has room and its address.
const LOOK_EVERY: u32 = 5;
/// How long a name that is taken is waited for, and how often it is asked for.
const NAME_PATIENCE: Duration = LEASE.saturating_add(Duration::from_millis(500));
const NAME_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// What the broker did not hear while it was away is repeated, for an hour.
const REPEAT_EVERY: Duration = Duration::from_millis(500);
const REPEATS_MAX: u32 = 7200;

/// Ends of attempts that the broker is being told of, at most; of grants that nobody has asked for no more are. An
/// honest broker grants what was asked for, and at the end of a session a walk's grant may come too late.
const FINISHES_MAX: usize = 4096;

/// What a waiting walk is told.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The broker has granted it a slot.
    Granted(Grant),
    /// Another walk needs its slot no more.
    Passed(Slot),
    /// It will not get one, unless it asks the broker once more.
    Dropped,
}

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
    waiting: RefCell<HashMap<WalkId, mpsc::UnboundedSender<Turn>>>,
    slots: Slots,
    /// Ends of attempts that the broker has not confirmed.
    finishes: Finishes,
    /// Walks of other origins wait at the broker, as it said last.
    others_wait: Cell<bool>,
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
        let (nodes, waiting) = (RefCell::default(), RefCell::default());
        let (slots, others_wait) = (Slots::default(), Cell::default());
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
            waiting,
            slots,
            finishes: Finishes::default(),
            others_wait,
            changed_tx,
            beaten,
        }
    }

    /// Returns what hears whenever the list of nodes is another one.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed_tx.subscribe()
    }

    /// Returns a second later, or sooner: for what has to be looked at, with no timer of
    /// its own.
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

    /// Returns where the grants of a walk will arrive.
    pub(crate) fn wait_for(&self, walk: WalkId) -> mpsc::UnboundedReceiver<Turn> {
        let (tx, rx) = mpsc::unbounded_channel();
        self.waiting.borrow_mut().insert(walk, tx);
        rx
    }

    /// The walk ended, or needs no grant any more.
    pub(crate) fn forget(&self, walk: WalkId) {
        self.waiting.borrow_mut().remove(&walk);
    }

    /// Hands a grant to its walk; one that nobody waits for is given back.
    pub(crate) fn take_grant(self: &Rc<Self>, grant: Grant) {
        let waiting = self.waiting.borrow().get(&grant.walk).cloned();
        let refused = match waiting {
            Some(tx) => tx.send(Turn::Granted(grant)).err().and_then(|error| match error.0 {
                Turn::Granted(grant) => Some(grant),
                Turn::Passed(_) | Turn::Dropped => None,
            }),
            None => Some(grant),
        };
        match refused {
            Some(grant) if self.finishes.has_room() => self.finish(&grant),
            Some(grant) => {
                tracing::warn!(walk = %grant.walk, "passed over a grant that nobody has asked for")
            }
            None => {}
        }
    }

    /// Ends a walk's attempt at the broker, without waiting for it. While the broker is away it is
    /// told again and again: otherwise the slot would be taken for ever.
    pub(crate) fn finish(self: &Rc<Self>, grant: &Grant) {
        let (cluster, grant) = (Rc::clone(self), grant.clone());
        let finishing = self.finishes.one_more();
        tokio::task::spawn_local(async move {
            let _finishing = finishing;
            for _ in 0..REPEATS_MAX {
                match cluster.broker.finish(grant.walk, &grant.node, grant.attempt).await {
                    Ok(broker::Finished::Done { next: Some(next) }) => cluster.take_grant(next),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::debug!(%error, walk = %grant.walk, "failed to finish");
                        tokio::time::sleep(REPEAT_EVERY).await;
                        continue;
                    }
                }
                return;
            }
        });
    }

    /// Takes a walk out of the broker, in the same manner.
    pub(crate) fn cancel(self: &Rc<Self>, walk: WalkId) {
        let cluster = Rc::clone(self);
        tokio::task::spawn_local(async move {
            for _ in 0..REPEATS_MAX {
                match cluster.broker.cancel(walk).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, %walk, "failed to cancel"),
                }
                tokio::time::sleep(REPEAT_EVERY).await;
            }
        });
    }

    /// Wakes all waiting walks of a session that ended.
    pub(crate) fn drop_session(&self, session: SessionId) {
        self.slots.give_back(session);
        for (_, tx) in self.waiting.borrow().iter().filter(|(walk, _)| walk.session == session) {
            let _ = tx.send(Turn::Dropped);
        }
    }

    fn drop_walk(&self, walk: WalkId) {
        if let Some(tx) = self.waiting.borrow().get(&walk) {
            let _ = tx.send(Turn::Dropped);
        }
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
        self.look_at_line();
    }

    /// Takes this node out of the cluster: from now on it does not register, whoever finds it missing.
    pub(crate) async fn leave(&self) {
        self.leaves.set(true);
        if let Err(error) = self.broker.leave(&self.info.node).await {
            tracing::warn!(%error, "failed to leave the cluster: this node is missed after its lease");
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

/// The ends of attempts that the broker is being told of.
#[derive(Debug, Default)]
struct Finishes(Rc<Cell<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Finishing(Rc<Cell<usize>>);

impl Finishes {
    /// Tells whether one more may be of a grant that nobody waits for.
    fn has_room(&self) -> bool {
        self.0.get() < FINISHES_MAX
    }

    fn one_more(&self) -> Finishing {
        self.0.set(self.0.get() + 1);
        Finishing(Rc::clone(&self.0))
    }
}

impl Drop for Finishing {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
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

/// Keeps the agent's lease, and finds nodes that lost theirs.
pub(crate) async fn beat(agent: Rc<Agent>) {
    let cluster = &agent.cluster;
    let mut beats: u32 = 0;
    let timer = match Timer::new() {
        Ok(timer) => timer,
        Err(error) => return tracing::error!(%error, "no heartbeat without a timer"),
    };
    loop {
        timer.wait(HEARTBEAT_EVERY).await;
        let registered = match cluster.broker.heard_lately() {
            // It went with what a walk had to say.
            Some(registered) => Ok(registered),
            None => cluster.broker.heartbeat().await,
        };
        match registered {
            Ok(Registered::Yes { list, others_wait }) => {
                cluster.others_wait.set(others_wait);
                if cluster.list.get() != Some(list) {
                    // What changes while the list is fetched has another number again.
                    cluster.list.set(cluster.refresh().await.then_some(list));
                    agent.set_gates();
                }
                cluster.look_at_line();
            }
            Ok(Registered::No) => cluster.register().await,
            Err(error) => tracing::debug!(%error, "no heartbeat"),
        }
        if beats.is_multiple_of(2) {
            cluster.beaten.notify_waiters();
        }
        agent.rest();
        if beats.is_multiple_of(LOOK_EVERY) {
            let (trouble, address) = agent.look_at_itself();
            cluster.note_own(trouble, address).await;
        }
        greet::begin(&agent, false);
        beats = beats.wrapping_add(1);
    }
}

/// Takes in what the broker says of itself.
pub(crate) async fn listen(agent: Rc<Agent>, mut events: mpsc::UnboundedReceiver<Event>) {
    let cluster = &agent.cluster;
    while let Some(event) = events.recv().await {
        match event {
            Event::Granted(grant) => cluster.take_grant(grant),
            Event::Cancelled(walk) | Event::Exhausted(walk) => cluster.drop_walk(walk),
            Event::Lost => {
                tracing::warn!(url = cluster.broker.url(), "lost the broker");
                agent.set_gates();
            }
            Event::Back => {
                tracing::info!(url = cluster.broker.url(), "the broker is back");
                cluster.register().await;
                cluster.refresh().await;
                agent.set_gates();
                // Walks that waited ask again themselves: their turn may have been missed.
                let waiting: Vec<WalkId> = cluster.waiting.borrow().keys().copied().collect();
                waiting.into_iter().for_each(|walk| cluster.drop_walk(walk));
            }
        }
    }
}

/// Returns the processor's name, which decides whether `-march=native` means the same elsewhere.
pub(crate) fn processor() -> Said {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

/// Returns the node's name in the absence of a given one.
pub(crate) fn default_name() -> anyhow::Result<NodeId> {
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    name.parse().map_err(|error| anyhow::anyhow!("{error}; give --name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_that_nobody_asked_for_are_given_back_so_many_at_once() {
        let finishes = Finishes::default();
        let under_way: Vec<_> =
            (0..).map_while(|_| finishes.has_room().then(|| finishes.one_more())).collect();
        assert_eq!(under_way.len(), FINISHES_MAX);
        // What a walk had is given back in any case.
        drop(finishes.one_more());
        assert!(!finishes.has_room());
        drop(under_way);
        assert!(finishes.has_room());
    }
}
