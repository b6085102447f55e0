//! Greets nodes before there is a walk for them: one that is misconfigured is known beforehand.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use worknode::id::NodeId;

use crate::agent::Agent;
use crate::link::handshake::Purpose;

/// Nodes that are greeted at once. Each of a cluster's agents greets all others when it starts.
const GREETED_AT_ONCE: usize = 8;
/// How long somebody waits for nodes that have not been greeted yet: most answer in a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

/// Greets whom this agent has not greeted yet, without waiting for it; with `all`, also those that could not be
/// greeted just now.
pub(crate) fn begin(agent: &Rc<Agent>, all: bool) {
    let members = &agent.cluster.members;
    let mut due = members.to_greet(all, Instant::now());
    // Nobody is greeted twice at once.
    due.retain(|(node, _)| members.begin_greeting(node));
    if !due.is_empty() {
        tokio::task::spawn_local(greet(Rc::clone(agent), due));
    }
}

/// Waits a moment until nodes that have come are greeted.
pub(crate) async fn settle(agent: &Rc<Agent>) {
    // Who is not heard by then is heard later.
    begin(agent, true);
    let _ = tokio::time::timeout(PATIENCE, agent.cluster.members.greetings()).await;
}

async fn greet(agent: Rc<Agent>, due: Vec<(NodeId, SocketAddr)>) {
    let mut greetings = JoinSet::new();
    let mut due = due.into_iter();
    loop {
        while greetings.len() < GREETED_AT_ONCE
            && let Some((node, address)) = due.next()
        {
            let agent = Rc::clone(&agent);
            greetings.spawn_local(async move {
                // A link says as much, and what it says is newer.
                if agent.open_link(&node).is_some() {
                    agent.note_greeting(&node, Ok(()));
                } else {
                    let called = agent.call(&node, address, Purpose::Greet).await;
                    agent.note_greeting(&node, called.map(drop));
                }
            });
        }
        if greetings.join_next().await.is_none() {
            return;
        }
    }
}
