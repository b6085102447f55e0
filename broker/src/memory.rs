//! The matchmaker in memory, for tests: it makes the same decisions as the functions in Redis, for nodes in one process.
//!
//! Time is tokio's, so that a test with a paused clock decides when leases end.

mod call;
mod leases;
mod nodes;
mod queue;
mod sessions;
mod walk;
mod walks;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use tokio::time::Instant;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::error::BrokerError;
use crate::matchmaker::Matchmaker;
use crate::model::{
    Event, Finished, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted,
};
use crate::pulse::Pulse;
use call::{Call, State};

/// The state that the nodes of a cluster share. Clones refer to the same cell.
#[derive(Debug, Clone)]
pub struct MemoryCell {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    state: State,
    /// The start of time.
    begun: Instant,
    /// cell --events--> agents. Unbounded, as there are few: see [`crate::Broker`].
    agents: Vec<(NodeId, mpsc::UnboundedSender<Event>)>,
    /// Number of connections so far.
    connections: u64,
}

impl Default for MemoryCell {
    fn default() -> Self {
        let (state, begun) = (State::default(), Instant::now());
        let shared = Shared { state, begun, agents: Vec::new(), connections: 0 };
        Self { shared: Arc::new(Mutex::new(shared)) }
    }
}

/// A node's connection to the matchmaker in memory. Clones share it.
#[derive(Debug, Clone)]
pub struct Memory {
    cell: MemoryCell,
    node: NodeId,
    pulse: Arc<Pulse>,
    events_tx: mpsc::UnboundedSender<Event>,
}

impl Memory {
    /// Connects to a cell on behalf of `node`.
    #[must_use]
    pub fn connect(cell: &MemoryCell, node: &NodeId) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events_tx, events_rx) = mpsc::unbounded_channel();
        let mut shared = cell.shared.lock().unwrap_or_else(PoisonError::into_inner);
        shared.connections += 1;
        shared.agents.push((node.clone(), events_tx.clone()));
        let pulse = Arc::new(Pulse::new(shared.connections.to_string()));
        (Self { cell: cell.clone(), node: node.clone(), pulse, events_tx }, events_rx)
    }

    /// Makes a call, and a heartbeat with it if that is due.
    async fn say<T>(&self, decide: impl FnOnce(&mut Call<'_>) -> T) -> T {
        let beats = self.pulse.is_due(Instant::now());
        self.call(|call| {
            let answer = decide(call);
            if beats {
                self.beat(call);
            }
            answer
        })
        .await
    }

    async fn call<T>(&self, decide: impl FnOnce(&mut Call<'_>) -> T) -> T {
        // As with a server, other calls may come first.
        tokio::task::yield_now().await;
        let mut shared = self.cell.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let now = shared.begun.elapsed();
        let mut call = Call::new(&mut shared.state, &self.node, now);
        let answer = decide(&mut call);
        let mail = call.into_mail();
        self.deliver(mail, &mut shared.agents);
        answer
    }

    /// Delivers events to their nodes. Those for the caller go to this connection, as in a reply.
    fn deliver(
        &self,
        mail: Vec<(NodeId, Event)>,
        agents: &mut Vec<(NodeId, mpsc::UnboundedSender<Event>)>,
    ) {
        agents.retain(|(_, events_tx)| !events_tx.is_closed());
        for (node, event) in mail {
            if node == self.node {
                let _ = self.events_tx.send(event);
                continue;
            }
            for (_, events_tx) in agents.iter().filter(|(name, _)| *name == node) {
                let _ = events_tx.send(event.clone());
            }
        }
    }

    fn beat(&self, call: &mut Call<'_>) -> Registered {
        let load = self.pulse.load_percent.load(Ordering::Relaxed);
        let registered = call.heartbeat(&self.pulse.incarnation, load);
        call.reap();
        self.pulse.hear(registered, Instant::now());
        registered
    }
}

impl Matchmaker for Memory {
    fn url(&self) -> &str {
        "memory:"
    }

    fn is_up(&self) -> bool {
        true
    }

    async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError> {
        self.call(|call| call.register(info, &self.pulse.incarnation)).await
    }

    async fn heartbeat(&self) -> Result<Registered, BrokerError> {
        Ok(self.call(|call| self.beat(call)).await)
    }

    fn note_load(&self, load_percent: u32) {
        self.pulse.load_percent.store(load_percent, Ordering::Relaxed);
    }

    fn heard_lately(&self) -> Option<Registered> {
        self.pulse.heard_lately(Instant::now())
    }

    async fn leave(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say(|call| call.leave(node)).await;
        Ok(())
    }

    async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError> {
        Ok(self.call(|call| call.list()).await)
    }

    async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError> {
        Ok(self.say(|call| call.submit(submit)).await)
    }

    async fn retry(
        &self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Result<Retried, BrokerError> {
        Ok(self.say(|call| call.retry(walk, attempt, avoid)).await)
    }

    async fn finish(
        &self,
        walk: WalkId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<Finished, BrokerError> {
        Ok(self.say(|call| call.finish(walk, node, attempt)).await)
    }

    async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError> {
        Ok(self.say(|call| call.cancel(walk)).await)
    }

    async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError> {
        self.say(|call| call.cancel_session(session)).await;
        Ok(())
    }

    async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.say(|call| call.reap_node(node)).await;
        Ok(())
    }
}
