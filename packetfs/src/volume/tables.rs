//! The volume's metadata: keys and values that remember their former values. What was changed lately is in memory; a thread
//! writes it to a redb file.
//!
//! The file is a cache of the log: [`Tables::applied`] says up to which event it is right, and the rest is applied again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadOnlyTable, ReadableDatabase, TableDefinition};
use worknode::history::Hlc;

use super::error::VolumeError;
use super::key::{self, Key};

/// All keys and values. The name says how they are encoded: those of another encoding are made again from the log.
const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows 2");
const CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Rows that are looked at while others wait.
const PAGE_ROWS: usize = 1024;
/// Most layers of rows in memory after a failed write; each reader at work has one at most.
const LAYERS_MAX: usize = 16;
/// Bytes before each value: the moment since which it holds.
const SINCE_BYTES: usize = 8;

/// A value with its moment; none for a row that was removed.
type Row = Option<Arc<[u8]>>;
type Rows = BTreeMap<Key, Row>;
/// Rows in memory, the oldest first.
type Layers = Vec<Arc<Rows>>;
/// A key with its value.
type Pair = (Key, Arc<[u8]>);
/// Since when, until when, and the value.
type Former = (Hlc, Hlc, Arc<[u8]>);

/// A row that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Key,
    /// The moment since which it holds, or held.
    pub(super) since: Hlc,
    pub(super) value: Arc<[u8]>,
}

/// The metadata of a volume.
pub(super) struct Tables {
    path: PathBuf,
    /// None after an error, until it is opened again.
    file: Option<Opened>,
    /// What is being written.
    settling: Layers,
    /// What had changed since, when somebody began to read the tables without a lock.
    frozen: Layers,
    /// What has changed since.
    fresh: Rows,
    /// The latest moment from which any row holds.
    latest: Hlc,
    /// The earliest moment from which rows may hold that are set now.
    floor: Hlc,
}

/// The open file.
struct Opened {
    database: Arc<Database>,
    /// The rows as they were after the last write.
    written: ReadOnlyTable<&'static [u8], &'static [u8]>,
}

/// The changes for one write to the file.
pub(super) struct Batch {
    database: Arc<Database>,
    path: PathBuf,
    layers: Layers,
}

impl Tables {
    /// Opens the tables, or makes empty ones in place of a missing or damaged file.
    pub(super) fn open(path: &Path) -> Result<Self, VolumeError> {
        let open = |path: &Path| Database::builder().set_cache_size(CACHE_BYTES).create(path);
        let database = match open(path) {
            Ok(database) => database,
            Err(error) if !is_damage(&error) => return Err(failed(path, error)),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the tables are damaged: making them again from the log");
                std::fs::remove_file(path).map_err(VolumeError::io("delete", path))?;
                open(path).map_err(|error| failed(path, error))?
            }
        };
        let file = Some(Opened::new(path, database)?);
        let path = path.to_owned();
        Ok(Self {
            path,
            file,
            settling: Layers::new(),
            frozen: Layers::new(),
            fresh: Rows::new(),
            latest: Hlc(0),
            floor: Hlc(0),
        })
    }

    /// Opens the file again, which takes no calls after an error. Rows that are only in memory stay.
    pub(super) fn reopen(&mut self) -> Result<(), VolumeError> {
        self.file = None;
        let database = Database::builder().set_cache_size(CACHE_BYTES).open(&self.path);
        let database = database.map_err(|error| failed(&self.path, error))?;
        self.file = Some(Opened::new(&self.path, database)?);
        Ok(())
    }

    /// Closes the file, and forgets what is only in memory.
    pub(super) fn close(&mut self) {
        self.file = None;
        (self.settling, self.frozen, self.fresh) = Default::default();
    }

    /// Tells whether the file is open.
    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    fn written(&self) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, VolumeError> {
        let file = self.file.as_ref().map(|file| &file.written);
        file.ok_or_else(|| self.closed())
    }

    fn closed(&self) -> VolumeError {
        failed(&self.path, redb::StorageError::PreviousIo)
    }

    /// Returns the number of rows that are only in memory.
    pub(super) fn unwritten(&self) -> usize {
        self.layers().map(Rows::len).sum()
    }

    /// Returns the rows in memory, the oldest first.
    fn layers(&self) -> impl DoubleEndedIterator<Item = &Rows> {
        let former = self.settling.iter().chain(&self.frozen).map(|rows| &**rows);
        former.chain(std::iter::once(&self.fresh))
    }

    /// Returns a value.
    pub(super) fn get(&self, key: &Key) -> Result<Option<Arc<[u8]>>, VolumeError> {
        Ok(self.row(key)?.map(|row| row[SINCE_BYTES..].into()))
    }

    /// Returns the moment since which a key has its value.
    pub(super) fn since(&self, key: &Key) -> Result<Option<Hlc>, VolumeError> {
        Ok(self.row(key)?.map(|row| since(&row)))
    }

    /// Returns a value as it was at a moment.
    pub(super) fn get_at(&self, key: &Key, moment: Hlc) -> Result<Option<Arc<[u8]>>, VolumeError> {
        let holds = |row: &Arc<[u8]>| since(row) <= moment;
        if let Some(row) = self.row(key)?.filter(holds) {
            return Ok(Some(row[SINCE_BYTES..].into()));
        }
        let next = self.first(&key::past(key, Hlc(moment.0 + 1)), &key::past_end(key))?;
        Ok(next.map(|(_, row)| row).filter(holds).map(|row| row[SINCE_BYTES..].into()))
    }

    /// Begins to set what an event says. One that comes late, since it is another author's, counts from when it is here: rows
    /// tell what was seen when.
    pub(super) fn begin(&mut self, moment: Hlc) {
        self.floor = moment.max(Hlc(self.latest.0 + 1));
    }

    /// Returns the latest moment from which any row holds.
    pub(super) const fn latest(&self) -> Hlc {
        self.latest
    }

    /// Continues after a moment.
    pub(super) fn begin_after(&mut self, latest: Hlc) {
        self.latest = latest;
    }

    fn count(&mut self, moment: Hlc) -> Hlc {
        let moment = moment.max(self.floor);
        self.latest = self.latest.max(moment);
        moment
    }

    /// Sets a value from a moment on. The former one is kept for looking back, if `keep` says so; otherwise the new one counts
    /// from when the former did.
    pub(super) fn set(
        &mut self,
        key: Key,
        value: &[u8],
        moment: Hlc,
        keep: bool,
    ) -> Result<(), VolumeError> {
        let moment = self.count(moment);
        let before = self.row(&key)?;
        let from = match &before {
            Some(row) if !keep => since(row),
            Some(row) => {
                self.remember(&key, row, moment);
                moment
            }
            None => moment,
        };
        self.fresh.insert(key, Some(row_of(from, value)));
        Ok(())
    }

    /// Removes a value from a moment on; it is kept for looking back.
    pub(super) fn remove(&mut self, key: Key, moment: Hlc) -> Result<(), VolumeError> {
        let moment = self.count(moment);
        if let Some(row) = self.row(&key)? {
            self.remember(&key, &row, moment);
            self.fresh.insert(key, None);
        }
        Ok(())
    }

    /// Sets a row that has no past.
    pub(super) fn set_plain(&mut self, key: Key, value: &[u8]) {
        self.fresh.insert(key, Some(row_of(Hlc(0), value)));
    }

    /// Removes a row without a trace.
    pub(super) fn remove_plain(&mut self, key: Key) {
        self.fresh.insert(key, None);
    }

    fn remember(&mut self, key: &Key, row: &Arc<[u8]>, until: Hlc) {
        // A value of one moment was never seen.
        if since(row) < until {
            self.fresh.insert(key::past(key, until), Some(Arc::clone(row)));
        }
    }

    /// Returns the values of all keys with a prefix, in their order.
    pub(super) fn all(&self, prefix: &[u8]) -> Result<Vec<Pair>, VolumeError> {
        let rows = self.rows(prefix)?;
        Ok(rows
            .into_iter()
            .filter_map(|(key, row)| Some((key, row?[SINCE_BYTES..].into())))
            .collect())
    }

    /// Returns the former values of a key: since when, until when, and the value; the oldest first.
    pub(super) fn past(&self, key: &Key) -> Result<Vec<Former>, VolumeError> {
        let prefix = key::past_prefix(key);
        let rows = self.rows(&prefix)?.into_iter().filter(|(at, _)| at.len() == prefix.len() + 8);
        Ok(rows
            .filter_map(|(at, row)| {
                let row = row?;
                Some((since(&row), key::until(&at)?, row[SINCE_BYTES..].into()))
            })
            .collect())
    }

    /// Returns the keys with a prefix that had a value at a moment, and the values.
    pub(super) fn all_at(&self, prefix: &[u8], moment: Hlc) -> Result<Vec<Pair>, VolumeError> {
        let mut found = BTreeMap::new();
        for (at, row) in self.rows(&key::past_prefix(prefix))? {
            let (Some(row), Some(key), Some(until)) = (row, key::present(&at), key::until(&at))
            else {
                continue;
            };
            if since(&row) <= moment && moment < until {
                found.insert(key, row[SINCE_BYTES..].into());
            }
        }
        for (key, row) in self.rows(prefix)? {
            if let Some(row) = row.filter(|row| since(row) <= moment) {
                found.insert(key, row[SINCE_BYTES..].into());
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Returns the keys with a prefix that have or had a value, in their order.
    pub(super) fn keys_ever(&self, prefix: &[u8]) -> Result<BTreeSet<Key>, VolumeError> {
        let past = self.rows(&key::past_prefix(prefix))?.into_iter();
        let past = past.filter_map(|(at, row)| row.and_then(|_| key::present(&at)));
        let present = self.rows(prefix)?.into_iter().filter_map(|(key, row)| row.map(|_| key));
        Ok(past.chain(present).collect())
    }

    /// Returns rows with a prefix that come after a key, and the last key that was looked at, unless they are all.
    pub(super) fn page(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
    ) -> Result<(Vec<Found>, Option<Key>), VolumeError> {
        self.some(prefix, after, PAGE_ROWS)
    }

    /// Returns about `max` rows, likewise.
    pub(super) fn some(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        max: usize,
    ) -> Result<(Vec<Found>, Option<Key>), VolumeError> {
        let (rows, last) = self.piece(prefix, after, max)?;
        let found = rows.into_iter().filter_map(|(key, row)| {
            let row = row?;
            Some(Found { key, since: since(&row), value: row[SINCE_BYTES..].into() })
        });
        Ok((found.collect(), last))
    }

    /// Returns about `max` rows with a prefix that come after a key, also the removed ones, and the last key that was looked at,
    /// unless they are all.
    fn piece(
        &self,
        prefix: &[u8],
        after: Option<&Key>,
        max: usize,
    ) -> Result<(Rows, Option<Key>), VolumeError> {
        let from = after.map_or(Bound::Included(prefix), |key| Bound::Excluded(key.as_slice()));
        let range = self.written()?.range::<&[u8]>((from, Bound::Unbounded));
        let mut parts: Vec<Vec<(Key, Row)>> = vec![Vec::new()];
        for row in range.map_err(|error| failed(&self.path, error))?.take(max) {
            let (key, row) = row.map_err(|error| failed(&self.path, error))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            parts[0].push((key.value().to_vec(), Some(row.value().into())));
        }
        for newer in self.layers() {
            let newer = newer.range::<[u8], _>((from, Bound::Unbounded)).take(max);
            let newer = newer.take_while(|(key, _)| key.starts_with(prefix));
            parts.push(newer.map(|(key, row)| (key.clone(), row.clone())).collect());
        }
        // Behind the end of a part that is cut off, rows may be missing.
        let cut = parts.iter().filter(|part| part.len() == max);
        let last = cut.filter_map(|part| part.last()).map(|(key, _)| key.clone()).min();
        let mut rows = Rows::new();
        for (key, row) in parts.into_iter().flatten() {
            if last.as_ref().is_none_or(|last| key <= *last) {
                rows.insert(key, row);
            }
        }
        Ok((rows, last))
    }

    /// Takes what has changed, for writing it without a lock. `None` if the former batch is still being written.
    pub(super) fn settle(&mut self) -> Option<Batch> {
        if !self.settling.is_empty() || self.unwritten() == 0 {
            return None;
        }
        let (database, path) = (Arc::clone(&self.file.as_ref()?.database), self.path.clone());
        self.freeze();
        self.settling = std::mem::take(&mut self.frozen);
        Some(Batch { database, path, layers: self.settling.clone() })
    }

    /// Has what is fresh change no more. Takes as long as what has changed since the last time, if nobody reads that any more.
    fn freeze(&mut self) {
        let fresh = std::mem::take(&mut self.fresh);
        if fresh.is_empty() {
            return;
        }
        match self.frozen.last_mut().and_then(Arc::get_mut) {
            Some(unread) => unread.extend(fresh),
            None => self.frozen.push(Arc::new(fresh)),
        }
    }

    /// Returns the tables as they are now, for reading without a lock.
    pub(super) fn as_now(&mut self) -> Result<Self, VolumeError> {
        let Some(file) = &self.file else { return Err(self.closed()) };
        let written = read(&file.database).map_err(|error| failed(&self.path, error))?;
        let file = Opened { database: Arc::clone(&file.database), written };
        self.freeze();
        Ok(Self {
            path: self.path.clone(),
            file: Some(file),
            settling: self.settling.clone(),
            frozen: self.frozen.clone(),
            fresh: Rows::new(),
            latest: self.latest,
            floor: self.floor,
        })
    }

    /// Notes that a batch is written.
    pub(super) fn settled(&mut self) -> Result<(), VolumeError> {
        if let Some(file) = &mut self.file {
            file.written = read(&file.database).map_err(|error| failed(&self.path, error))?;
        }
        self.settling = Layers::new();
        Ok(())
    }

    /// Takes a batch back that could not be written.
    pub(super) fn unsettle(&mut self) {
        let since = std::mem::take(&mut self.frozen);
        self.frozen = std::mem::take(&mut self.settling);
        self.frozen.extend(since);
        if self.frozen.len() > LAYERS_MAX {
            let mut all = Rows::new();
            for rows in self.frozen.drain(..) {
                all.extend(Arc::unwrap_or_clone(rows));
            }
            self.frozen.push(Arc::new(all));
        }
    }

    fn row(&self, key: &Key) -> Result<Row, VolumeError> {
        if let Some(row) = self.layers().rev().find_map(|rows| rows.get(key)) {
            return Ok(row.clone());
        }
        let found =
            self.written()?.get(key.as_slice()).map_err(|error| failed(&self.path, error))?;
        Ok(found.map(|row| row.value().into()))
    }

    /// Returns the first row of a range.
    fn first(&self, from: &[u8], to: &[u8]) -> Result<Option<Pair>, VolumeError> {
        let mut from = Bound::Included(from.to_vec());
        loop {
            let Some(key) = self.first_key(&from, to)? else { return Ok(None) };
            if let Some(row) = self.row(&key)? {
                return Ok(Some((key, row)));
            }
            from = Bound::Excluded(key);
        }
    }

    fn first_key(&self, from: &Bound<Key>, to: &[u8]) -> Result<Option<Key>, VolumeError> {
        let in_memory = |rows: &Rows| {
            rows.range::<[u8], _>((as_slice(from), Bound::Excluded(to)))
                .next()
                .map(|(key, _)| key.clone())
        };
        let range = self.written()?.range::<&[u8]>((as_slice(from), Bound::Excluded(to)));
        let row = range.map_err(|error| failed(&self.path, error))?.next().transpose();
        let written =
            row.map_err(|error| failed(&self.path, error))?.map(|(key, _)| key.value().to_vec());
        Ok(self.layers().filter_map(in_memory).chain(written).min())
    }

    /// Returns the rows with a prefix, also the removed ones.
    fn rows(&self, prefix: &[u8]) -> Result<Rows, VolumeError> {
        let range = self.written()?.range(prefix..).map_err(|error| failed(&self.path, error))?;
        let mut rows = Rows::new();
        for row in range {
            let (key, row) = row.map_err(|error| failed(&self.path, error))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            rows.insert(key.value().to_vec(), Some(row.value().into()));
        }
        for newer in self.layers() {
            let from = (Bound::Included(prefix), Bound::Unbounded);
            let newer = newer.range::<[u8], _>(from).take_while(|(key, _)| key.starts_with(prefix));
            rows.extend(newer.map(|(key, row)| (key.clone(), row.clone())));
        }
        Ok(rows)
    }
}

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tables").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Opened {
    fn new(path: &Path, database: Database) -> Result<Self, VolumeError> {
        let database = Arc::new(database);
        let empty = Batch { database, path: path.to_owned(), layers: Layers::new() };
        empty.write(false)?;
        let written = read(&empty.database).map_err(|error| failed(path, error))?;
        Ok(Self { database: empty.database, written })
    }
}

impl Batch {
    /// Writes the changes to the file; durably, if asked for.
    pub(super) fn write(&self, durably: bool) -> Result<(), VolumeError> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            if durably {
                // After a crash the file is used at once, however large it is.
                transaction.set_quick_repair(true);
            } else {
                transaction.set_durability(redb::Durability::None)?;
            }
            {
                let mut table = transaction.open_table(ROWS)?;
                for (key, row) in self.layers.iter().flat_map(|rows| rows.iter()) {
                    match row {
                        Some(row) => drop(table.insert(key.as_slice(), &**row)?),
                        None => drop(table.remove(key.as_slice())?),
                    }
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| failed(&self.path, error))
    }
}

fn read(database: &Database) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, redb::Error> {
    Ok(database.begin_read()?.open_table(ROWS)?)
}

/// Tells whether the file itself is at fault, not the disk or another process.
fn is_damage(error: &redb::DatabaseError) -> bool {
    let redb::DatabaseError::Storage(redb::StorageError::Io(error)) = error else {
        return !matches!(error, redb::DatabaseError::DatabaseAlreadyOpen);
    };
    // What is no table, or too short for one, is not the system's error.
    error.raw_os_error().is_none()
}

fn as_slice(bound: &Bound<Key>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn since(row: &[u8]) -> Hlc {
    let bytes = row.first_chunk().copied().unwrap_or_default();
    Hlc(u64::from_be_bytes(bytes))
}

fn row_of(since: Hlc, value: &[u8]) -> Arc<[u8]> {
    [&since.0.to_be_bytes(), value].concat().into()
}

fn failed(path: &Path, error: impl Into<redb::Error>) -> VolumeError {
    VolumeError::Tables { path: path.to_owned(), source: Box::new(error.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(dir: &Path) -> Tables {
        Tables::open(&dir.join("tables.redb")).expect("the disk has room")
    }

    fn set(tables: &mut Tables, name: &[u8], value: &[u8], moment: u64) {
        tables.set(key::entry(1, name), value, Hlc(moment), true).expect("the tables work");
    }

    fn write(tables: &mut Tables) {
        tables.settle().expect("something has changed").write(true).expect("the disk has room");
        tables.settled().expect("the tables work");
    }

    #[test]
    fn former_values_are_found_wherever_they_are() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tables = tables(dir.path());
        set(&mut tables, b"a", b"1", 10);
        write(&mut tables);
        set(&mut tables, b"a", b"2", 20);
        set(&mut tables, b"ab", b"x", 25);
        write(&mut tables);
        tables.remove(key::entry(1, b"a"), Hlc(30)).expect("the tables work");
        let a = key::entry(1, b"a");
        for (moment, value) in [
            (9, None),
            (10, Some("1")),
            (19, Some("1")),
            (20, Some("2")),
            (29, Some("2")),
            (30, None),
        ] {
            let found = tables.get_at(&a, Hlc(moment)).expect("the tables work");
            assert_eq!(found.as_deref(), value.map(str::as_bytes), "at {moment}");
        }
        assert_eq!(tables.get(&a).expect("the tables work"), None);
        let names =
            |moment| tables.all_at(&key::entries(1), Hlc(moment)).expect("the tables work").len();
        assert_eq!([5, 10, 25, 30].map(names), [0, 1, 2, 1]);
        let past = tables.past(&a).expect("the tables work");
        assert_eq!(
            past.iter().map(|(from, to, _)| (from.0, to.0)).collect::<Vec<_>>(),
            [(10, 20), (20, 30)]
        );
    }

    #[test]
    fn the_file_can_be_opened_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tables = tables(dir.path());
        set(&mut tables, b"a", b"1", 10);
        write(&mut tables);
        set(&mut tables, b"b", b"1", 10);
        drop(tables.settle().expect("something has changed"));
        tables.unsettle();
        tables.reopen().expect("the file is there");
        let has = |tables: &Tables, name: &[u8]| {
            tables.get(&key::entry(1, name)).expect("the tables work").is_some()
        };
        assert!(has(&tables, b"a") && has(&tables, b"b"));
        write(&mut tables);
        tables.close();
        assert!(tables.get(&key::entry(1, b"a")).is_err());
        tables.reopen().expect("the file is there");
        assert!(has(&tables, b"a") && has(&tables, b"b"));
    }

    #[test]
    fn a_reader_without_a_lock_sees_what_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tables = tables(dir.path());
        let has = |tables: &Tables, name: &[u8]| {
            tables.get(&key::entry(1, name)).expect("the tables work").is_some()
        };
        set(&mut tables, b"a", b"1", 10);
        let first = tables.as_now().expect("the tables work");
        set(&mut tables, b"b", b"1", 20);
        let second = tables.as_now().expect("the tables work");
        tables.remove(key::entry(1, b"a"), Hlc(30)).expect("the tables work");
        write(&mut tables);
        set(&mut tables, b"c", b"1", 40);
        let all = |tables: &Tables| [b"a", b"b", b"c"].map(|name| has(tables, name));
        assert_eq!(all(&first), [true, false, false]);
        assert_eq!(all(&second), [true, true, false]);
        assert_eq!(all(&tables), [false, true, true]);
        for _ in 0..100 {
            set(&mut tables, b"d", b"1", 50);
            drop(tables.as_now().expect("the tables work"));
        }
        assert_eq!(tables.frozen.len(), 1, "what nobody reads is one layer");
    }

    #[test]
    fn pages_are_short_wherever_the_rows_are() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tables = tables(dir.path());
        let names: Vec<Vec<u8>> = (0..3 * PAGE_ROWS).map(|it| format!("{it:06}").into()).collect();
        for (at, name) in names.iter().enumerate() {
            set(&mut tables, name, b"1", 10);
            if at == PAGE_ROWS / 2 {
                write(&mut tables);
            }
        }
        tables.remove(key::entry(1, &names[7]), Hlc(30)).expect("the tables work");
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let (rows, next) =
                tables.page(&key::entries(1), after.as_ref()).expect("the tables work");
            assert!(rows.len() <= 2 * PAGE_ROWS);
            found.extend(rows.into_iter().map(|row| key::name(&row.key).to_vec()));
            after = next;
            if after.is_none() {
                break;
            }
        }
        let wanted: Vec<_> = names.iter().filter(|name| **name != names[7]).cloned().collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_batch_that_fails_is_not_lost() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut tables = tables(dir.path());
        set(&mut tables, b"a", b"1", 10);
        set(&mut tables, b"b", b"1", 10);
        let _unwritten = tables.settle().expect("something has changed");
        set(&mut tables, b"a", b"2", 20);
        assert!(tables.settle().is_none());
        tables.unsettle();
        write(&mut tables);
        let value = |name: &[u8]| tables.get(&key::entry(1, name)).expect("the tables work");
        assert_eq!(
            (value(b"a").as_deref(), value(b"b").as_deref()),
            (Some(b"2".as_slice()), Some(b"1".as_slice()))
        );
    }
}
