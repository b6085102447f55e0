//! A pack: an append-only file of packet records.
//!
//! A record is `digest[32], u32 content bytes, u32 body bytes (top bit: compressed), body`. Without an
//! index, a pack is scanned from its start. Behind what is no record it goes on with the next one.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::index::Place;
use crate::packet::{Digest, PACKET_BYTES_MAX, Packed, PacketRef};

const RECORD_HEAD_BYTES: u64 = 40;
/// Its content may be readable only by its owner at the origin.
const MODE: u32 = 0o600;
const COMPRESSED: u32 = 1 << 31;
/// Records in a row that are taken for records. A head has 31 bits that are zero, and other data has them rarely.
const CHAINED_MIN: usize = 3;

/// An open pack.
#[derive(Debug)]
pub(super) struct Pack {
    number: u32,
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Bytes of it that are durable.
    synced: u64,
    /// When it was last used, in the store's count of uses.
    pub(super) used: u64,
}

/// Returns the numbers of the packs in `dir`.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u32>, StoreError> {
    let failed = |source| StoreError::Io { action: "list", path: dir.to_owned(), source };
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number: Option<u32> =
            name.to_str().and_then(|name| name.strip_suffix(".pack")?.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// What a pack has.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    pub(super) records: Vec<(Digest, Place)>,
    /// Where there is no record: from one byte up to another.
    pub(super) damaged: Vec<(u64, u64)>,
}

/// The head of a record.
struct Head {
    digest: Digest,
    body_bytes: u32,
    end: u64,
}

/// Decodes the head of a record, if it can be one.
fn record(head: &[u8], offset: u64) -> Option<Head> {
    let (digest, sizes) = head.split_first_chunk::<32>()?;
    let number = |at: usize| Some(u32::from_le_bytes(*sizes.get(at..)?.first_chunk()?));
    let (content_bytes, body_bytes) = (number(0)?, number(4)?);
    let length = body_bytes & !COMPRESSED;
    let is_possible = content_bytes as usize <= PACKET_BYTES_MAX && length <= content_bytes;
    let end = offset + RECORD_HEAD_BYTES + u64::from(length);
    is_possible.then_some(Head { digest: Digest(*digest), body_bytes, end })
}

/// Tells whether bytes begin with records: so many in a row, or up to the end, are not there by chance.
fn is_chain(bytes: &[u8]) -> bool {
    let mut at = 0;
    for _ in 0..CHAINED_MIN {
        let Some(next) = bytes.get(at..).and_then(|rest| record(rest, at as u64)) else {
            return false;
        };
        at = usize::try_from(next.end).unwrap_or(usize::MAX);
        if at == bytes.len() {
            return true;
        }
    }
    true
}

/// Returns where a record ends.
pub(super) fn end(place: Place) -> u64 {
    place.offset + RECORD_HEAD_BYTES + u64::from(place.body_bytes & !COMPRESSED)
}

fn encode(packet: PacketRef, packed: &Packed) -> (Vec<u8>, u32) {
    let body_bytes = u32::try_from(packed.body.len()).expect("packets are at most 256 KiB");
    let flag = if packed.compressed { COMPRESSED } else { 0 };
    let mut record = Vec::with_capacity(packed.body.len() + 40);
    record.extend(packet.digest.0);
    record.extend(packet.bytes.to_le_bytes());
    record.extend((body_bytes | flag).to_le_bytes());
    record.extend(&packed.body);
    (record, body_bytes | flag)
}

/// A pack that is not durable yet.
#[derive(Debug)]
pub(super) struct Unsynced {
    path: PathBuf,
    file: File,
}

impl Unsynced {
    /// Makes it durable.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|source| StoreError::Io {
            action: "make durable",
            path: self.path.clone(),
            source,
        })
    }
}

impl Pack {
    pub(super) fn open(dir: &Path, number: u32) -> Result<Self, StoreError> {
        let path = dir.join(format!("{number}.pack"));
        let open = || -> std::io::Result<(File, u64)> {
            let mut options = File::options();
            let options = options.read(true).write(true).create(true).truncate(false);
            let file = options.mode(MODE).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            let bytes = file.metadata()?.len();
            Ok((file, bytes))
        };
        let (file, bytes) = open().map_err(|source| StoreError::Io {
            action: "open",
            path: path.clone(),
            source,
        })?;
        Ok(Self { number, path, file, bytes, synced: 0, used: 0 })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the pack if not all of it is durable, for making it so without a lock.
    pub(super) fn unsynced(&mut self) -> Result<Option<Unsynced>, StoreError> {
        if self.synced == self.bytes {
            return Ok(None);
        }
        let file = self.file.try_clone().map_err(|source| StoreError::Io {
            action: "open",
            path: self.path.clone(),
            source,
        })?;
        // Whoever asks next makes the same durable again, until this call has ended well.
        Ok(Some(Unsynced { path: self.path.clone(), file }))
    }

    pub(super) fn append(
        &mut self,
        packet: PacketRef,
        packed: &Packed,
    ) -> Result<Place, StoreError> {
        let (record, body_bytes) = encode(packet, packed);
        let place = Place { pack: self.number, offset: self.bytes, body_bytes };
        self.file.write_all_at(&record, self.bytes).map_err(|source| {
            // What is left of it is overwritten by the next record.
            let _ = self.file.set_len(self.bytes);
            StoreError::Io { action: "append to", path: self.path.clone(), source }
        })?;
        self.bytes += record.len() as u64;
        Ok(place)
    }

    /// Writes a record into a place of its size, durably. Returns nothing if it has another size.
    pub(super) fn rewrite(
        &self,
        (from, to): (u64, u64),
        packet: PacketRef,
        packed: &Packed,
    ) -> Result<Option<Place>, StoreError> {
        let (record, body_bytes) = encode(packet, packed);
        if record.len() as u64 != to - from {
            return Ok(None);
        }
        let written = self.file.write_all_at(&record, from).and_then(|()| self.file.sync_data());
        written.map_err(|source| StoreError::Io {
            action: "write to",
            path: self.path.clone(),
            source,
        })?;
        Ok(Some(Place { pack: self.number, offset: from, body_bytes }))
    }

    pub(super) fn read(&self, place: Place) -> std::io::Result<Packed> {
        let mut body = vec![0; (place.body_bytes & !COMPRESSED) as usize];
        self.file.read_exact_at(&mut body, place.offset + RECORD_HEAD_BYTES)?;
        Ok(Packed { compressed: place.body_bytes & COMPRESSED != 0, body })
    }

    /// Returns a whole record.
    pub(super) fn record(&self, place: Place) -> Result<(PacketRef, Packed), StoreError> {
        let read = || -> std::io::Result<(PacketRef, Packed)> {
            let mut head = [0; 40];
            self.file.read_exact_at(&mut head, place.offset)?;
            let (digest, sizes) = head.split_first_chunk::<32>().expect("the head has 40 bytes");
            let bytes = u32::from_le_bytes([sizes[0], sizes[1], sizes[2], sizes[3]]);
            Ok((PacketRef { digest: Digest(*digest), bytes }, self.read(place)?))
        };
        read().map_err(|source| StoreError::Io { action: "read", path: self.path.clone(), source })
    }

    /// Returns the number of bytes that a record says its content has.
    pub(super) fn content_bytes(&self, place: Place) -> std::io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, place.offset + size_of::<Digest>() as u64)?;
        Ok(u32::from_le_bytes(bytes))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Lists the records from `start` on, also those behind damage.
    pub(super) fn scan(&self, start: u64) -> Result<Scanned, StoreError> {
        let failed = |source| StoreError::Io { action: "read", path: self.path.clone(), source };
        let mut found = Scanned::default();
        let mut offset = start;
        while offset < self.bytes {
            let mut head = [0; 40];
            let has_head = self.bytes - offset >= RECORD_HEAD_BYTES;
            if has_head {
                self.file.read_exact_at(&mut head, offset).map_err(failed)?;
            }
            if let Some(next) =
                record(&head, offset).filter(|next| has_head && next.end <= self.bytes)
            {
                let place = Place { pack: self.number, offset, body_bytes: next.body_bytes };
                found.records.push((next.digest, place));
                offset = next.end;
                continue;
            }
            let end = self.resync(offset).map_err(failed)?.unwrap_or(self.bytes);
            found.damaged.push((offset, end));
            offset = end;
        }
        Ok(found)
    }

    /// Returns where records go on behind a damaged one.
    fn resync(&self, from: u64) -> std::io::Result<Option<u64>> {
        let length = usize::try_from(self.bytes - from).unwrap_or(usize::MAX);
        let mut rest = vec![0; length];
        self.file.read_exact_at(&mut rest, from)?;
        Ok((1..length).find(|at| is_chain(&rest[*at..])).map(|at| from + at as u64))
    }

    pub(super) fn delete(self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path).map_err(|source| StoreError::Io {
            action: "delete",
            path: self.path,
            source,
        })
    }
}
