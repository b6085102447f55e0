//! Which nodes are near a walk: they have most of the bytes of its program, and of the files that its arguments and descriptors
//! name, where these are in the agent's own volume. What is small is everywhere, since it comes with its event.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use packetfs::packet::PacketRef;
use packetfs::path::{Bytes, is_within, normal};
use packetfs::volume::Below;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use worknode::id::NodeId;
use worknode::spec::{FdKind, WalkSpec};

use crate::mesh::{ANSWER_MAX, Answer};
use crate::own_volume::OwnVolume;
use crate::wire::limits::PROBED_MAX;

/// Most files of a walk that count.
const FILES_MAX: usize = 64;
/// Bytes of a walk from which on it matters where they are: less is fetched while nodes are asked.
const BYTES_MIN: u64 = 1024 * 1024;
/// Bytes that a node may have to fetch more than another one, and still is as near: a seventh of a second over a gigabit.
const FETCHED_MAX: u64 = 16 * 1024 * 1024;
/// Time that a walk waits to learn who is near.
const PATIENCE: Duration = Duration::from_millis(100);
/// Most walks at once that learn it.
const THREADS: usize = 8;
/// Time for which it is known who has a content.
const KNOWN_FOR: Duration = Duration::from_secs(10);
/// Most contents of which it is known.
const KNOWN_MAX: usize = 1024;

/// Finds out which nodes are near.
#[derive(Debug, Clone)]
pub(crate) struct Near {
    volume: OwnVolume,
    node: NodeId,
    known: Arc<Mutex<Known>>,
    /// Room for threads.
    threads: Arc<Semaphore>,
}

/// Who has which content, and when that was asked.
type Known = HashMap<[u8; 32], (Instant, Held)>;

/// The bytes of contents, and how many of them each node has. Who is not named has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    bytes: u64,
    by_node: BTreeMap<NodeId, u64>,
}

impl Near {
    pub(crate) fn new(volume: OwnVolume, node: NodeId) -> Self {
        let threads = Arc::new(Semaphore::new(THREADS));
        Self { volume, node, known: Arc::default(), threads }
    }

    /// Returns the nodes that are near a walk, the nearest first. None if it does not matter, or is not known in time.
    pub(super) async fn of(&self, spec: &WalkSpec) -> Vec<NodeId> {
        // Sources and objects are small.
        if spec.compiles {
            return Vec::new();
        }
        let points = self.volume.points();
        let paths = if points.is_empty() { Vec::new() } else { named(spec, &points) };
        if paths.is_empty() {
            return Vec::new();
        }
        // With so many walks at once, all nodes have something to do.
        let Ok(turn) = Arc::clone(&self.threads).try_acquire_owned() else { return Vec::new() };
        let near = self.clone();
        // Goes on if it is late: the next walk finds it known.
        let look = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            near.look(&paths)
        });
        let held = timeout(PATIENCE, look).await.ok().and_then(Result::ok).unwrap_or_default();
        held.nearest()
    }

    fn look(&self, paths: &[Bytes]) -> Held {
        let mut all = Held::default();
        let until = Instant::now() + ANSWER_MAX;
        for content in self.volume.contents(paths) {
            let Some(digest) = content.digest() else { continue };
            let held = self.known(&digest).unwrap_or_else(|| self.ask(digest, &content, until));
            all.add(&held);
        }
        all
    }

    fn known(&self, digest: &[u8; 32]) -> Option<Held> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(digest).filter(|(at, _)| at.elapsed() < KNOWN_FOR).map(|(_, held)| held.clone())
    }

    /// Asks all nodes which packets of a content they have.
    fn ask(&self, digest: [u8; 32], content: &Below, until: Instant) -> Held {
        let mut held = Held { bytes: content.bytes(), by_node: BTreeMap::new() };
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return held;
        }
        if let Some((packets, here)) = self.volume.packets_of(content, PROBED_MAX) {
            held.by_node.insert(self.node.clone(), share(&packets, &here, held.bytes));
            for (node, answer) in self.volume.probe(&packets, left) {
                if let Answer::Has(has) = answer {
                    held.by_node.insert(node, share(&packets, &has, held.bytes));
                }
            }
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(digest, (Instant::now(), held.clone()));
        held
    }
}

impl Held {
    fn add(&mut self, other: &Self) {
        self.bytes += other.bytes;
        for (node, bytes) in &other.by_node {
            *self.by_node.entry(node.clone()).or_default() += bytes;
        }
    }

    /// Returns the nodes that have most of the bytes, and do not have to fetch much more than the one that has the most.
    fn nearest(&self) -> Vec<NodeId> {
        let most = self.by_node.values().copied().max().unwrap_or(0);
        let is_near = |bytes: u64| bytes * 2 >= self.bytes && most - bytes <= FETCHED_MAX;
        let near = self.by_node.iter().filter(|(_, bytes)| is_near(**bytes));
        let mut near: Vec<_> = near.map(|(node, bytes)| (*bytes, node.clone())).collect();
        near.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        if self.bytes < BYTES_MIN {
            near.clear();
        }
        near.into_iter().map(|(_, node)| node).collect()
    }
}

/// Returns the bytes of a content that a node has, as its packets tell of which it was asked.
fn share(packets: &[PacketRef], has: &[bool], bytes: u64) -> u64 {
    let all: u64 = packets.iter().map(|packet| u64::from(packet.bytes)).sum();
    let there = packets.iter().zip(has).filter(|(_, has)| **has);
    let there: u64 = there.map(|(packet, _)| u64::from(packet.bytes)).sum();
    let part = u128::from(bytes) * u128::from(there) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(bytes)
}

/// Returns the files below one of the points that a walk names, as paths in the volume.
fn named(spec: &WalkSpec, points: &[PathBuf]) -> Vec<Bytes> {
    let of_fd = |kind: &FdKind| match kind {
        FdKind::File { path, .. } => Some(path.clone()),
        _ => None,
    };
    let arguments = spec.arguments().skip(1).map(|argument| {
        // As in --input=FILE and if=FILE.
        let at = argument.iter().position(|byte| *byte == b'=');
        at.map_or(argument, |at| &argument[at + 1..]).to_vec()
    });
    let fds = spec.fds.iter().filter_map(|fd| of_fd(&fd.kind));
    let all = std::iter::once(spec.path.to_vec()).chain(fds).chain(arguments);
    let below = |path: Bytes| {
        let path = normal(&spec.cwd, &path);
        let mut points = points.iter().map(|point| point.as_os_str().as_bytes());
        let point = points.find(|point| is_within(&path, point))?;
        let below = path.get(point.len()..)?.to_vec();
        (!below.is_empty()).then_some(below)
    };
    all.filter_map(below).take(FILES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;

    use super::*;

    fn node(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    fn held(bytes: u64, by_node: &[(&str, u64)]) -> Held {
        let by_node = by_node.iter().map(|(name, bytes)| (node(name), *bytes)).collect();
        Held { bytes, by_node }
    }

    #[test]
    fn nodes_with_most_of_the_bytes_are_near() {
        let mib = 1024 * 1024;
        let nearest = |held: &Held| held.nearest();
        let few = held(mib - 1, &[("a", mib - 1), ("b", 0)]);
        assert_eq!(nearest(&few), []);
        let mut all = held(100 * mib, &[("a", 100 * mib), ("b", 90 * mib), ("c", 60 * mib)]);
        assert_eq!(nearest(&all), [node("a"), node("b")]);
        all.add(&held(300 * mib, &[("c", 300 * mib)]));
        assert_eq!(nearest(&all), [node("c")]);
        let scattered = held(100 * mib, &[("a", 40 * mib), ("b", 40 * mib)]);
        assert_eq!(nearest(&scattered), [], "nobody has most");
    }

    #[test]
    fn a_part_of_the_packets_tells_of_all() {
        let packets = [b"one".as_slice(), b"two"].map(reference);
        assert_eq!(share(&packets, &[true, false], 1000), 500);
        assert_eq!(share(&[], &[], 1000), 0);
    }
}
