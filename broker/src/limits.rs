//! Limits of every matchmaker. `functions/limits.lua` has the same values for Redis, and limits of
//! its own on the work in one call.

use std::time::Duration;

/// A node that sends no heartbeat for this long loses its walks. Agents send one at least twice in it.
pub const LEASE: Duration = Duration::from_secs(1);
/// Nodes in a list: large clusters have fewer. Further ones are dropped, whoever wrote them to Redis.
pub const NODES_MAX: usize = 1024;
/// Slots of one node: a machine has fewer processors. A higher number is lowered to this.
pub(crate) const SLOTS_MAX: u32 = 4096;

/// If nobody has reaped for this long, the silence says nothing about nodes: none is buried for a lease.
pub(crate) const REAP_GAP: Duration = Duration::from_millis(500);
/// Reaping this soon after the last time would find nothing new.
pub(crate) const REAP_PAUSE: Duration = Duration::from_millis(50);
/// Attempts at one walk. More would only spread whatever is wrong with it.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// Waiting walks. Beyond these, executing at the origin is faster than waiting.
pub(crate) const QUEUED_MAX: usize = 1_000_000;
/// Waiting walks of one lane.
pub(crate) const QUEUED_SESSION_MAX: usize = 100_000;
/// Lanes, and walks of each, that are examined for a walk that suits a node.
pub(crate) const LOOK_MAX: usize = 32;
/// Nodes remembered after they have gone; the most recently heard ones stay.
pub(crate) const PAST_MAX: usize = 128;
/// How long an emptied lane keeps its virtual time.
pub(crate) const TAG_KEPT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_has_the_same_limits() {
        let lua = include_str!("functions/limits.lua");
        let count = |count: usize| u128::try_from(count).expect("small");
        for (name, value) in [
            ("LEASE_MS", LEASE.as_millis()),
            ("LIST_MAX", count(NODES_MAX)),
            ("REAP_GAP_MS", REAP_GAP.as_millis()),
            ("REAP_PAUSE_MS", REAP_PAUSE.as_millis()),
            ("ATTEMPTS_MAX", ATTEMPTS_MAX.into()),
            ("QUEUED_MAX", count(QUEUED_MAX)),
            ("QUEUED_SESSION_MAX", count(QUEUED_SESSION_MAX)),
            ("LOOK_MAX", count(LOOK_MAX)),
            ("PAST_MAX", count(PAST_MAX)),
            ("TAG_MS", TAG_KEPT.as_millis()),
        ] {
            assert!(lua.contains(&format!("local {name} = {value}\n")), "{name}");
        }
    }
}
