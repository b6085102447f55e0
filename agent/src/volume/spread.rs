//! Answers what concerns several nodes' volumes: conflicts between them, which of them have a content, and fetching it.

use std::collections::BTreeMap;

use packetfs::packet::PacketRef;
use packetfs::progress::Progress;
use packetfs::volume::{Below, Conflicted, Prefetched, Version, Volume, moment};
use worknode::history::Author;
use worknode::id::NodeId;
use worknode::request::{
    VolumeConflict, VolumeConflictVersion, VolumeHolder, VolumePlace, VolumePrefetched,
    VolumeReply, VolumeWhere,
};

use super::failure::{of_volume, shown};
use crate::mesh::{ANSWER_MAX, Answer, Mesh};
use crate::wire::limits::PROBED_MAX;

/// This node, where it belongs to no cluster.
const ALONE: &str = "this node";
/// Why it is not known what a node has.
const UNREACHABLE: &str = "not reachable";
const SILENT: &str = "does not answer";
const NO_VOLUME: &str = "has no volume: 'oswalk mount' there mounts one";
const LATE: &str = "came only now: ask again";

/// Returns the conflicts at a path and below it.
pub(super) fn conflicts(
    volume: &Volume,
    mesh: &Mesh,
    place: &VolumePlace,
) -> anyhow::Result<VolumeReply> {
    let found = volume.conflicts(&place.path).map_err(|errno| {
        anyhow::anyhow!("failed to look for conflicts in {}: {}", shown(place), errno.desc())
    })?;
    let names = mesh.names().of_authors(&volume.authors());
    let name = |author: Author| {
        names.get(&author).map_or_else(|| format!("{author:?}"), ToString::to_string)
    };
    let version = |version: Version| VolumeConflictVersion {
        node: name(version.author),
        time: moment::text(version.moment),
        bytes: version.bytes,
        version: version.name,
        present: version.is_present,
    };
    let told = |conflict: Conflicted| {
        // A directory has none. What was chosen meanwhile is in conflict no longer.
        let all = volume.versions(&conflict.path).unwrap_or_default();
        let present = all.into_iter().filter(|version| version.is_present);
        VolumeConflict {
            path: String::from_utf8_lossy(&conflict.path).into_owned(),
            versions: conflict.versions.into_iter().chain(present).map(version).collect(),
        }
    };
    Ok(VolumeReply::Conflicts(found.into_iter().map(told).collect()))
}

/// Which nodes have what, as far as it is counted.
struct Count<'a> {
    volume: &'a Volume,
    mesh: &'a Mesh,
    /// Packets that are not counted yet.
    next: Vec<PacketRef>,
    bytes: u64,
    here: u64,
    /// What others have, or why that is not known.
    others: BTreeMap<NodeId, Result<u64, &'static str>>,
}

impl Count<'_> {
    fn add(&mut self, packets: &[PacketRef]) {
        for packet in packets {
            self.next.push(*packet);
            if self.next.len() == PROBED_MAX {
                self.ask();
            }
        }
    }

    /// Asks all nodes for the next packets. One that has not answered is not asked again.
    fn ask(&mut self) {
        let packets = std::mem::take(&mut self.next);
        let all = |has: &[bool]| -> u64 {
            let there = packets.iter().zip(has).filter(|(_, has)| **has);
            there.map(|(packet, _)| u64::from(packet.bytes)).sum()
        };
        self.here += all(&self.volume.has(&packets));
        let silent = self.others.iter().filter(|(_, has)| has.is_err());
        let silent = silent.map(|(node, _)| node.clone()).collect();
        for (node, answer) in self.mesh.probe(&packets, &silent, ANSWER_MAX) {
            let before = self.others.get(&node).copied();
            // One that is linked only now was not asked for what is counted.
            let before = before.unwrap_or(if self.bytes == 0 { Ok(0) } else { Err(LATE) });
            let has = match answer {
                Answer::Has(has) => before.map(|before| before + all(&has)),
                Answer::NoVolume => Err(NO_VOLUME),
                Answer::Silent => Err(SILENT),
            };
            self.others.insert(node, has);
        }
        self.bytes += packets.iter().map(|packet| u64::from(packet.bytes)).sum::<u64>();
    }
}

/// Returns which nodes have the bytes of the files at a path and below it.
pub(super) fn find(
    volume: &Volume,
    mesh: &Mesh,
    place: &VolumePlace,
    progress: &Progress,
) -> anyhow::Result<VolumeReply> {
    let below = volume
        .below(&place.path)
        .map_err(|errno| anyhow::anyhow!("failed to look at {}: {}", shown(place), errno.desc()))?;
    progress.expect(below.iter().map(Below::bytes).sum());
    let (next, others) = (Vec::new(), BTreeMap::new());
    let mut count = Count { volume, mesh, next, bytes: 0, here: 0, others };
    let mut unknown = 0;
    for content in &below {
        anyhow::ensure!(!progress.is_cancelled(), "the work was cancelled");
        match volume.packets_of(content) {
            Ok(packets) => count.add(&packets),
            // Nobody who is linked has the list of its packets, so nobody can read it.
            Err(_) => unknown += content.bytes(),
        }
        progress.add(content.bytes());
    }
    count.ask();
    let names = mesh.names();
    let own = names.of_authors(&volume.authors()).remove(&volume.author());
    let this = VolumeHolder {
        node: own.as_ref().map_or(ALONE, |own| own.as_str()).to_owned(),
        this: true,
        bytes: count.here,
        trouble: None,
    };
    let mut nodes = vec![this];
    for node in names.members().into_iter().filter(|node| Some(*node) != own.as_ref()) {
        let has = count.others.get(node).copied().unwrap_or(Err(UNREACHABLE));
        nodes.push(VolumeHolder {
            node: node.to_string(),
            this: false,
            bytes: has.unwrap_or(0),
            trouble: has.err().map(str::to_owned),
        });
    }
    let (files, bytes) = (below.len() as u64, count.bytes + unknown);
    Ok(VolumeReply::Where(VolumeWhere { files, bytes, nodes }))
}

/// Fetches the contents at a path and below it.
pub(super) fn prefetch(
    volume: &Volume,
    place: &VolumePlace,
    progress: &Progress,
) -> anyhow::Result<VolumeReply> {
    let fetched = volume.prefetch(&place.path, progress).map_err(of_volume)?;
    let Prefetched { files, bytes, fetched, lacking, named } = fetched;
    let named = named.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect();
    Ok(VolumeReply::Prefetched(VolumePrefetched { files, bytes, fetched, lacking, named }))
}
