//! The logs of other nodes' events, one directory each: `foreign/AUTHOR/`, with the statement whose they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use worknode::history::{Author, Summary};

use super::super::error::VolumeError;
use super::super::row::Row;
use super::batch::{Batch, Refused};
use super::statement::Statement;
use crate::log::{BootId, Events, Log, LogError};
use crate::whole;

/// The files beside the segments of a log.
const STATEMENT: &str = "statement";
const FORK: &str = "fork";
/// What the name of a damaged log ends with. It is fetched again from others.
const DAMAGED: &str = "damaged";

/// Most authors whose events one node may have stated to be its own: it gets another one with a new state directory.
const AUTHORS_OF_A_NODE_MAX: usize = 16;

/// The logs of all other authors.
#[derive(Debug)]
pub(in crate::volume) struct Foreigners {
    dir: PathBuf,
    boot: BootId,
    /// Whose the events of this volume are.
    pub(super) own: RwLock<Option<Statement>>,
    logs: RwLock<BTreeMap<Author, Arc<Foreign>>>,
}

/// The log of one other author.
#[derive(Debug)]
pub(in crate::volume) struct Foreign {
    pub(in crate::volume) author: Author,
    pub(super) statement: Statement,
    dir: PathBuf,
    pub(super) log: Log,
    /// Whether the author has signed two histories.
    is_forked: AtomicBool,
    handed: Mutex<Handed>,
}

/// What the tables were given of an author's events. Held while more is given, so that it is in order.
#[derive(Debug, Default)]
pub(super) struct Handed {
    /// The last event.
    pub(super) last: u64,
    /// Whether it was told that the next one is from the future.
    pub(super) is_told: bool,
}

impl Foreigners {
    /// Opens the logs. `applied` says which events of an author the tables have.
    pub(in crate::volume) fn open(
        dir: &Path,
        boot: BootId,
        applied: impl Fn(Author) -> u64,
    ) -> Result<Self, VolumeError> {
        let made = super::super::dirs::make(dir);
        made.map_err(VolumeError::io("create", dir))?;
        let mut logs = BTreeMap::new();
        let listed = fs::read_dir(dir).map_err(VolumeError::io("list", dir))?;
        for entry in listed {
            let dir = entry.map_err(VolumeError::io("list", dir))?.path();
            let Some(statement) = read_statement(&dir)? else { continue };
            let author = statement.author();
            logs.insert(author, Arc::new(Foreign::open(dir, boot, statement, applied(author))?));
        }
        Ok(Self { dir: dir.to_owned(), boot, own: RwLock::default(), logs: RwLock::new(logs) })
    }

    /// Returns the log of an author.
    pub(in crate::volume) fn get(&self, author: Author) -> Option<Arc<Foreign>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).get(&author).cloned()
    }

    /// Returns all logs.
    pub(in crate::volume) fn all(&self) -> Vec<Arc<Foreign>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns the log of the author whom a statement is of. A new one begins.
    pub(super) fn of(&self, statement: &Statement) -> Result<Arc<Foreign>, Refused> {
        let author = statement.author();
        if let Some(known) = self.get(author) {
            return Ok(known);
        }
        statement.check().map_err(|_| Refused::Stranger)?;
        let mut logs = self.logs.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = logs.get(&author) {
            return Ok(Arc::clone(known));
        }
        let of_node = logs.values().filter(|it| it.statement.node == statement.node).count();
        if of_node >= AUTHORS_OF_A_NODE_MAX {
            return Err(Refused::Crowd);
        }
        let dir = self.dir.join(hex(author));
        let new = Foreign::begin(dir, self.boot, statement)?;
        Ok(Arc::clone(logs.entry(author).or_insert(Arc::new(new))))
    }

    pub(super) fn summary(&self) -> Summary {
        let known = self.all().into_iter().map(|it| (it.author, it.log.shared()));
        Summary(known.filter(|(_, last)| *last > 0).collect())
    }

    /// Makes all logs durable.
    pub(in crate::volume) fn sync(&self) -> Result<(), VolumeError> {
        self.all().iter().try_for_each(|it| Ok(it.log.sync()?))
    }
}

impl Foreign {
    /// Returns the log itself.
    pub(in crate::volume) fn log(&self) -> &Log {
        &self.log
    }

    fn begin(dir: PathBuf, boot: BootId, statement: &Statement) -> Result<Self, VolumeError> {
        super::super::dirs::make(&dir).map_err(VolumeError::io("create", &dir))?;
        let path = dir.join(STATEMENT);
        let bytes = statement.encode()?;
        whole::write(&path, &bytes).map_err(VolumeError::io("write", &path))?;
        Self::open(dir, boot, statement.clone(), 0)
    }

    fn open(
        dir: PathBuf,
        boot: BootId,
        statement: Statement,
        applied: u64,
    ) -> Result<Self, VolumeError> {
        let open = |known| Log::open_foreign(&dir, boot, statement.events, known);
        let log = match open(applied) {
            Err(error @ LogError::Damaged { .. }) => {
                tracing::error!(%error, "the log of another node's events is damaged: fetching it again");
                set_aside(&dir)?;
                open(0)
            }
            opened => opened,
        };
        Ok(Self {
            author: statement.author(),
            is_forked: AtomicBool::new(dir.join(FORK).exists()),
            handed: Mutex::new(Handed { last: applied, is_told: false }),
            log: log?.0,
            statement,
            dir,
        })
    }

    /// Returns the events from a number on.
    pub(in crate::volume) fn read_from(&self, seq: u64) -> Result<Events, VolumeError> {
        Ok(self.log.read_from(seq)?)
    }

    pub(super) fn handed(&self) -> MutexGuard<'_, Handed> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_forked(&self) -> bool {
        self.is_forked.load(Ordering::Relaxed)
    }

    /// Takes nothing more of this author, and keeps what proves the fork.
    pub(super) fn quarantine(&self, evidence: &Batch) {
        self.is_forked.store(true, Ordering::Relaxed);
        let path = self.dir.join(FORK);
        let kept = evidence.encode().map(|bytes| whole::write(&path, &bytes));
        tracing::error!(
            author = hex(self.author),
            node = %evidence.statement.node,
            evidence = %path.display(),
            is_kept = matches!(kept, Ok(Ok(()))),
            "a node has made two different histories, as a copy of its state directory does: nothing more of it is \
             taken. Remove it from the cluster, and join it again with a new state directory"
        );
    }
}

/// Reads the statement in a log's directory; none if it is not whole, so that the log is fetched again.
fn read_statement(dir: &Path) -> Result<Option<Statement>, VolumeError> {
    let path = dir.join(STATEMENT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(VolumeError::io("read", &path)(error)),
    };
    let statement = Statement::decode(&bytes).ok();
    let is_here =
        |it: &Statement| dir.file_name().is_some_and(|name| name == hex(it.author()).as_str());
    Ok(statement.filter(|it| it.check().is_ok() && is_here(it)))
}

/// Moves the segments of a log aside.
fn set_aside(dir: &Path) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::io("set aside", dir)(source);
    let aside = dir.join(DAMAGED);
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => super::super::dirs::make(&aside).map_err(failed)?,
    }
    for entry in fs::read_dir(dir).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_name().as_encoded_bytes().ends_with(b".log") {
            fs::rename(entry.path(), aside.join(entry.file_name())).map_err(failed)?;
        }
    }
    Ok(())
}

fn hex(author: Author) -> String {
    author.0.iter().map(|byte| format!("{byte:02x}")).collect()
}
