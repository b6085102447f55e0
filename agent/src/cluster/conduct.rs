//! How other nodes behave towards this one. A node whose data does not match its digest is quarantined; one that fails
//! walks which others complete gets none for a while, longer each time.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use worknode::id::NodeId;
use worknode::request::NodeCondition;

/// Rest of a node that has failed two walks in a row: one alone may have had a cause of its own. Each further failure in a
/// row doubles the rest, up to the second value: a node that was repaired is used again within seconds.
const REST_MIN: Duration = Duration::from_millis(500);
const REST_MAX: Duration = Duration::from_secs(8);
/// Time until a quarantined node is tried again. Each further quarantine doubles it, up to the second value: bad memory does
/// not heal, and a user who has repaired the node says so.
const QUARANTINE_MIN: Duration = Duration::from_secs(60);
const QUARANTINE_MAX: Duration = Duration::from_secs(3600);
/// Most nodes of which something is known; then nothing is noted of others.
const NODES_MAX: usize = 1024;

/// What is known of all nodes that did not behave.
#[derive(Debug, Default)]
pub(super) struct Conduct(BTreeMap<NodeId, Record>);

#[derive(Debug, Default)]
struct Record {
    /// Walks that it has failed in a row.
    failures: u32,
    rests_until: Option<Instant>,
    quarantines: u32,
    quarantine: Option<Quarantine>,
}

#[derive(Debug)]
struct Quarantine {
    evidence: String,
    since: Instant,
    until: Instant,
}

impl Conduct {
    /// Quarantines a node. The evidence says what it did.
    pub(super) fn quarantine(&mut self, node: &NodeId, evidence: String, now: Instant) {
        let Some(record) = self.record(node) else { return };
        let until = now + doubled(QUARANTINE_MIN, record.quarantines, QUARANTINE_MAX);
        record.quarantines += 1;
        record.quarantine = Some(Quarantine { evidence, since: now, until });
    }

    /// Notes that a node failed a walk which another one has completed.
    pub(super) fn note_failure(&mut self, node: &NodeId, now: Instant) {
        let Some(record) = self.record(node) else { return };
        // Walks that fail while the node rests began before.
        if record.rests_until.is_none() {
            if let Some(rests) = record.failures.checked_sub(1) {
                record.rests_until = Some(now + doubled(REST_MIN, rests, REST_MAX));
            }
            record.failures = record.failures.saturating_add(1);
        }
    }

    /// Notes that a node completed a walk.
    pub(super) fn note_success(&mut self, node: &NodeId) {
        if let Some(record) = self.0.get_mut(node) {
            record.failures = 0;
            self.forget_good();
        }
    }

    /// Forgets all of a node. Returns whether anything was known.
    pub(super) fn trust(&mut self, node: &NodeId) -> bool {
        self.0.remove(node).is_some()
    }

    /// Ends rests and quarantines that are over. Returns whether any was.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        let mut woken = false;
        for record in self.0.values_mut() {
            woken |= record.rests_until.take_if(|until| *until <= now).is_some();
            woken |= record.quarantine.take_if(|quarantine| quarantine.until <= now).is_some();
        }
        woken
    }

    /// Tells whether a node gets no walks.
    pub(super) fn is_shut(&self, node: &NodeId) -> bool {
        let record = self.0.get(node);
        record.is_some_and(|it| it.rests_until.is_some() || it.quarantine.is_some())
    }

    /// Tells whether there is no link with a node.
    pub(super) fn is_quarantined(&self, node: &NodeId) -> bool {
        self.0.get(node).is_some_and(|record| record.quarantine.is_some())
    }

    /// Returns the condition of a node that gets no walks, its cause, and the remedy.
    pub(super) fn condition(
        &self,
        node: &NodeId,
        now: Instant,
    ) -> Option<(NodeCondition, String, &'static str)> {
        let record = self.0.get(node)?;
        if let Some(Quarantine { evidence, since, until }) = &record.quarantine {
            let ago = now.saturating_duration_since(*since).as_secs();
            let left = until.saturating_duration_since(now).as_secs();
            let why = format!("{evidence}, {ago} s ago; it is tried again in {left} s");
            const REMEDY: &str = "check its memory and disk and who uses it; then run 'oswalk cluster trust' with its name here";
            return Some((NodeCondition::Quarantined, why, REMEDY));
        }
        record.rests_until?;
        let why = format!(
            "it failed {} walks in a row that other nodes completed; it is tried again within {} s",
            record.failures,
            REST_MAX.as_secs()
        );
        Some((NodeCondition::Failing, why, "see its log, oswalkd.log"))
    }

    fn record(&mut self, node: &NodeId) -> Option<&mut Record> {
        let has_room = self.0.len() < NODES_MAX || self.0.contains_key(node);
        has_room.then(|| self.0.entry(node.clone()).or_default())
    }

    fn forget_good(&mut self) {
        self.0.retain(|_, it| it.failures > 0 || it.quarantines > 0 || it.rests_until.is_some());
    }
}

fn doubled(first: Duration, times: u32, most: Duration) -> Duration {
    first.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        "n1".parse().expect("a name")
    }

    #[test]
    fn a_node_that_fails_rests_longer_each_time() {
        let (mut conduct, node, mut now) = (Conduct::default(), node(), Instant::now());
        conduct.note_failure(&node, now);
        assert!(!conduct.is_shut(&node), "once may be chance");
        for rest in [500, 1000, 2000, 4000, 8000, 8000] {
            conduct.note_failure(&node, now);
            conduct.note_failure(&node, now);
            assert!(conduct.is_shut(&node) && !conduct.is_quarantined(&node));
            let condition = conduct.condition(&node, now).map(|(condition, ..)| condition);
            assert_eq!(condition, Some(NodeCondition::Failing));
            now += Duration::from_millis(rest - 1);
            assert!(!conduct.wake(now), "{rest}");
            now += Duration::from_millis(1);
            assert!(conduct.wake(now) && !conduct.is_shut(&node) && !conduct.wake(now));
        }
        conduct.note_success(&node);
        assert!(conduct.0.is_empty(), "one success and it is as good as others");
    }

    #[test]
    fn a_quarantine_ends_by_itself_or_by_a_user() {
        let (mut conduct, node, now) = (Conduct::default(), node(), Instant::now());
        conduct.quarantine(&node, "it lied".to_owned(), now);
        conduct.note_success(&node);
        assert!(conduct.is_shut(&node) && conduct.is_quarantined(&node));
        let (condition, why, remedy) = conduct.condition(&node, now).expect("it is shut");
        assert_eq!(condition, NodeCondition::Quarantined);
        assert!(why.contains("it lied") && remedy.contains("cluster trust"), "{why}, {remedy}");
        assert!(conduct.wake(now + QUARANTINE_MIN) && !conduct.is_shut(&node));
        conduct.quarantine(&node, "it lied again".to_owned(), now);
        assert!(!conduct.wake(now + QUARANTINE_MIN), "longer than before");
        assert!(conduct.trust(&node) && !conduct.is_shut(&node) && !conduct.trust(&node));
    }

    #[test]
    fn what_is_known_is_bounded() {
        let mut conduct = Conduct::default();
        for number in 0..2 * NODES_MAX {
            let node = format!("n{number}").parse().expect("a name");
            conduct.note_failure(&node, Instant::now());
        }
        assert_eq!(conduct.0.len(), NODES_MAX);
    }
}
