//! Removes packets from a store that has one shelf: packs of which less than half is needed are written again.
//!
//! A needed packet is durable in its new pack before the old pack is deleted. Readers find it in one of them at any time.

use std::collections::HashSet;
use std::fs::File;

use super::error::StoreError;
use super::index::Place;
use super::shelf::{Inner, PACK_BYTES, Shelf};
use crate::packet::Digest;

/// Packets that are copied while others wait: at most 16 MiB.
const COPIED_AT_ONCE: usize = 64;

/// Packets that nobody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dead {
    /// Packets.
    pub packets: u64,
    /// Bytes of packs.
    pub bytes: u64,
}

/// A store in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Survey {
    /// Packets.
    pub packets: u64,
    /// Packs.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What a sweep would remove.
    pub dead: Dead,
}

/// The records of a pack.
#[derive(Debug, Default)]
struct Census {
    needed: Vec<(Digest, Place)>,
    all: Vec<Digest>,
    needed_bytes: u64,
    bytes: u64,
}

impl Census {
    fn is_worth_it(&self) -> bool {
        !self.all.is_empty() && self.needed_bytes < self.bytes / 2
    }

    fn dead(&self) -> Dead {
        let packets = (self.all.len() - self.needed.len()) as u64;
        Dead { packets, bytes: self.bytes - self.needed_bytes }
    }
}

impl Shelf {
    /// Removes all packets of the store except these, pack by pack, if that frees half of the pack. The store has no other shelf.
    /// Nothing is stored meanwhile that refers to other packets.
    ///
    /// # Errors
    /// The disk is full or fails. No needed packet is lost.
    pub fn sweep(&self, needed: &HashSet<Digest>) -> Result<Dead, StoreError> {
        let keys = self.keys(needed);
        let mut dead = Dead::default();
        for pack in self.packs() {
            let of_pack = self.sweep_pack(pack, &keys)?;
            dead.packets += of_pack.packets;
            dead.bytes += of_pack.bytes;
        }
        Ok(dead)
    }

    /// Returns the numbers of all packs of the store.
    pub(crate) fn packs(&self) -> Vec<u32> {
        self.store.lock().numbers()
    }

    /// Removes all packets of a pack except those with these keys, if that frees half of it. Nothing is stored meanwhile that
    /// refers to other packets.
    ///
    /// # Errors
    /// The disk is full or fails. No needed packet is lost.
    pub(crate) fn sweep_pack(&self, pack: u32, keys: &HashSet<Digest>) -> Result<Dead, StoreError> {
        let census = self.store.lock().census(pack, keys)?;
        if !census.is_worth_it() {
            return Ok(Dead::default());
        }
        self.store.lock().leave(pack)?;
        for records in census.needed.chunks(COPIED_AT_ONCE) {
            self.store.lock().copy(records)?;
        }
        self.sync()?;
        self.store.lock().replace(pack, &census.all)?;
        Ok(census.dead())
    }

    /// Counts the packets, and those that a sweep would remove.
    ///
    /// # Errors
    /// The disk fails.
    pub fn survey(&self, needed: &HashSet<Digest>) -> Result<Survey, StoreError> {
        let keys = self.keys(needed);
        let mut survey = Survey::default();
        let packs = self.store.lock().numbers();
        for pack in packs {
            let census = self.store.lock().census(pack, &keys)?;
            survey.packs += 1;
            survey.packets += census.all.len() as u64;
            survey.bytes += census.bytes;
            if census.is_worth_it() {
                survey.dead.packets += census.dead().packets;
                survey.dead.bytes += census.dead().bytes;
            }
        }
        Ok(survey)
    }

    /// Returns the keys of packets.
    pub(crate) fn keys(&self, packets: &HashSet<Digest>) -> HashSet<Digest> {
        packets.iter().map(|digest| self.key_of(digest)).collect()
    }
}

impl Inner {
    fn numbers(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.packs.keys().copied().collect();
        numbers.sort_unstable();
        numbers
    }

    fn census(&self, number: u32, keys: &HashSet<Digest>) -> Result<Census, StoreError> {
        let Some(pack) = self.packs.get(&number) else { return Ok(Census::default()) };
        let (records, end) = (pack.scan(0)?.records, pack.bytes());
        let mut census = Census { bytes: end, ..Census::default() };
        for (at, (digest, place)) in records.iter().enumerate() {
            census.all.push(*digest);
            if keys.contains(digest) && self.place(digest) == Some(*place) {
                let next = records.get(at + 1).map_or(end, |(_, next)| next.offset);
                census.needed_bytes += next - place.offset;
                census.needed.push((*digest, *place));
            }
        }
        Ok(census)
    }

    /// Has another pack be appended to.
    fn leave(&mut self, number: u32) -> Result<(), StoreError> {
        if self.open == number { self.next_pack() } else { Ok(()) }
    }

    fn copy(&mut self, records: &[(Digest, Place)]) -> Result<(), StoreError> {
        for (digest, place) in records {
            // What was found to be damaged meanwhile is not there any more.
            if self.place(digest) != Some(*place) {
                continue;
            }
            let Some(pack) = self.packs.get(&place.pack) else { continue };
            let (packet, packed) = pack.record(*place)?;
            let open = self.packs.get_mut(&self.open).expect("the open pack exists from load on");
            let copied = open.append(packet, &packed)?;
            let is_full = open.bytes() >= PACK_BYTES;
            self.unindexed.insert(*digest, copied);
            if is_full {
                self.next_pack()?;
            }
        }
        Ok(())
    }

    /// Deletes a pack whose needed packets are durable in another one.
    fn replace(&mut self, number: u32, digests: &[Digest]) -> Result<(), StoreError> {
        let failed = |source| StoreError::Io { action: "sync", path: self.dir.clone(), source };
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
        self.flush(true)?;
        self.index.remove_pack(number, digests)?;
        self.packs.remove(&number).map_or(Ok(()), super::pack::Pack::delete)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::packet::{Packed, PacketRef, reference};
    use crate::store::Store;

    fn shelf(dir: &Path) -> Shelf {
        Arc::new(Store::open(dir, u64::MAX).expect("a store")).shelf("o")
    }

    fn keep(shelf: &Shelf, number: u32) -> PacketRef {
        let content = number.to_le_bytes().repeat(50);
        let packet = reference(&content);
        shelf.put(packet, &Packed::plain(&content)).expect("the disk has room");
        packet
    }

    #[test]
    fn needed_packets_stay_and_others_go() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = shelf(dir.path());
        let packets: Vec<_> = (0..1000).map(|number| keep(&store, number)).collect();
        let needed: HashSet<_> = packets.iter().step_by(3).map(|packet| packet.digest).collect();
        let most: HashSet<_> = packets[..600].iter().map(|packet| packet.digest).collect();
        assert_eq!(store.sweep(&most).expect("the disk works"), Dead::default(), "not worth it");
        let survey = store.survey(&needed).expect("the disk works");
        let dead = store.sweep(&needed).expect("the disk works");
        assert_eq!((survey.packets, survey.packs, dead.packets, survey.dead), (1000, 1, 666, dead));
        let check = |store: &Shelf| {
            for packet in &packets {
                let is_needed = needed.contains(&packet.digest);
                assert_eq!(store.get(*packet).is_some(), is_needed);
                assert_eq!(store.has(&packet.digest), is_needed);
            }
        };
        check(&store);
        drop(store);
        check(&shelf(dir.path()));
        std::fs::remove_file(dir.path().join("index.redb")).expect("the index is a file");
        let store = shelf(dir.path());
        check(&store);
        keep(&store, 1);
        assert_eq!(store.sweep(&needed).expect("the disk works"), Dead::default());
        let all = store.sweep(&HashSet::new()).expect("the disk works");
        assert_eq!((all.packets, store.store.bytes()), (335, 0));
    }

    #[test]
    fn a_crash_between_copy_and_deletion_loses_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = shelf(dir.path());
        let packets: Vec<_> = (0..10).map(|number| keep(&store, number)).collect();
        let needed = HashSet::from([packets[3].digest]);
        let pack = std::fs::read(dir.path().join("0.pack")).expect("the pack is there");
        store.sweep(&needed).expect("the disk works");
        drop(store);
        // As if the deletion had been lost.
        std::fs::write(dir.path().join("0.pack"), pack).expect("the directory is writable");
        let store = shelf(dir.path());
        assert!(store.get(packets[3]).is_some());
        store.sweep(&needed).expect("the disk works");
        assert!(store.get(packets[3]).is_some() && !store.has(&packets[4].digest));
    }
}
