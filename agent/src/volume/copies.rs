//! How many nodes keep the contents in a directory, and whether they do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use packetfs::packet::PacketRef;
use packetfs::progress::Progress;
use packetfs::volume::{REPLICAS_MAX, Volume};
use worknode::id::NodeId;
use worknode::request::{VolumeCopies, VolumePlace, VolumeReplicas, VolumeReply};

use super::failure::{of_volume, shown};
use crate::mesh::{ANSWER_MAX, Answer, Mesh};
use crate::wire::limits::PROBED_MAX;

/// Longest wait for the directory of a share, which the share makes first.
const SHARED_MAX: Duration = Duration::from_secs(20);
/// Time between two looks at it.
const SHARED_PERIOD: Duration = Duration::from_millis(20);

/// Says, or returns, how many nodes keep what is at a path.
pub(super) fn replicas(
    volume: &Volume,
    place: &VolumePlace,
    count: Option<u32>,
) -> anyhow::Result<VolumeReply> {
    if let Some(count) = count {
        let set = volume.set_replicas(&place.path, (count > 0).then_some(count));
        set.map_err(|errno| failed(&shown(place), errno))?;
    }
    let (count, by) = volume
        .replicas(&place.path)
        .map_err(|errno| anyhow::anyhow!("failed to look at {}: {}", shown(place), errno.desc()))?;
    let by = by.map(|by| String::from_utf8_lossy(&by).into_owned());
    Ok(VolumeReply::Replicas(VolumeReplicas { count, by }))
}

/// Checks that so many nodes can keep a content.
pub(super) fn check(count: u32) -> anyhow::Result<()> {
    if count > REPLICAS_MAX { Err(failed("", Errno::EINVAL)) } else { Ok(()) }
}

fn failed(path: &str, errno: Errno) -> anyhow::Error {
    match errno {
        Errno::EINVAL => anyhow::anyhow!(
            "1 to {REPLICAS_MAX} nodes can keep a content; 0 is for as many as the directory above says"
        ),
        Errno::ENOTDIR => anyhow::anyhow!("{path} is not a directory: name the one that it is in"),
        errno => anyhow::anyhow!("failed to set the replicas of {path}: {}", errno.desc()),
    }
}

/// Says how many nodes keep the contents of a share that has just begun.
pub(super) fn of_share(volume: &Volume, name: &[u8], count: u32) -> anyhow::Result<VolumeReply> {
    let until = Instant::now() + SHARED_MAX;
    loop {
        match volume.set_replicas(name, (count > 0).then_some(count)) {
            Ok(()) => return Ok(VolumeReply::Done),
            Err(Errno::ENOENT) if Instant::now() < until => std::thread::sleep(SHARED_PERIOD),
            Err(errno) => return Err(failed(&String::from_utf8_lossy(name), errno)),
        }
    }
}

/// Asks all linked nodes for the contents that several are to keep.
pub(super) fn count(
    volume: &Volume,
    mesh: &Mesh,
    progress: &Progress,
) -> anyhow::Result<VolumeCopies> {
    let replicated = volume.replicated().map_err(of_volume)?;
    progress.expect(replicated.iter().map(|(content, _)| content.bytes()).sum());
    let mut asked = Asked { volume, mesh, next: Vec::new(), lack: Vec::new(), nodes: None };
    for (number, (content, _)) in replicated.iter().enumerate() {
        anyhow::ensure!(!progress.is_cancelled(), "the work was cancelled");
        asked.lack.push(Lack::default());
        match volume.packets_of(content) {
            Ok(packets) => packets.into_iter().for_each(|packet| asked.add(number, packet)),
            // Nobody who is linked has the list of its packets.
            Err(_) => asked.lack[number].is_unknown = true,
        }
        progress.add(content.bytes());
    }
    asked.ask();
    let nodes = asked.nodes.unwrap_or_default();
    let mut copies = VolumeCopies::default();
    for ((content, count), lack) in replicated.iter().zip(&asked.lack) {
        let others = nodes.difference(&lack.by).count();
        let holders = if lack.is_unknown { 0 } else { others + usize::from(!lack.here) };
        copies.contents += 1;
        copies.bytes += content.bytes();
        if holders < usize::try_from(*count).unwrap_or(usize::MAX) {
            copies.under_replicated += 1;
            copies.under_replicated_bytes += content.bytes();
        }
        if holders == 0 {
            copies.missing += 1;
            copies.missing_bytes += content.bytes();
        }
    }
    Ok(copies)
}

/// Who lacks packets of a content.
#[derive(Debug, Default)]
struct Lack {
    here: bool,
    by: BTreeSet<NodeId>,
    is_unknown: bool,
}

/// Contents about which all nodes are asked.
struct Asked<'a> {
    volume: &'a Volume,
    mesh: &'a Mesh,
    /// Packets of contents that are asked for next.
    next: Vec<(usize, PacketRef)>,
    /// Of each content.
    lack: Vec<Lack>,
    /// The nodes that have answered each time.
    nodes: Option<BTreeSet<NodeId>>,
}

impl Asked<'_> {
    fn add(&mut self, content: usize, packet: PacketRef) {
        self.next.push((content, packet));
        if self.next.len() == PROBED_MAX {
            self.ask();
        }
    }

    fn ask(&mut self) {
        let next = std::mem::take(&mut self.next);
        if next.is_empty() {
            return;
        }
        let packets: Vec<_> = next.iter().map(|(_, packet)| *packet).collect();
        let here = self.volume.has(&packets);
        let absent = |has: &[bool]| -> Vec<usize> {
            next.iter()
                .zip(has)
                .filter(|(_, has)| !**has)
                .map(|((content, _), _)| *content)
                .collect()
        };
        absent(&here).into_iter().for_each(|content| self.lack[content].here = true);
        let mut heard = BTreeSet::new();
        for (node, answer) in self.mesh.probe(&packets, &BTreeSet::new(), ANSWER_MAX) {
            let Answer::Has(has) = answer else { continue };
            for content in absent(&has) {
                self.lack[content].by.insert(node.clone());
            }
            heard.insert(node);
        }
        self.nodes = Some(match self.nodes.take() {
            Some(before) => before.intersection(&heard).cloned().collect(),
            None => heard,
        });
    }
}
