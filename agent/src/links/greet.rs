//! Performs handshakes with nodes before they get walks, to detect misconfigured nodes early.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::Matchmaker;
use tokio::task::JoinSet;
use worknode::id::NodeId;

use super::Links;
use crate::cluster::Failure;
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

    /// Tells all other members what is new, without waiting: a handshake brings rolls and addresses up to date.
    pub(crate) fn begin_telling(self: &Rc<Self>) {
        let mut due = self.everybody();
        // Who has never been seen is called by nobody, and those who are alive need not wait for others' timeouts.
        due.retain(|(_, addresses)| !addresses.is_empty());
        due.sort_by_key(|(node, _)| !self.cluster.lists(node));
        if !due.is_empty() {
            tokio::task::spawn_local(Rc::clone(self).tell(due));
        }
    }

    /// While the broker is away: asks a few members where it is, without waiting. The node that runs the broker greets a few
    /// that are absent, which may seek it. Each time it is the turn of others.
    pub(crate) fn begin_seeking(self: &Rc<Self>) {
        let is_up = self.cluster.broker.is_up();
        if is_up && self.guest.is_none() {
            return;
        }
        let mut due = self.everybody();
        let is_absent = |node: &NodeId| !is_up || !self.cluster.lists(node);
        due.retain(|(node, addresses)| !addresses.is_empty() && is_absent(node));
        let turn = self.sought.get();
        self.sought.set(turn.wrapping_add(GREETED_AT_ONCE));
        let count = due.len();
        if count > 0 {
            due.rotate_left(turn % count);
            due.truncate(GREETED_AT_ONCE);
            tokio::task::spawn_local(Rc::clone(self).tell(due));
        }
    }

    /// Returns all other members with the addresses at which they may be, that of the broker's list first; and listed nodes
    /// that are members no longer.
    pub(super) fn everybody(&self) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let Some(membership) = &self.membership else { return Vec::new() };
        let mut listed: HashMap<_, _> = self.cluster.members.alive().into_iter().collect();
        let mut others = membership.others();
        for (node, addresses) in &mut others {
            if let Some(address) = listed.remove(node) {
                addresses.retain(|it| *it != address);
                addresses.insert(0, address);
            }
        }
        others.extend(listed.into_iter().map(|(node, address)| (node, vec![address])));
        others
    }

    async fn tell(self: Rc<Self>, due: Vec<(NodeId, Vec<SocketAddr>)>) {
        let mut told = JoinSet::new();
        for (node, addresses) in due {
            let links = Rc::clone(&self);
            told.spawn_local(async move {
                let greeted = links.reach(&node, &addresses).await;
                // The news may be that it is a member now, or no longer.
                links.note_greeting(&node, greeted);
            });
            if told.len() >= GREETED_AT_ONCE {
                told.join_next().await;
            }
        }
        while told.join_next().await.is_some() {}
    }

    /// Greets a node at the first of its addresses where it answers. Returns what happened at the most certain one if it
    /// answers nowhere.
    async fn reach(
        self: &Rc<Self>,
        node: &NodeId,
        addresses: &[SocketAddr],
    ) -> Result<(), Failure> {
        let mut first = Ok(());
        for address in addresses {
            match self.call(node, *address, Purpose::Greet).await {
                Ok(_) => return Ok(()),
                Err(failure) => first = first.and(Err(failure)),
            }
        }
        first
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
