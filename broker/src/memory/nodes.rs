//! Nodes, how many of their slots are taken, and which one gets a walk.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use worknode::id::{NodeId, WalkId};

use super::walk::Walk;
use crate::model::NodeInfo;

/// The level of a node without a free slot.
const FULL: u64 = 1 << 20;

/// A node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) info: NodeInfo,
    pub(crate) incarnation: String,
    pub(crate) lease_end: Duration,
    pub(crate) load_percent: u32,
    /// No walk is placed here until the next heartbeat.
    pub(crate) is_suspect: bool,
    /// The walks that hold its slots.
    pub(crate) holders: BTreeSet<WalkId>,
    /// Its place in the order of placement; `None` without a free slot.
    score: Option<Score>,
}

/// Orders nodes by load, then by how long ago their load changed, so that equals take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    level: u64,
    turn: u64,
}

impl Node {
    pub(crate) fn new(info: NodeInfo, incarnation: String) -> Self {
        let (lease_end, holders) = (Duration::ZERO, BTreeSet::new());
        let (load_percent, is_suspect, score) = (0, false, None);
        Self { info, incarnation, lease_end, load_percent, is_suspect, holders, score }
    }

    pub(crate) fn is_usable(&self, now: Duration) -> bool {
        !self.is_suspect && now < self.lease_end
    }

    pub(crate) fn free_slots(&self) -> usize {
        let slots = usize::try_from(self.info.slots).unwrap_or(usize::MAX);
        slots.saturating_sub(self.holders.len())
    }

    fn has_free_slot(&self, now: Duration) -> bool {
        self.is_usable(now) && self.free_slots() > 0
    }

    /// Returns its load as a fraction of [`FULL`]. It must have slots.
    fn level(&self) -> u64 {
        self.holders.len() as u64 * FULL / u64::from(self.info.slots)
    }

    /// Returns the walks that hold its slots in textual order, as Redis does.
    pub(crate) fn holders_by_text(&self) -> Vec<WalkId> {
        let mut holders: Vec<_> = self.holders.iter().copied().collect();
        holders.sort_by_key(ToString::to_string);
        holders
    }
}

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    nodes: BTreeMap<NodeId, Node>,
    /// The last turn given out.
    turn: u64,
}

impl Nodes {
    pub(crate) fn get(&self, name: &NodeId) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub(crate) fn get_mut(&mut self, name: &NodeId) -> Option<&mut Node> {
        self.nodes.get_mut(name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Node)> {
        self.nodes.iter()
    }

    pub(crate) fn insert(&mut self, name: NodeId, node: Node) {
        self.nodes.insert(name, node);
    }

    pub(crate) fn remove(&mut self, name: &NodeId) -> Option<Node> {
        self.nodes.remove(name)
    }

    /// Updates a node's place in the order of placement.
    pub(crate) fn settle(&mut self, name: &NodeId, now: Duration) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        node.score = None;
        if node.has_free_slot(now) {
            self.turn += 1;
            node.score = Some(Score { level: node.level(), turn: self.turn });
        }
    }

    /// Returns the least loaded node for a walk; its origin only if no other node has a free slot.
    pub(crate) fn place(&self, walk: &Walk, now: Duration) -> Option<NodeId> {
        if let Some(only) = &walk.only {
            return self.get(only)?.has_free_slot(now).then(|| only.clone());
        }
        let suits = |(name, node): &(&NodeId, &Node)| {
            node.score.is_some() && node.is_usable(now) && !walk.avoid.contains(name)
        };
        let by_order = |(name, node): &(&NodeId, &Node)| (**name == walk.origin, node.score);
        let (best, node) = self.iter().filter(suits).min_by_key(by_order)?;
        let is_free = |name: &&NodeId| {
            !walk.avoid.contains(name) && self.get(name).is_some_and(|it| it.has_free_slot(now))
        };
        let level = |name: &&NodeId| self.get(name).map(Node::level);
        if let Some(near) = walk.near.iter().filter(is_free).min_by_key(level) {
            return Some(near.clone());
        }
        if *best == walk.origin {
            return Some(best.clone());
        }
        Some(self.preferred(walk, best, node.level(), now).clone())
    }

    /// Returns the first preferred node that is no more loaded than `best`, or `best`.
    fn preferred<'a>(
        &self,
        walk: &'a Walk,
        best: &'a NodeId,
        level: u64,
        now: Duration,
    ) -> &'a NodeId {
        let suits = |name: &&NodeId| {
            let is_light = |node: &Node| node.has_free_slot(now) && node.level() <= level;
            *name == best
                || (**name != walk.origin
                    && !walk.avoid.contains(name)
                    && self.get(name).is_some_and(is_light))
        };
        walk.prefer.iter().find(suits).unwrap_or(best)
    }
}
