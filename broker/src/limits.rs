//! Limits of every matchmaker. `functions/limits.lua` has the same values for Redis, and limits of
//! its own on the work in one call.

use std::time::Duration;

/// A node that sends no heartbeat for this long loses its walks. Agents send one at least twice in it.
pub const LEASE: Duration = Duration::from_secs(1);
/// Most nodes in a list: large clusters have fewer. Further ones are dropped, in case another program wrote them to Redis.
pub const NODES_MAX: usize = 1024;
/// Most slots of one node: a machine has fewer processors. A higher number is reduced to this.
pub(crate) const SLOTS_MAX: u32 = 4096;

/// If no agent has reaped for this long, the broker was probably away. Nodes could not be heard, so none is buried for
/// the time of a lease.
pub(crate) const REAP_GAP: Duration = Duration::from_millis(500);
/// Reaping this soon after the last time would find nothing new.
pub(crate) const REAP_PAUSE: Duration = Duration::from_millis(50);
/// Most attempts at one walk. More would only spread the problem to other nodes.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
/// Most waiting walks. Beyond this, executing at the origin is faster than waiting.
pub(crate) const QUEUED_MAX: usize = 1_000_000;
/// Most waiting walks of one lane.
pub(crate) const QUEUED_SESSION_MAX: usize = 100_000;
/// Most lanes, and most walks of each, that are examined for a walk that suits a node.
pub(crate) const LOOK_MAX: usize = 32;
/// Most nodes that are remembered after they have gone; the most recently heard ones are kept.
pub(crate) const PAST_MAX: usize = 128;
/// How long the next turn of a user without waiting walks is kept.
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
