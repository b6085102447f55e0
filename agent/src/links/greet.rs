//! Greets nodes before there is a walk for them: one that is misconfigured is known beforehand.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use worknode::id::NodeId;

use super::Links;
use crate::wire::greeting::Purpose;

/// Nodes that are greeted at once. Each of a cluster's agents greets all others when it starts.
const GREETED_AT_ONCE: usize = 8;
/// How long somebody waits for nodes that have not been greeted yet: most answer in a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

impl Links {
    /// Greets the nodes that have not been greeted yet, without waiting for it; with `all`, also those that could not be
    /// greeted just now.
    pub(crate) fn begin_greeting(self: &Rc<Self>, all: bool) {
        let members = &self.cluster.members;
        let mut due = members.to_greet(all, Instant::now());
        // Nobody is greeted twice at once.
        due.retain(|(node, _)| members.begin_greeting(node));
        if !due.is_empty() {
            tokio::task::spawn_local(Rc::clone(self).greet(due));
        }
    }

    /// Waits a moment until nodes that have come are greeted.
    pub(crate) async fn settle(self: &Rc<Self>) {
        // A node that answers later is noted later.
        self.begin_greeting(true);
        let _ = tokio::time::timeout(PATIENCE, self.cluster.members.greetings()).await;
    }

    async fn greet(self: Rc<Self>, due: Vec<(NodeId, SocketAddr)>) {
        let mut greetings = JoinSet::new();
        let mut due = due.into_iter();
        loop {
            while greetings.len() < GREETED_AT_ONCE
                && let Some((node, address)) = due.next()
            {
                let links = Rc::clone(&self);
                greetings.spawn_local(async move {
                    // A link says as much, and what it says is newer.
                    if links.get(&node).is_some() {
                        links.note_greeting(&node, Ok(()));
                    } else {
                        let called = links.call(&node, address, Purpose::Greet).await;
                        links.note_greeting(&node, called.map(drop));
                    }
                });
            }
            if greetings.join_next().await.is_none() {
                return;
            }
        }
    }
}
