//! The store in memory: which packet is where, and the share of each origin.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::damage::Damaged;
use super::error::StoreError;
use super::index::{Index, Place};
use super::pack::{self, Pack};
use crate::packet::{Digest, Packed, PacketRef};
use crate::progress::Progress;

/// A pack is closed when it has grown to this size.
pub(super) const PACK_BYTES: u64 = 64 * 1024 * 1024;
/// Most packets that are only indexed in memory before they are written to the index.
const UNINDEXED_MAX: usize = 512;

/// Context string for deriving the key of an origin.
const ORIGIN_CONTEXT: &str = "oswalk 2026 packets of an origin";

/// A node's packets by key. All methods may be called from any thread.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) bytes_max: u64,
    pub(super) packs: HashMap<u32, Pack>,
    /// The pack that is appended to.
    pub(super) open: u32,
    pub(super) index: Index,
    pub(super) unindexed: HashMap<Digest, Place>,
    /// Counts uses, to find the least recently used pack.
    pub(super) clock: u64,
}

/// Only the agent may read packets from disk.
const DIR_MODE: u32 = 0o700;

impl Store {
    /// Opens the store in `dir`, creating it if necessary, with at most `bytes_max` of packs.
    ///
    /// # Errors
    /// The directory cannot be used.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        let make = std::fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
        make.map_err(|source| StoreError::Io { action: "create", path: dir.to_owned(), source })?;
        let (index, fresh) = Index::open(&dir.join("index.redb"))?;
        let mut inner = Inner {
            dir: dir.to_owned(),
            bytes_max,
            packs: HashMap::new(),
            open: 0,
            index,
            unindexed: HashMap::new(),
            clock: 0,
        };
        inner.load(fresh)?;
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// Returns the shelf for an origin's packets.
    #[must_use]
    pub fn shelf(self: &Arc<Self>, origin: &str) -> Shelf {
        let key = blake3::derive_key(ORIGIN_CONTEXT, origin.as_bytes());
        Shelf { store: Arc::clone(self), key }
    }

    /// Returns the bytes of all packs.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.lock().bytes()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves at worst a packet without an index entry.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packets of one origin.
#[derive(Debug, Clone)]
pub struct Shelf {
    pub(super) store: Arc<Store>,
    key: [u8; 32],
}

impl Shelf {
    /// Tells whether the packet is here.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.store.lock().place(&self.key_of(digest)).is_some()
    }

    /// Returns the packet's content, or `None` if it is absent or damaged on disk.
    #[must_use]
    pub fn get(&self, packet: PacketRef) -> Option<Vec<u8>> {
        self.checked(packet, |_, content| content.into_owned())
    }

    /// Returns the packet as it is stored, or `None` if it is absent or damaged on disk.
    #[must_use]
    pub fn packed(&self, packet: PacketRef) -> Option<Packed> {
        self.checked(packet, |packed, _| packed.clone())
    }

    fn checked<T>(
        &self,
        packet: PacketRef,
        show: impl FnOnce(&Packed, Cow<'_, [u8]>) -> T,
    ) -> Option<T> {
        let key = self.key_of(&packet.digest);
        let packed = self.store.lock().read(&key)?;
        match packed.unpack(packet) {
            Ok(content) => return Some(show(&packed, content)),
            // Whoever asks for it with another length does not damage it.
            Err(_) if packed.is_sound(&packet.digest) => {}
            Err(error) => {
                tracing::warn!(%error, "dropping a damaged packet");
                self.store.lock().forget(&key);
            }
        }
        None
    }

    /// Stores a packet from the origin. The caller has checked its content against its digest.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn put(&self, packet: PacketRef, packed: &Packed) -> Result<(), StoreError> {
        self.store.lock().put(PacketRef { digest: self.key_of(&packet.digest), ..packet }, packed)
    }

    /// Makes all packets durable that were stored so far.
    ///
    /// # Errors
    /// The disk fails.
    pub fn sync(&self) -> Result<(), StoreError> {
        let unsynced = self.store.lock().unsynced()?;
        unsynced.into_iter().try_for_each(|pack| pack.sync())
    }

    /// Checks all packets of the store, which are this shelf's. Says where packets are damaged.
    ///
    /// # Errors
    /// The packs cannot be read.
    pub fn check(&self, progress: &Progress) -> Result<Checked, StoreError> {
        let mut checked = Checked::default();
        let mut numbers: Vec<_> = self.store.lock().packs.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let Some((path, found)) = self.store.lock().scan(number)? else { continue };
            let none = found.damaged.iter().map(|&(from, to)| (None, from, to));
            let mut damaged: Vec<_> = none.collect();
            let mut before = 0;
            for (key, place) in found.records {
                if progress.is_cancelled() {
                    return Ok(checked);
                }
                checked.packets += 1;
                // Each by itself, so that others are not kept waiting.
                if !self.is_whole(key, place) {
                    damaged.push((Some(key), place.offset, pack::end(place)));
                }
                progress.add(place.offset - before);
                before = place.offset;
            }
            checked.damaged.extend(damaged.into_iter().map(|(key, from, to)| {
                let path = path.clone();
                Damaged { path, pack: number, from, to, key }
            }));
        }
        Ok(checked)
    }

    fn is_whole(&self, key: Digest, place: Place) -> bool {
        let inner = self.store.lock();
        let Some(pack) = inner.packs.get(&place.pack) else { return true };
        let Ok((packed, bytes)) =
            pack.read(place).and_then(|packed| Ok((packed, pack.content_bytes(place)?)))
        else {
            return false;
        };
        drop(inner);
        let content = packed.content(bytes as usize);
        content.is_ok_and(|content| {
            content.len() == bytes as usize && self.key_of(&Digest::of(&content)) == key
        })
    }

    /// Returns the bytes of all packs of the store.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.store.bytes()
    }

    /// Returns the key of a packet in the store.
    pub(super) fn key_of(&self, digest: &Digest) -> Digest {
        Digest(*blake3::keyed_hash(&self.key, &digest.0).as_bytes())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.lock().flush(true) {
            tracing::warn!(%error, "failed to write the packet index: the next start rebuilds what is missing");
        }
    }
}

/// What a check of a store has found.
#[derive(Debug, Default)]
pub struct Checked {
    /// How many packets there are.
    pub packets: u64,
    /// Where in packs there is no intact packet.
    pub damaged: Vec<Damaged>,
}

impl Inner {
    /// Lists what a pack has.
    fn scan(&self, number: u32) -> Result<Option<(PathBuf, pack::Scanned)>, StoreError> {
        let Some(pack) = self.packs.get(&number) else { return Ok(None) };
        Ok(Some((pack.path().to_owned(), pack.scan(0)?)))
    }

    /// Opens the existing packs, and indexes records that the index lacks.
    fn load(&mut self, fresh: bool) -> Result<(), StoreError> {
        for number in pack::numbers(&self.dir)? {
            let pack = Pack::open(&self.dir, number)?;
            let indexed = if fresh { 0 } else { self.index.indexed_bytes(number)? };
            let found = pack.scan(indexed)?;
            self.unindexed.extend(found.records);
            self.packs.insert(number, pack);
            // What is no record stays: nothing is appended behind it, and nothing of it is cut off.
            let next = number + u32::from(!found.damaged.is_empty());
            self.open = self.open.max(next);
        }
        if !self.packs.contains_key(&self.open) {
            self.packs.insert(self.open, Pack::open(&self.dir, self.open)?);
        }
        self.flush(false)
    }

    pub(super) fn place(&self, digest: &Digest) -> Option<Place> {
        let place = match self.unindexed.get(digest) {
            Some(&place) => place,
            None => self.index.get(digest).ok().flatten()?,
        };
        self.packs.contains_key(&place.pack).then_some(place)
    }

    fn read(&mut self, digest: &Digest) -> Option<Packed> {
        let place = self.place(digest)?;
        self.clock += 1;
        let clock = self.clock;
        let pack = self.packs.get_mut(&place.pack)?;
        pack.used = clock;
        pack.read(place).ok()
    }

    pub(super) fn forget(&mut self, digest: &Digest) {
        self.unindexed.remove(digest);
        if let Err(error) = self.index.remove(digest) {
            tracing::warn!(%error, "failed to remove a packet from the index");
        }
    }

    pub(super) fn put(&mut self, packet: PacketRef, packed: &Packed) -> Result<(), StoreError> {
        if self.place(&packet.digest).is_some() {
            return Ok(());
        }
        self.clock += 1;
        let clock = self.clock;
        let pack = self.packs.get_mut(&self.open).expect("the open pack exists from load on");
        pack.used = clock;
        let place = pack.append(packet, packed)?;
        let full = pack.bytes() >= PACK_BYTES;
        self.unindexed.insert(packet.digest, place);
        if full {
            self.next_pack()?;
        } else if self.unindexed.len() >= UNINDEXED_MAX {
            self.flush(false)?;
        }
        Ok(())
    }

    pub(super) fn next_pack(&mut self) -> Result<(), StoreError> {
        self.open += 1;
        let pack = Pack::open(&self.dir, self.open)?;
        self.packs.insert(self.open, pack);
        // So that a crash has one pack scanned at most.
        self.flush(true)?;
        while self.bytes() > self.bytes_max && self.packs.len() > 1 {
            self.evict()?;
        }
        Ok(())
    }

    /// Drops the least recently used closed pack.
    fn evict(&mut self) -> Result<(), StoreError> {
        let open = self.open;
        let oldest =
            self.packs.iter().filter(|&(&number, _)| number != open).min_by_key(|(_, p)| p.used);
        if let Some((&number, _)) = oldest {
            let pack = self.packs.remove(&number).expect("the number was just found");
            let digests: Vec<_> =
                pack.scan(0)?.records.into_iter().map(|(digest, _)| digest).collect();
            self.index.remove_pack(number, &digests)?;
            pack.delete()?;
        }
        Ok(())
    }

    /// Returns what must be made durable. Packets are appended to one pack at a time, and a pack is closed rarely.
    fn unsynced(&mut self) -> Result<Vec<pack::Unsynced>, StoreError> {
        self.packs.values_mut().filter_map(|pack| pack.unsynced().transpose()).collect()
    }

    fn bytes(&self) -> u64 {
        self.packs.values().map(Pack::bytes).sum()
    }

    pub(super) fn flush(&mut self, durably: bool) -> Result<(), StoreError> {
        let indexed = self.packs.iter().map(|(&number, pack)| (number, pack.bytes()));
        let places = self.unindexed.iter().map(|(d, &p)| (*d, p));
        self.index.insert(places, indexed, durably)?;
        self.unindexed.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::reference;

    fn open(dir: &Path, bytes_max: u64) -> Shelf {
        Arc::new(Store::open(dir, bytes_max).expect("a store")).shelf("o")
    }

    fn keep(store: &Shelf, content: &[u8]) -> PacketRef {
        let packet = reference(content);
        store.put(packet, &Packed::pack(content)).expect("the disk has room");
        packet
    }

    #[test]
    fn keeps_packets_across_restarts() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let contents: Vec<Vec<u8>> = (0..1500_u32).map(|n| n.to_le_bytes().repeat(9)).collect();
        let packets: Vec<_> = {
            let store = open(dir.path(), u64::MAX);
            contents.iter().map(|content| keep(&store, content)).collect()
        };
        let store = open(dir.path(), u64::MAX);
        for (packet, content) in packets.iter().zip(&contents) {
            assert_eq!(store.get(*packet).as_ref(), Some(content));
        }
        assert!(!store.has(&Digest::of(b"never kept")));
    }

    #[test]
    fn a_digest_does_not_give_access_to_content() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let first = open(dir.path(), u64::MAX);
        let packet = keep(&first, b"secret of the first origin");
        let second = first.store.shelf("second");
        assert!(!second.has(&packet.digest));
        assert_eq!(second.get(packet), None);
        keep(&second, b"secret of the first origin");
        assert!(second.get(packet).is_some());
        drop((first, second));
        let again = open(dir.path(), u64::MAX);
        assert!(again.has(&packet.digest));
        assert_eq!(again.store.shelf("third").get(packet), None);
    }

    #[test]
    fn who_asks_with_another_length_damages_nothing() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = open(dir.path(), u64::MAX);
        let packet = keep(&store, b"content");
        assert_eq!(store.get(PacketRef { bytes: 6, ..packet }), None);
        assert_eq!(store.get(packet).as_deref(), Some(b"content".as_slice()));
    }

    #[test]
    fn rebuilds_the_index_from_the_packs() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let packet = keep(&open(dir.path(), u64::MAX), b"content");
        std::fs::remove_file(dir.path().join("index.redb")).expect("the index is a file");
        let store = open(dir.path(), u64::MAX);
        assert_eq!(store.get(packet).as_deref(), Some(b"content".as_slice()));
        drop(store);
        std::fs::write(dir.path().join("index.redb"), b"garbage").expect("the index is writable");
        let store = open(dir.path(), u64::MAX);
        assert_eq!(store.get(packet).as_deref(), Some(b"content".as_slice()));
    }

    #[test]
    fn a_torn_or_damaged_record_is_a_miss() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (first, second) = {
            let store = open(dir.path(), u64::MAX);
            (keep(&store, b"first"), keep(&store, b"second"))
        };
        let pack = dir.path().join("0.pack");
        let mut bytes = std::fs::read(&pack).expect("the pack is readable");
        bytes.truncate(bytes.len() - 2);
        bytes[42] ^= 1;
        std::fs::write(&pack, bytes).expect("the pack is writable");
        std::fs::remove_file(dir.path().join("index.redb")).expect("the index is a file");
        let store = open(dir.path(), u64::MAX);
        assert_eq!(store.get(first), None);
        assert_eq!(store.get(second), None);
        let third = keep(&store, b"third");
        assert_eq!(store.get(third).as_deref(), Some(b"third".as_slice()));
    }

    #[test]
    fn the_size_is_bounded() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = open(dir.path(), PACK_BYTES);
        let mut last = None;
        for n in 0..900_u32 {
            let content: Vec<u8> = (0..60_000_u32)
                .flat_map(|i| {
                    i.wrapping_mul(n.wrapping_add(77)).wrapping_mul(2_654_435_761).to_le_bytes()
                })
                .collect();
            let packet = reference(&content);
            let packed = Packed { compressed: false, body: content };
            store.put(packet, &packed).expect("the disk has room");
            last = Some((packet, packed.body));
        }
        assert!(store.store.bytes() <= 2 * PACK_BYTES, "{} bytes", store.store.bytes());
        let (packet, content) = last.expect("packets were kept");
        assert_eq!(store.get(packet), Some(content));
    }
}
