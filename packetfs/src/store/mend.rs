//! Writes damaged packets again where they are in their packs, so that what comes after them is found in any case.

use super::damage::{Damaged, Damages};
use super::error::StoreError;
use super::shelf::Shelf;
use crate::packet::{Digest, Packed, PacketRef};

impl Shelf {
    /// Returns the damaged places where a packet is or was.
    #[must_use]
    pub fn damaged_at<'a>(&self, digest: &Digest, damages: &Damages<'a>) -> Vec<&'a Damaged> {
        let key = self.key_of(digest);
        let mut places = damages.keyed.get(&key).cloned().unwrap_or_default();
        if !damages.placed.is_empty()
            && let Some(at) = self.store.lock().place(&key)
            && let Some(&placed) = damages.placed.get(&(at.pack, at.offset))
            && !places.contains(&placed)
        {
            places.push(placed);
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
