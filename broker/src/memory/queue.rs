//! The queue: start-time fair queueing between users, whose lanes take turns; by walk number within a lane.

use std::collections::BTreeMap;
use std::time::Duration;

use worknode::id::{NodeId, SessionId, WalkId};

use crate::limits::{LOOK_MAX, TAG_KEPT};

/// A group of waiting walks: those of a session, or those of a session that accept only one node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) session: SessionId,
    pub(crate) only: Option<NodeId>,
}

/// A user of an origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct User {
    pub(crate) origin: NodeId,
    pub(crate) uid: u32,
}

/// The waiting walks of a lane: at least one.
#[derive(Debug)]
struct Waiting {
    user: User,
    walks: BTreeMap<u32, WalkId>,
    /// The virtual time of its next grant; `None` if the session has ended.
    turn: Option<u64>,
}

/// All waiting walks.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    lanes: BTreeMap<Lane, Waiting>,
    /// The virtual time of each user's next turn, and until when it is kept.
    next_turns: BTreeMap<User, (u64, Duration)>,
    clock: u64,
    count: usize,
}

impl Queue {
    /// Returns the number of waiting walks.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Returns the number of waiting walks of a lane.
    pub(crate) fn count_of(&self, lane: &Lane) -> usize {
        self.lanes.get(lane).map_or(0, |waiting| waiting.walks.len())
    }

    /// Returns the lanes with waiting walks, and the origins of their sessions.
    pub(crate) fn lanes(&self) -> impl Iterator<Item = (&Lane, &NodeId)> {
        self.lanes.iter().map(|(lane, waiting)| (lane, &waiting.user.origin))
    }

    /// Returns the waiting walks of a lane.
    pub(crate) fn walks_of(&self, lane: &Lane) -> impl Iterator<Item = WalkId> {
        self.lanes.get(lane).into_iter().flat_map(|waiting| waiting.walks.values().copied())
    }

    /// Puts a walk into its lane; returns its place.
    pub(crate) fn enqueue(&mut self, walk: WalkId, lane: Lane, user: User, now: Duration) -> u64 {
        let turn = self.lanes.get(&lane).and_then(|waiting| waiting.turn);
        let turn = turn.unwrap_or_else(|| self.next_turn(&user, now));
        let new = || Waiting { user, walks: BTreeMap::new(), turn: None };
        let waiting = self.lanes.entry(lane.clone()).or_insert_with(new);
        waiting.turn = Some(turn);
        if waiting.walks.insert(walk.number, walk).is_none() {
            self.count += 1;
        }
        self.place(walk, &lane)
    }

    /// Returns the place of a waiting walk; 1 is next.
    pub(crate) fn place(&self, walk: WalkId, lane: &Lane) -> u64 {
        let before = |waiting: &Waiting| waiting.walks.range(..walk.number).count() as u64;
        1 + self.lanes.get(lane).map_or(0, before)
    }

    /// Takes a walk out of its lane.
    pub(crate) fn dequeue(&mut self, walk: WalkId, lane: &Lane) {
        let Some(waiting) = self.lanes.get_mut(lane) else { return };
        if waiting.walks.remove(&walk.number).is_some() {
            self.count -= 1;
        }
        if waiting.walks.is_empty() {
            self.lanes.remove(lane);
        }
    }

    /// Takes a walk out of its lane whose turn it is.
    pub(crate) fn dequeue_in_turn(&mut self, walk: WalkId, lane: &Lane, now: Duration) {
        let waiting = self.lanes.get(lane).map(|waiting| (waiting.turn, waiting.user.clone()));
        let Some((Some(turn), user)) = waiting else { return };
        self.clock = self.clock.max(turn);
        self.dequeue(walk, lane);
        if self.lanes.contains_key(lane) {
            let next = self.next_turn(&user, now);
            self.lanes.entry(lane.clone()).and_modify(|waiting| waiting.turn = Some(next));
        }
    }

    /// Returns the virtual time of a user's next turn: one after the last one, whichever of the user's lanes had that.
    fn next_turn(&mut self, user: &User, now: Duration) -> u64 {
        let next = self.next_turns.get(user).filter(|(_, until)| now < *until);
        let turn = self.clock.max(next.map_or(0, |(turn, _)| *turn));
        self.next_turns.insert(user.clone(), (turn + 1, now + TAG_KEPT));
        turn
    }

    /// Stops granting walks of a lane.
    pub(crate) fn condemn(&mut self, lane: &Lane) {
        if let Some(waiting) = self.lanes.get_mut(lane) {
            waiting.turn = None;
        }
    }

    /// Returns the walk whose turn it is on a node. The first candidate nearly always suits; otherwise
    /// a bounded number of others is examined.
    pub(crate) fn next_for(&self, node: &NodeId, suits: impl Fn(WalkId) -> bool) -> Option<WalkId> {
        [1, LOOK_MAX].into_iter().find_map(|depth| {
            let mut lanes = self.first_lanes(None, depth);
            lanes.extend(self.first_lanes(Some(node), depth));
            lanes.sort_unstable();
            let walks = |lane| self.walks_of(lane).take(depth);
            lanes.into_iter().flat_map(|(_, lane)| walks(lane)).find(|&walk| suits(walk))
        })
    }

    /// Returns the first lanes of those that accept `only`.
    fn first_lanes(&self, only: Option<&NodeId>, depth: usize) -> Vec<(u64, &Lane)> {
        let of_node = self.lanes.iter().filter(|(lane, _)| lane.only.as_ref() == only);
        let mut lanes: Vec<_> =
            of_node.filter_map(|(lane, waiting)| Some((waiting.turn?, lane))).collect();
        lanes.sort_unstable();
        lanes.truncate(depth);
        lanes
    }
}
