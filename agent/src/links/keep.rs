//! Keeps links to other members whose volumes this node's volume exchanges events with.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use worknode::id::NodeId;

use super::Links;
use crate::wire::greeting::Purpose;

/// How often missing links are looked for.
const EVERY: Duration = Duration::from_millis(500);
/// Most links that are kept. In a larger cluster events reach a node through others.
const KEPT_MAX: usize = 8;
/// A node that does not answer is called again after this time, then after twice that, and so on.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(16);
/// The node with the greater name waits so long for the other's call: one connection is enough.
const COURTESY: Duration = Duration::from_millis(700);

/// When nodes are called.
#[derive(Debug, Default)]
struct Calls(HashMap<NodeId, (Instant, Duration)>);

impl Calls {
    fn is_due(&mut self, node: &NodeId, own: &NodeId, now: Instant) -> bool {
        let wait = if own < node { Duration::ZERO } else { COURTESY };
        now >= self.0.entry(node.clone()).or_insert((now + wait, AGAIN)).0
    }

    fn note(&mut self, node: &NodeId, is_linked: bool, now: Instant) {
        if is_linked {
            self.0.remove(node);
        } else if let Some((due, wait)) = self.0.get_mut(node) {
            (*due, *wait) = (now + *wait, (2 * *wait).min(AGAIN_MAX));
        }
    }
}

impl Links {
    /// Keeps links for as long as the agent runs, while `is_wanted` says so.
    pub(crate) async fn keep(self: Rc<Self>, is_wanted: impl Fn() -> bool) {
        let mut calls = Calls::default();
        loop {
            tokio::time::sleep(EVERY).await;
            if is_wanted() {
                self.call_missing(&mut calls).await;
            }
        }
    }

    async fn call_missing(self: &Rc<Self>, calls: &mut Calls) {
        let mut others = self.everybody();
        others.sort();
        let linked = others.iter().filter(|(node, _)| self.get(node).is_some()).count();
        let mut room = KEPT_MAX.saturating_sub(linked);
        for (node, addresses) in others {
            if self.get(&node).is_some() {
                calls.note(&node, true, Instant::now());
            } else if room > 0 && calls.is_due(&node, &self.own.node, Instant::now()) {
                room -= 1;
                let is_linked = self.link_to(&node, &addresses).await;
                calls.note(&node, is_linked, Instant::now());
            }
        }
    }

    /// Links this node with another one. Returns whether it did.
    pub(super) async fn link_to(self: &Rc<Self>, node: &NodeId, addresses: &[SocketAddr]) -> bool {
        if self.cluster.members.is_quarantined(node) {
            return false;
        }
        let calling = Rc::clone(self.calling.borrow_mut().entry(node.clone()).or_default());
        let _calling = calling.lock().await;
        for address in addresses {
            if self.get(node).is_some() {
                return true;
            }
            // Why it fails is told where walks and heartbeats call.
            if let Ok(called) = self.call(node, *address, Purpose::Link).await {
                self.start(called.socket, called.peer, true);
                return true;
            }
        }
        false
    }
}
