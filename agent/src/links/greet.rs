//! Performs handshakes with nodes before they get walks, to detect misconfigured nodes early.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use worknode::id::NodeId;

use super::Links;
use crate::wire::greeting::Purpose;

/// Most concurrent handshakes. Each agent greets all others when it starts.
const GREETED_AT_ONCE: usize = 8;
/// How long to wait for outstanding handshakes. Most nodes answer within a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

impl Links {
    /// Starts handshakes with nodes that have had none, without waiting. With `all`, also with nodes whose last one has
    /// just failed.
    pub(crate) fn begin_greeting(self: &Rc<Self>, all: bool) {
        let members = &self.cluster.members;
        let mut due = members.to_greet(all, Instant::now());
        // At most one handshake per node at a time.
        due.retain(|(node, _)| members.begin_greeting(node));
        if !due.is_empty() {
            tokio::task::spawn_local(Rc::clone(self).greet(due));
        }
    }

    /// Waits briefly until new nodes have been greeted.
    pub(crate) async fn settle(self: &Rc<Self>) {
        // Later answers are recorded when they arrive.
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
                    // A link is newer proof of the same.
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
