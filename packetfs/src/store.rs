//! A node's packets on disk: append-only packs, an index that can be rebuilt from them, and a size limit.
//! Over the limit, the least recently used pack is dropped.
//!
//! Origins share the space, but not the packets: a packet is found by its digest together with the origin
//! that sent it. So knowing a digest is not enough to read content of another origin.

mod error;
mod index;
mod pack;

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::packet::{Digest, Packed, PacketRef};
use index::{Index, Place};
use pack::Pack;

pub use error::StoreError;

/// A pack is closed when it has grown to this size.
const PACK_BYTES: u64 = 64 * 1024 * 1024;
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
struct Inner {
    dir: PathBuf,
    bytes_max: u64,
    packs: HashMap<u32, Pack>,
    /// The pack that is appended to.
    open: u32,
    index: Index,
    unindexed: HashMap<Digest, Place>,
    /// Counts uses, to find the least recently used pack.
    clock: u64,
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves at worst a packet without an index entry.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The packets of one origin.
#[derive(Debug, Clone)]
pub struct Shelf {
    store: Arc<Store>,
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
        let key = self.key_of(&packet.digest);
        let packed = self.store.lock().read(&key)?;
        match packed.unpack(packet) {
            Ok(content) => Some(content.into_owned()),
            Err(error) => {
                tracing::warn!(%error, "dropping a damaged packet");
                self.store.lock().forget(&key);
                None
            }
        }
    }

    /// Stores a packet from the origin. The caller has checked its content against its digest.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn put(&self, packet: PacketRef, packed: &Packed) -> Result<(), StoreError> {
        self.store.lock().put(PacketRef { digest: self.key_of(&packet.digest), ..packet }, packed)
    }

    /// Returns the key of a packet in the store.
    fn key_of(&self, digest: &Digest) -> Digest {
        Digest(*blake3::keyed_hash(&self.key, &digest.0).as_bytes())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.lock().flush() {
            tracing::warn!(%error, "failed to write the packet index: the next start rebuilds what is missing");
        }
    }
}

impl Inner {
    /// Opens the existing packs, and indexes records that the index lacks.
    fn load(&mut self, fresh: bool) -> Result<(), StoreError> {
        for number in pack::numbers(&self.dir)? {
            let mut pack = Pack::open(&self.dir, number)?;
            let indexed = if fresh { 0 } else { self.index.indexed_bytes(number)? };
            let (records, end) = pack.scan(indexed)?;
            self.unindexed.extend(records);
            pack.cut(end)?;
            self.packs.insert(number, pack);
            self.open = self.open.max(number);
        }
        if self.packs.is_empty() {
            self.packs.insert(0, Pack::open(&self.dir, 0)?);
        }
        self.flush()
    }

    fn place(&self, digest: &Digest) -> Option<Place> {
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

    fn forget(&mut self, digest: &Digest) {
        self.unindexed.remove(digest);
        if let Err(error) = self.index.remove(digest) {
            tracing::warn!(%error, "failed to remove a packet from the index");
        }
    }

    fn put(&mut self, packet: PacketRef, packed: &Packed) -> Result<(), StoreError> {
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
            self.flush()?;
        }
        Ok(())
    }

    fn next_pack(&mut self) -> Result<(), StoreError> {
        self.open += 1;
        let pack = Pack::open(&self.dir, self.open)?;
        self.packs.insert(self.open, pack);
        self.flush()?;
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
            let digests: Vec<_> = pack.scan(0)?.0.into_iter().map(|(digest, _)| digest).collect();
            self.index.remove_pack(number, &digests)?;
            pack.delete()?;
        }
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.packs.values().map(Pack::bytes).sum()
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        let indexed = self.packs.iter().map(|(&number, pack)| (number, pack.bytes()));
        self.index.insert(self.unindexed.iter().map(|(d, &p)| (*d, p)), indexed)?;
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
