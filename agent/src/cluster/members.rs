//! The other nodes: the broker's list, results of handshakes, and nodes that have gone. A node takes walks of
//! this origin only after a successful handshake.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use broker::{NodeState, PastNode, Takes, Trouble};
use tokio::sync::Notify;
use worknode::id::NodeId;
use worknode::request::{NodeCondition, NodeStatus, NodeTakes};

use super::conduct::Conduct;

/// Delay before a failed handshake is repeated.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Most nodes that are remembered after they have gone; the most recently seen are kept.
const GONE_MAX: usize = 256;

/// Why a handshake with a node failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(crate) struct Failure {
    pub(crate) condition: NodeCondition,
    pub(crate) why: String,
    pub(crate) remedy: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Greeting {
    Not,
    Done,
    Failed(Failure, Instant),
}

#[derive(Debug)]
struct Member {
    /// Its last entry in the broker's list.
    state: NodeState,
    /// Whether it is in the current list with a valid lease.
    alive: bool,
    /// When the broker last heard it.
    heard: Instant,
    /// Whether its agent left the cluster orderly.
    left: bool,
    greeting: Greeting,
    /// Whether a handshake is under way.
    under_way: bool,
}

/// All nodes except this one.
#[derive(Debug)]
pub(crate) struct Members {
    own: NodeId,
    known: RefCell<BTreeMap<NodeId, Member>>,
    conduct: RefCell<Conduct>,
    /// Notified when a handshake has ended.
    noted: Notify,
}

impl Members {
    pub(crate) fn new(own: NodeId) -> Self {
        Self { own, known: RefCell::default(), conduct: RefCell::default(), noted: Notify::new() }
    }

    /// Updates the nodes from the broker's list and its records of nodes that have gone.
    pub(crate) fn take_list(&self, nodes: &[NodeState], past: &[PastNode], now: Instant) {
        let before = |ago: Duration| now.checked_sub(ago).unwrap_or(now);
        let mut known = self.known.borrow_mut();
        let was_alive: BTreeSet<NodeId> =
            known.iter().filter(|(_, it)| it.alive).map(|(node, _)| node.clone()).collect();
        known.values_mut().for_each(|member| member.alive = false);
        for state in nodes.iter().filter(|state| state.info.node != self.own) {
            let member = known.entry(state.info.node.clone()).or_insert_with(|| Member {
                state: state.clone(),
                alive: false,
                heard: now,
                left: false,
                greeting: Greeting::Not,
                under_way: false,
            });
            let (old, new) = (&member.state, state);
            let is_another =
                old.incarnation != new.incarnation || old.info.address != new.info.address;
            let is_back = new.alive && !was_alive.contains(&new.info.node);
            if is_another || is_back && member.greeting != Greeting::Done {
                member.greeting = Greeting::Not;
            }
            member.state = state.clone();
            member.alive = state.alive;
            member.left = false;
            member.heard = before(state.heard_ago);
        }
        for gone in past {
            if let Some(member) = known.get_mut(&gone.node).filter(|member| !member.alive) {
                member.left = gone.left;
                member.heard = before(gone.heard_ago);
            }
        }
        while known.values().filter(|member| !member.alive).count() > GONE_MAX {
            let gone = known.iter().filter(|(_, member)| !member.alive);
            let oldest = gone.min_by_key(|(_, member)| member.heard).map(|(node, _)| node.clone());
            oldest.map(|node| known.remove(&node));
        }
    }

    /// Returns the nodes of the current list whose leases are valid.
    pub(crate) fn alive(&self) -> Vec<(NodeId, SocketAddr)> {
        let known = self.known.borrow();
        let alive = known.iter().filter(|(_, member)| member.alive);
        alive.map(|(node, member)| (node.clone(), member.state.info.address)).collect()
    }

    /// Records a successful handshake. Returns whether that is a change.
    pub(crate) fn note_greeted(&self, node: &NodeId) -> bool {
        self.note(node, Greeting::Done)
    }

    /// Records a failed handshake. Returns whether that is a change.
    pub(crate) fn note_failed(&self, node: &NodeId, failure: Failure, now: Instant) -> bool {
        self.note(node, Greeting::Failed(failure, now))
    }

    /// Records that a handshake begins. Returns false if one is under way.
    pub(crate) fn begin_greeting(&self, node: &NodeId) -> bool {
        let mut known = self.known.borrow_mut();
        known.get_mut(node).is_some_and(|member| !std::mem::replace(&mut member.under_way, true))
    }

    /// Waits until no handshake is under way.
    pub(crate) async fn greetings(&self) {
        loop {
            let noted = self.noted.notified();
            if !self.known.borrow().values().any(|member| member.under_way) {
                return;
            }
            noted.await;
        }
    }

    fn note(&self, node: &NodeId, greeting: Greeting) -> bool {
        let mut known = self.known.borrow_mut();
        let Some(member) = known.get_mut(node) else { return false };
        member.under_way = false;
        self.noted.notify_waiters();
        let old = std::mem::replace(&mut member.greeting, greeting);
        std::mem::discriminant(&old) != std::mem::discriminant(&member.greeting)
    }

    /// Returns the nodes to greet now: those not greeted yet, and those whose handshake failed at least
    /// [`AGAIN_AFTER`] ago, or at any time with `all`.
    pub(crate) fn to_greet(&self, all: bool, now: Instant) -> Vec<(NodeId, SocketAddr)> {
        let known = self.known.borrow();
        let due = known.iter().filter(|(_, member)| {
            member.alive
                && self.is_sound(&member.state)
                && match &member.greeting {
                    Greeting::Not => true,
                    Greeting::Done => false,
                    Greeting::Failed(_, at) => all || now.duration_since(*at) > AGAIN_AFTER,
                }
        });
        due.map(|(node, member)| (node.clone(), member.state.info.address)).collect()
    }

    /// Tells whether a node can take walks, as far as the broker and this agent know.
    pub(crate) fn is_usable(&self, state: &NodeState) -> bool {
        let known = self.known.borrow();
        let greeted = known.get(&state.info.node).is_some_and(|it| it.greeting == Greeting::Done);
        let is_own = state.info.node == self.own;
        let behaves = !self.conduct.borrow().is_shut(&state.info.node);
        state.alive
            && state.info.slots > 0
            && self.is_sound(state)
            && (is_own || greeted)
            && behaves
    }

    /// Returns why a handshake with a node failed, if that was less than `within` ago.
    pub(crate) fn failed_since(&self, node: &NodeId, within: Duration) -> Option<Failure> {
        match &self.known.borrow().get(node)?.greeting {
            Greeting::Failed(failure, at) if at.elapsed() < within => Some(failure.clone()),
            _ => None,
        }
    }

    /// Shuts out a node whose data does not match its digest.
    pub(super) fn quarantine(&self, node: &NodeId, evidence: String, now: Instant) {
        self.conduct.borrow_mut().quarantine(node, evidence, now);
    }

    /// Notes that a node failed a walk which another one has completed.
    pub(super) fn note_failure(&self, node: &NodeId, now: Instant) {
        self.conduct.borrow_mut().note_failure(node, now);
    }

    /// Notes that a node completed a walk.
    pub(crate) fn note_success(&self, node: &NodeId) {
        self.conduct.borrow_mut().note_success(node);
    }

    /// Forgets what a node did. Returns whether anything was known.
    pub(super) fn trust(&self, node: &NodeId) -> bool {
        self.conduct.borrow_mut().trust(node)
    }

    /// Lets nodes take walks again whose time is over. Returns whether there are any.
    pub(super) fn wake(&self, now: Instant) -> bool {
        self.conduct.borrow_mut().wake(now)
    }

    /// Tells whether there is to be no link with a node.
    pub(crate) fn is_quarantined(&self, node: &NodeId) -> bool {
        self.conduct.borrow().is_quarantined(node)
    }

    /// Returns alive nodes that get no walks of this origin for whatever reason.
    pub(crate) fn shut(&self) -> Vec<NodeId> {
        let alive = self.known.borrow();
        let alive: Vec<_> =
            alive.values().filter(|it| it.alive).map(|it| it.state.clone()).collect();
        let shut = alive.into_iter().filter(|state| !self.is_usable(state));
        shut.map(|state| state.info.node).collect()
    }

    /// Returns alive nodes to which the broker would send walks, but which cannot take those of this origin.
    pub(crate) fn to_avoid(&self) -> Vec<NodeId> {
        let known = self.known.borrow();
        let of_no_use = known.iter().filter(|(_, member)| {
            let failed = matches!(member.greeting, Greeting::Failed(..))
                || self.conduct.borrow().is_shut(&member.state.info.node);
            member.alive && member.state.info.slots > 0 && (failed || !self.is_sound(&member.state))
        });
        of_no_use.map(|(node, _)| node.clone()).collect()
    }

    /// Returns the status of all nodes except this one.
    pub(crate) fn status(&self, broker_up: bool, now: Instant) -> Vec<NodeStatus> {
        let known = self.known.borrow();
        let statuses = known.values().map(|member| {
            let (state, why, remedy) = self.condition(member, broker_up, now);
            let info = &member.state.info;
            NodeStatus {
                node: info.node.clone(),
                address: info.address,
                version: info.version.clone(),
                slots: info.slots,
                running: if member.alive { member.state.running } else { 0 },
                state,
                why,
                remedy: remedy.map(str::to_owned),
                last_seen: if member.alive { 0 } else { silence(member, now) },
                left: !member.alive && member.left,
                takes: takes(info.takes),
                load_percent: if member.alive { member.state.load_percent } else { 0 },
            }
        });
        statuses.collect()
    }

    fn condition(
        &self,
        member: &Member,
        broker_up: bool,
        now: Instant,
    ) -> (NodeCondition, Option<String>, Option<&'static str>) {
        let state = &member.state;
        let say = |condition, why: String, remedy| (condition, Some(why), Some(remedy));
        if !broker_up {
            let why = "the broker does not answer".to_owned();
            return (NodeCondition::Unknown, Some(why), None);
        }
        if !member.alive {
            let seconds = silence(member, now);
            let (why, remedy) = if member.left {
                (
                    format!("it was taken down {seconds} s ago"),
                    "run 'oswalk up' there to start it again",
                )
            } else {
                let why = format!("it has not been heard for {seconds} s");
                (why, "run 'oswalk status' there to see whether its agent runs")
            };
            return say(NodeCondition::Gone, why, remedy);
        }
        if let Some((condition, why, remedy)) = state.info.trouble.map(trouble) {
            return say(condition, why.to_owned(), remedy);
        }
        if let Some((condition, why, remedy)) =
            self.conduct.borrow().condition(&state.info.node, now)
        {
            return say(condition, why, remedy);
        }
        match &member.greeting {
            Greeting::Done => (NodeCondition::Alive, None, None),
            Greeting::Failed(failure, _) => {
                say(failure.condition, failure.why.clone(), failure.remedy)
            }
            Greeting::Not => {
                let why = "it has not been greeted yet".to_owned();
                (NodeCondition::Unknown, Some(why), None)
            }
        }
    }

    fn is_sound(&self, state: &NodeState) -> bool {
        state.info.trouble.is_none()
    }
}

/// Returns which walks a node takes, for users.
pub(crate) fn takes(takes: Takes) -> NodeTakes {
    match takes {
        Takes::All => NodeTakes::All,
        Takes::CompileSteps => NodeTakes::CompileSteps,
    }
}

/// Returns the seconds since the broker last heard a node.
fn silence(member: &Member, now: Instant) -> u64 {
    now.saturating_duration_since(member.heard).as_secs()
}

/// The remedy for different versions.
pub(crate) const LISTEN: &str = "run 'oswalk cluster leave' there, and join again with --listen and an address that other nodes reach";
pub(crate) const SAME_VERSION: &str =
    "install one version on all nodes, then restart the agents ('oswalk down', 'oswalk up')";

/// Returns condition, cause and remedy of a node that reports trouble.
pub(crate) fn trouble(trouble: Trouble) -> (NodeCondition, &'static str, &'static str) {
    match trouble {
        Trouble::Full => (
            NodeCondition::Full,
            "there is no room left in its state directory",
            "make room on that file system, or move the agent with --state DIR",
        ),
        Trouble::Draining => (
            NodeCondition::Draining,
            "it finishes its walks and takes no others",
            "'oswalk cluster drain --undo' with its name has it take walks again",
        ),
        Trouble::Address => (
            NodeCondition::Unreachable,
            "others cannot reach the address that it listens on",
            LISTEN,
        ),
    }
}

#[cfg(test)]
mod tests {
    use broker::NodeInfo;

    use super::*;

    fn members() -> Members {
        Members::new(name("own"))
    }

    fn name(name: &str) -> NodeId {
        name.parse().expect("a node's name")
    }

    fn state(node: &str) -> NodeState {
        let info = NodeInfo {
            node: name(node),
            address: ([10, 0, 0, 1], 7).into(),
            version: "1".into(),
            slots: 2,
            cpu: "x".into(),
            trouble: None,
            takes: Takes::All,
        };
        NodeState {
            info,
            running: 0,
            alive: true,
            incarnation: "i".into(),
            heard_ago: Duration::ZERO,
            load_percent: 0,
        }
    }

    fn failure() -> Failure {
        let (condition, why) = (NodeCondition::Refused, "no".to_owned());
        Failure { condition, why, remedy: "mend it" }
    }

    fn condition(members: &Members, now: Instant) -> NodeCondition {
        members.status(true, now)[0].state
    }

    #[test]
    fn a_node_takes_walks_only_after_a_handshake() {
        let (members, now, n1) = (members(), Instant::now(), state("n1"));
        members.take_list(&[state("own"), n1.clone()], &[], now);
        assert!(members.is_usable(&state("own")) && !members.is_usable(&n1));
        assert_eq!(members.to_greet(false, now).len(), 1);
        assert!(members.note_failed(&n1.info.node, failure(), now));
        assert!(!members.note_failed(&n1.info.node, failure(), now), "no news");
        assert_eq!(members.to_avoid(), [name("n1")]);
        assert_eq!(condition(&members, now), NodeCondition::Refused);
        assert!(members.to_greet(false, now).is_empty() && members.to_greet(true, now).len() == 1);
        let later = now + AGAIN_AFTER + Duration::from_millis(1);
        assert_eq!(members.to_greet(false, later).len(), 1);
        assert!(members.note_greeted(&n1.info.node));
        assert!(members.is_usable(&n1) && members.to_avoid().is_empty());
        // A lapse of the lease does not require a new handshake; another agent of that name does.
        members.take_list(&[NodeState { alive: false, ..n1.clone() }], &[], now);
        members.take_list(std::slice::from_ref(&n1), &[], now);
        assert!(members.is_usable(&n1));
        members.take_list(&[NodeState { incarnation: "j".into(), ..n1.clone() }], &[], now);
        assert!(!members.is_usable(&n1));
    }

    #[test]
    fn trouble_of_a_node_is_reported() {
        let (members, now) = (members(), Instant::now());
        let shown = |info: NodeInfo| {
            let state = NodeState { info, ..state("n1") };
            members.take_list(std::slice::from_ref(&state), &[], now);
            members.note_greeted(&state.info.node);
            assert!(!members.is_usable(&state));
            condition(&members, now)
        };
        let sound = state("n1").info;
        for (trouble, condition) in [
            (Trouble::Full, NodeCondition::Full),
            (Trouble::Draining, NodeCondition::Draining),
            (Trouble::Address, NodeCondition::Unreachable),
        ] {
            assert_eq!(shown(NodeInfo { trouble: Some(trouble), ..sound.clone() }), condition);
        }
        members.take_list(&[state("n1")], &[], now);
        assert_eq!(condition(&members, now), NodeCondition::Alive);
        assert_eq!(members.status(false, now)[0].state, NodeCondition::Unknown);
    }

    #[test]
    fn departed_nodes_are_remembered() {
        let (members, now) = (members(), Instant::now());
        let past = |left, seconds| PastNode {
            node: name("n1"),
            left,
            heard_ago: Duration::from_secs(seconds),
        };
        let gone = |now: Instant| {
            let gone = &members.status(true, now)[0];
            (gone.state, gone.last_seen, gone.left)
        };
        members.take_list(&[state("n1")], &[], now);
        // Whoever looks seldom hears the broker's time, not that of its own last look.
        let later = now + Duration::from_secs(600);
        members.take_list(&[], &[past(false, 7)], later);
        assert_eq!(gone(later), (NodeCondition::Gone, 7, false));
        assert_eq!(gone(later + Duration::from_secs(3)), (NodeCondition::Gone, 10, false));
        members.take_list(&[], &[past(true, 2)], later);
        assert_eq!(gone(later), (NodeCondition::Gone, 2, true));
        members.take_list(&[state("n1")], &[], later);
        members.take_list(&[], &[], later + Duration::from_secs(5));
        assert_eq!(gone(later + Duration::from_secs(5)), (NodeCondition::Gone, 5, false));
        let many: Vec<_> = (0..1000).map(|number| state(&format!("m{number}"))).collect();
        members.take_list(&many, &[], later);
        members.take_list(&[], &[], later);
        assert_eq!(members.status(true, later).len(), GONE_MAX);
    }

    /// What `oswalk status` shows of nodes that take no walks.
    #[test]
    fn messages() {
        let mut messages = crate::messages::Messages::default();
        let mut say = |situation: &str, state: &NodeState, left: bool, broker_up: bool| {
            let now = Instant::now();
            let member = Member {
                state: state.clone(),
                alive: state.alive,
                heard: now,
                left,
                greeting: Greeting::Not,
                under_way: false,
            };
            let (condition, why, remedy) = members().condition(&member, broker_up, now);
            let why = why.map_or_else(String::new, |why| format!(", {why}"));
            let remedy = remedy.map_or_else(String::new, |remedy| format!(": {remedy}"));
            messages.add(situation, format_args!("{}{why}{remedy}", condition.name()));
        };
        let n1 = state("n1");
        say("the broker is away", &n1, false, false);
        say("no handshake yet", &n1, false, true);
        say("its lease has expired", &NodeState { alive: false, ..n1.clone() }, false, true);
        say("it has left", &NodeState { alive: false, ..n1.clone() }, true, true);
        for trouble in [Trouble::Full, Trouble::Draining, Trouble::Address] {
            let info = NodeInfo { trouble: Some(trouble), ..n1.info.clone() };
            say(trouble.name(), &NodeState { info, ..n1.clone() }, false, true);
        }
        messages.compare("nodes");
    }
}
