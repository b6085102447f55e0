//! A pack: an append-only file of packet records.
//!
//! A record is `digest[32], u32 content bytes, u32 body bytes (top bit: compressed), body`. Without an
//! index, a pack is scanned from its start up to the first torn record.

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

/// An open pack.
#[derive(Debug)]
pub(super) struct Pack {
    number: u32,
    path: PathBuf,
    file: File,
    bytes: u64,
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
        Ok(Self { number, path, file, bytes, used: 0 })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn append(
        &mut self,
        packet: PacketRef,
        packed: &Packed,
    ) -> Result<Place, StoreError> {
        let body_bytes = u32::try_from(packed.body.len()).expect("packets are at most 256 KiB");
        let flag = if packed.compressed { COMPRESSED } else { 0 };
        let mut record = Vec::with_capacity(packed.body.len() + 40);
        record.extend(packet.digest.0);
        record.extend(packet.bytes.to_le_bytes());
        record.extend((body_bytes | flag).to_le_bytes());
        record.extend(&packed.body);
        let place = Place { pack: self.number, offset: self.bytes, body_bytes: body_bytes | flag };
        self.file.write_all_at(&record, self.bytes).map_err(|source| StoreError::Io {
            action: "append to",
            path: self.path.clone(),
            source,
        })?;
        self.bytes += record.len() as u64;
        Ok(place)
    }

    pub(super) fn read(&self, place: Place) -> std::io::Result<Packed> {
        let mut body = vec![0; (place.body_bytes & !COMPRESSED) as usize];
        self.file.read_exact_at(&mut body, place.offset + RECORD_HEAD_BYTES)?;
        Ok(Packed { compressed: place.body_bytes & COMPRESSED != 0, body })
    }

    /// Truncates the pack after its last complete record, so that a scan finds records appended later.
    pub(super) fn cut(&mut self, end: u64) -> Result<(), StoreError> {
        if end < self.bytes {
            self.file.set_len(end).map_err(|source| StoreError::Io {
                action: "truncate",
                path: self.path.clone(),
                source,
            })?;
            self.bytes = end;
        }
        Ok(())
    }

    /// Lists the records from `start` on. Returns also the end of the last complete one.
    pub(super) fn scan(&self, start: u64) -> Result<(Vec<(Digest, Place)>, u64), StoreError> {
        let mut records = Vec::new();
        let mut offset = start;
        let mut head = [0; 40];
        while offset + RECORD_HEAD_BYTES <= self.bytes {
            self.file.read_exact_at(&mut head, offset).map_err(|source| StoreError::Io {
                action: "read",
                path: self.path.clone(),
                source,
            })?;
            let (digest, sizes) = head.split_first_chunk::<32>().expect("the head has 40 bytes");
            let body_bytes = u32::from_le_bytes([sizes[4], sizes[5], sizes[6], sizes[7]]);
            let length = u64::from(body_bytes & !COMPRESSED);
            let end = offset + RECORD_HEAD_BYTES + length;
            if length > PACKET_BYTES_MAX as u64 || end > self.bytes {
                break;
            }
            let place = Place { pack: self.number, offset, body_bytes };
            records.push((Digest(*digest), place));
            offset = end;
        }
        Ok((records, offset))
    }

    pub(super) fn delete(self) -> Result<(), StoreError> {
        std::fs::remove_file(&self.path).map_err(|source| StoreError::Io {
            action: "delete",
            path: self.path,
            source,
        })
    }
}
