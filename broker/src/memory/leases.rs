//! Leases: nodes register, send heartbeats, and go.

use std::cmp::Reverse;
use std::time::Duration;

use worknode::id::NodeId;

use super::call::{Call, Past};
use super::nodes::Node;
use crate::error::BrokerError;
use crate::limits::{LEASE, NODES_MAX, PAST_MAX, REAP_GAP, REAP_PAUSE};
use crate::model::{NodeInfo, NodeState, PastNode, Registered};

impl Call<'_> {
    pub(crate) fn register(
        &mut self,
        info: &NodeInfo,
        incarnation: &str,
    ) -> Result<(), BrokerError> {
        let name = &info.node;
        if let Some(old) = self.state.nodes.get(name)
            && old.incarnation != incarnation
        {
            if old.info.address != info.address && self.now < old.lease_end {
                let address = old.info.address.to_string().as_str().into();
                let heard_ago = self.now.saturating_sub(heard(old));
                return Err(BrokerError::NameTaken { node: name.clone(), address, heard_ago });
            }
            self.bury(std::slice::from_ref(name), false);
        }
        self.state.past.remove(name);
        match self.state.nodes.get_mut(name) {
            Some(node) => node.info = info.clone(),
            None => {
                let node = Node::new(info.clone(), incarnation.to_owned());
                self.state.nodes.insert(name.clone(), node);
            }
        }
        self.keep(name);
        self.state.list += 1;
        self.fill(name, usize::MAX);
        Ok(())
    }

    /// Extends the lease of the caller's node.
    pub(crate) fn heartbeat(&mut self, incarnation: &str, load_percent: u32) -> Registered {
        let name = self.caller;
        let was_usable = match self.state.nodes.get(name) {
            Some(node) if node.incarnation == incarnation => node.is_usable(self.now),
            _ => return Registered::No,
        };
        self.keep(name);
        if let Some(node) = self.state.nodes.get_mut(name) {
            node.load_percent = load_percent;
        }
        if self.serve(name, usize::MAX) > 0 || !was_usable {
            self.state.nodes.settle(name, self.now);
        }
        let others_wait = self.state.queue.lanes().any(|(_, origin)| origin != name);
        Registered::Yes { list: self.state.list, others_wait }
    }

    /// Extends a node's lease and makes the node usable.
    fn keep(&mut self, name: &NodeId) {
        let Some(node) = self.state.nodes.get_mut(name) else { return };
        if !node.is_usable(self.now) {
            self.state.list += 1;
        }
        node.is_suspect = false;
        node.lease_end = self.now + LEASE;
    }

    pub(crate) fn leave(&mut self, node: &NodeId) {
        self.bury(std::slice::from_ref(node), true);
        self.sweep();
    }

    /// Removes nodes whose lease has expired.
    pub(crate) fn reap(&mut self) {
        let silence = self.state.reaped.map(|reaped| self.now.saturating_sub(reaped));
        if silence.is_some_and(|silence| silence < REAP_PAUSE) {
            return;
        }
        if silence.is_none_or(|silence| silence > REAP_GAP) {
            self.state.grace = self.now + LEASE;
        }
        self.state.reaped = Some(self.now);
        if self.now >= self.state.grace {
            let ended = self.state.nodes.iter().filter(|(_, node)| node.lease_end <= self.now);
            let mut dead: Vec<_> =
                ended.map(|(name, node)| (node.lease_end, name.clone())).collect();
            dead.sort_unstable();
            let dead: Vec<_> = dead.into_iter().map(|(_, name)| name).collect();
            if !dead.is_empty() {
                self.bury(&dead, false);
            }
        }
        self.sweep();
    }

    /// Marks a node as suspect after the caller's link to it failed, and places the caller's walks there again.
    pub(crate) fn reap_node(&mut self, name: &NodeId) {
        self.state.list += 1;
        let Some(node) = self.state.nodes.get_mut(name) else { return };
        node.is_suspect = true;
        for walk in node.holders_by_text() {
            let walk = self.state.walks[&walk].clone();
            if walk.origin == *self.caller {
                self.release(&walk, name);
                self.lose(walk);
            }
        }
    }

    /// Removes nodes that have gone. Walks that they ran are placed again; walks of which they were the origin are dropped,
    /// or left to [`Self::sweep`].
    fn bury(&mut self, dead: &[NodeId], left: bool) {
        self.state.list += 1;
        let mut lost = Vec::new();
        for name in dead {
            let node = self.state.nodes.remove(name);
            let heard = if left { Some(self.now) } else { node.as_ref().map(heard) };
            if let Some(heard) = heard {
                self.remember(name, Past { left, heard });
            }
            lost.extend(node.iter().flat_map(Node::holders_by_text));
        }
        self.condemn(|_, origin| dead.contains(origin));
        let running = self.state.nodes.iter().flat_map(|(_, node)| &node.holders);
        let orphans = running.filter(|walk| dead.contains(&self.state.walks[walk].origin));
        self.state.gone.extend(orphans.map(|walk| walk.session));
        for id in lost {
            let Some(walk) = self.state.walks.get(&id).cloned() else { continue };
            if dead.contains(&walk.origin) {
                self.state.walks.remove(&id);
            } else {
                self.lose(walk);
            }
        }
    }

    fn remember(&mut self, name: &NodeId, past: Past) {
        let known = &mut self.state.past;
        known.insert(name.clone(), past);
        if known.len() > PAST_MAX {
            let oldest = known.iter().min_by_key(|(_, past)| past.heard);
            let oldest = oldest.expect("there are some").0.clone();
            known.remove(&oldest);
        }
    }

    /// Returns current nodes and nodes that have gone, the most recently heard ones first.
    pub(crate) fn list(&self) -> (Vec<NodeState>, Vec<PastNode>) {
        let mut nodes: Vec<_> = self.state.nodes.iter().collect();
        nodes.sort_by_key(|(name, node)| Reverse((node.lease_end, *name)));
        let states = nodes.into_iter().take(NODES_MAX).map(|(_, node)| NodeState {
            info: node.info.clone(),
            running: u32::try_from(node.holders.len()).unwrap_or(u32::MAX),
            alive: self.now < node.lease_end,
            incarnation: node.incarnation.as_str().into(),
            heard_ago: self.now.saturating_sub(heard(node)),
            load_percent: node.load_percent,
        });
        let mut past: Vec<_> = self.state.past.iter().collect();
        past.sort_by_key(|(name, past)| Reverse((past.heard, *name)));
        let past = past.into_iter().map(|(name, past)| PastNode {
            node: name.clone(),
            left: past.left,
            heard_ago: self.now.saturating_sub(past.heard),
        });
        (states.collect(), past.collect())
    }
}

/// Returns when a node was last heard: its lease was extended then.
fn heard(node: &Node) -> Duration {
    node.lease_end.saturating_sub(LEASE)
}
