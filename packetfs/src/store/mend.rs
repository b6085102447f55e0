//! Writes damaged packets again where they are in their packs, so that what comes after them is found in any case.

use std::collections::HashMap;
use std::path::PathBuf;

use super::error::StoreError;
use super::shelf::Shelf;
use crate::packet::{Digest, Packed, PacketRef};

/// A place in a pack where there is no intact packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The pack.
    pub path: PathBuf,
    /// Its number.
    pub(super) pack: u32,
    /// The first byte.
    pub from: u64,
    /// The byte after the last one.
    pub(super) to: u64,
    /// The key of the packet that was there, if it can still be read.
    pub(super) key: Option<Digest>,
}

/// Damaged places, by what was there.
#[derive(Debug)]
pub struct Damages<'a> {
    keyed: HashMap<Digest, Vec<&'a Damaged>>,
    placed: HashMap<(u32, u64), &'a Damaged>,
}

impl<'a> Damages<'a> {
    /// Sorts damaged places.
    #[must_use]
    pub fn of(damaged: &'a [Damaged]) -> Self {
        let mut keyed = HashMap::<_, Vec<_>>::new();
        for place in damaged {
            if let Some(key) = place.key {
                keyed.entry(key).or_default().push(place);
            }
        }
        // The others may be in the index.
        let others = damaged.iter().filter(|it| it.key.is_none());
        Self { keyed, placed: others.map(|it| ((it.pack, it.from), it)).collect() }
    }
}

impl Shelf {
    /// Returns the damaged places where a packet is or was.
    #[must_use]
    pub fn damaged_at<'a>(&self, digest: &Digest, damages: &Damages<'a>) -> Vec<&'a Damaged> {
        let key = self.key_of(digest);
        let mut places = damages.keyed.get(&key).cloned().unwrap_or_default();
        if !damages.placed.is_empty()
            && let Some(at) = self.store.lock().place(&key)
        {
            places.extend(damages.placed.get(&(at.pack, at.offset)));
        }
        places
    }

    /// Returns a packet's content from another place than the damaged one.
    #[must_use]
    pub fn get_elsewhere(&self, packet: PacketRef, damaged: &Damaged) -> Option<Vec<u8>> {
        let place = self.store.lock().place(&self.key_of(&packet.digest))?;
        let is_other = (place.pack, place.offset) != (damaged.pack, damaged.from);
        is_other.then(|| self.get(packet)).flatten()
    }

    /// Writes an intact packet where it was damaged. If it does not fit there it is stored elsewhere. Returns whether it fit.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn mend(
        &self,
        packet: PacketRef,
        packed: &Packed,
        damaged: &Damaged,
    ) -> Result<bool, StoreError> {
        let key = self.key_of(&packet.digest);
        let mut inner = self.store.lock();
        // The pack may have been written again meanwhile, without what was damaged.
        let Some(pack) = inner.packs.get(&damaged.pack) else { return Ok(true) };
        let keyed = PacketRef { digest: key, ..packet };
        if let Some(place) = pack.rewrite((damaged.from, damaged.to), keyed, packed)? {
            inner.unindexed.insert(key, place);
            return Ok(true);
        }
        inner.forget(&key);
        inner.put(keyed, packed)?;
        Ok(false)
    }
}
