//! Decides whether a compile step is worth the transfer that it causes: a distant node that has never executed its
//! program lacks the whole toolchain. Such a step stays, with the reason `transfer`, until the stayed steps of the session
//! have taken as long as the transfer would (the rent-or-buy rule). So a build of one file transfers nothing, a large one
//! begins to walk, and none takes more than twice the time of the better choice.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use worknode::command::Tool;
use worknode::id::NodeId;

/// Round trip from which a node counts as distant. A nearer one, in the same building, has a toolchain within about a
/// second.
const FAR_MIN: Duration = Duration::from_millis(5);
/// Assumed rate to a distant node until the kernel has measured a higher one: 50 Mbit/s.
const BYTES_PER_SECOND_MIN: u64 = 6_250_000;
/// Bytes to transfer for a first step: `rustc` and its libraries; `gcc` or `clang`, and headers.
const RUSTC_BYTES: u64 = 180_000_000;
const COMPILER_BYTES: u64 = 40_000_000;
/// Sequential round trips of a first step.
const ROUND_TRIPS: u32 = 30;
/// Most remembered pairs of node and program; beyond this, all are dropped.
const PROVIDED_MAX: usize = 10_000;

/// Known distances of nodes, and the programs that they have.
#[derive(Debug, Default)]
pub(crate) struct Transfers {
    /// The shortest handshake round trip to each node, between agents rather than kernels.
    distances: RefCell<HashMap<NodeId, Duration>>,
    /// Programs that have been executed there.
    provided: RefCell<HashSet<(NodeId, Vec<u8>)>>,
}

impl Transfers {
    /// Records a round trip to a node.
    pub(crate) fn note_distance(&self, node: &NodeId, round_trip: Duration) {
        let mut distances = self.distances.borrow_mut();
        let shortest = distances.entry(node.clone()).or_insert(round_trip);
        *shortest = round_trip.min(*shortest);
    }

    /// Records that a node has executed a program.
    pub(crate) fn note_provided(&self, node: &NodeId, program: &[u8]) {
        let mut provided = self.provided.borrow_mut();
        let pair = (node.clone(), program.to_vec());
        if provided.len() >= PROVIDED_MAX && !provided.contains(&pair) {
            provided.clear();
        }
        provided.insert(pair);
    }

    /// Estimates how long it takes to send a node what it lacks for a compile step, at the given rate. Zero if the
    /// node is near or has executed the program; `None` if there has been no handshake with it.
    pub(crate) fn price(
        &self,
        node: &NodeId,
        program: &[u8],
        rate: impl FnOnce() -> u64,
    ) -> Option<Duration> {
        let distance = *self.distances.borrow().get(node)?;
        let is_provided = || self.provided.borrow().contains(&(node.clone(), program.to_vec()));
        if distance < FAR_MIN || is_provided() {
            return Some(Duration::ZERO);
        }
        let bytes = match Tool::named(program) {
            Some(Tool::Rustc) => RUSTC_BYTES,
            _ => COMPILER_BYTES,
        };
        let sending = Duration::from_millis(bytes * 1000 / rate().max(BYTES_PER_SECOND_MIN));
        Some(sending + distance * ROUND_TRIPS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_nodes_have_a_price_until_they_have_executed_the_program() {
        let transfers = Transfers::default();
        let [near, far] = ["near", "far"].map(|name| name.parse::<NodeId>().expect("a sound name"));
        let (gcc, rustc) = (b"/usr/bin/gcc".as_slice(), b"/opt/rust/bin/rustc".as_slice());
        assert_eq!(transfers.price(&far, gcc, || 0), None, "it was never greeted");
        transfers.note_distance(&near, Duration::from_micros(300));
        transfers.note_distance(&far, Duration::from_millis(90));
        transfers.note_distance(&far, Duration::from_millis(20));
        assert_eq!(transfers.price(&near, rustc, || 0), Some(Duration::ZERO));
        assert_eq!(transfers.price(&far, gcc, || 0), Some(Duration::from_millis(7000)));
        assert_eq!(transfers.price(&far, rustc, || 0), Some(Duration::from_millis(29_400)));
        assert_eq!(transfers.price(&far, gcc, || 400_000_000), Some(Duration::from_millis(700)));
        transfers.note_provided(&far, gcc);
        assert_eq!(transfers.price(&far, gcc, || 0), Some(Duration::ZERO));
        assert_ne!(transfers.price(&far, rustc, || 0), Some(Duration::ZERO));
    }
}
