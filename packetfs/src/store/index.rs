//! The index: the location of each packet. It is rebuilt from the packs if it is missing or damaged.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::error::StoreError;
use crate::packet::Digest;

/// Digest to pack, offset, body bytes.
const PLACES: TableDefinition<[u8; 32], (u32, u64, u32)> = TableDefinition::new("places");
/// Pack to the number of its bytes that are indexed.
const PACKS: TableDefinition<u32, u64> = TableDefinition::new("packs");
/// Accesses are random and rare, and a small cache saves memory.
const CACHE_BYTES: usize = 2 * 1024 * 1024;

/// The location of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u64,
    /// Bytes of the body; the top bit is set if it is compressed.
    pub(super) body_bytes: u32,
}

#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    database: Database,
}

impl Index {
    /// Opens the index. The flag is true if it is new and empty.
    pub(super) fn open(path: &Path) -> Result<(Self, bool), StoreError> {
        let open = |path: &Path| Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let existed = path.exists();
        let (database, fresh) = match open(path) {
            Ok(database) => (database, !existed),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "rebuilding the damaged packet index");
                std::fs::remove_file(path).map_err(|source| StoreError::Io {
                    action: "delete the damaged index",
                    path: path.to_owned(),
                    source,
                })?;
                (open(path).map_err(|error| failed(path, error))?, true)
            }
        };
        let index = Self { path: path.to_owned(), database };
        index.insert(std::iter::empty(), std::iter::empty(), false)?;
        Ok((index, fresh))
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Place>, StoreError> {
        let get = || -> Result<_, redb::Error> {
            let places = self.database.begin_read()?.open_table(PLACES)?;
            Ok(places.get(digest.0)?.map(|place| place.value()))
        };
        let found = get().map_err(|error| failed(&self.path, error))?;
        Ok(found.map(|(pack, offset, body_bytes)| Place { pack, offset, body_bytes }))
    }

    pub(super) fn indexed_bytes(&self, pack: u32) -> Result<u64, StoreError> {
        let get = || -> Result<_, redb::Error> {
            let packs = self.database.begin_read()?.open_table(PACKS)?;
            Ok(packs.get(pack)?.map_or(0, |bytes| bytes.value()))
        };
        get().map_err(|error| failed(&self.path, error))
    }

    pub(super) fn insert(
        &self,
        places: impl Iterator<Item = (Digest, Place)>,
        packs: impl Iterator<Item = (u32, u64)>,
        durably: bool,
    ) -> Result<(), StoreError> {
        self.write(durably, |transaction| {
            let mut table = transaction.open_table(PLACES)?;
            for (digest, place) in places {
                table.insert(digest.0, (place.pack, place.offset, place.body_bytes))?;
            }
            let mut table = transaction.open_table(PACKS)?;
            for (pack, bytes) in packs {
                table.insert(pack, bytes)?;
            }
            Ok(())
        })
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<(), StoreError> {
        self.write(false, |transaction| {
            transaction.open_table(PLACES)?.remove(digest.0)?;
            Ok(())
        })
    }

    pub(super) fn remove_pack(&self, pack: u32, digests: &[Digest]) -> Result<(), StoreError> {
        self.write(false, |transaction| {
            let mut table = transaction.open_table(PLACES)?;
            for digest in digests {
                let here = table.get(digest.0)?.is_some_and(|place| place.value().0 == pack);
                if here {
                    table.remove(digest.0)?;
                }
            }
            transaction.open_table(PACKS)?.remove(pack)?;
            Ok(())
        })
    }

    fn write(
        &self,
        durably: bool,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), StoreError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            if durably {
                transaction.set_quick_repair(true);
            } else {
                // No fsync: entries that a crash loses are restored from the packs.
                transaction.set_durability(redb::Durability::None)?;
            }
            change(&transaction)?;
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| failed(&self.path, error))
    }
}

fn failed(path: &Path, error: impl Into<redb::Error>) -> StoreError {
    StoreError::Index { path: path.to_owned(), source: Box::new(error.into()) }
}
