//! Backing files: the content of files that are being written, or are not packets yet, as ordinary files.
//!
//! Their names are `open/INO.GENERATION`: a file whose content is replaced as a whole, while nobody has it open, gets a new one, and the
//! former content still becomes a version.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{Stat, Timestamps, fstat, futimens};
use worknode::history::Nanos;

use super::lease;
use super::node::Node;
use super::spares::Spares;
use crate::packet::Manifest;

/// Only the agent may reach the content by the backing file's name.
const MODE: u32 = 0o600;
const SECOND: i64 = 1_000_000_000;

/// The end of the name while the content is being filled in; such a file is deleted after a crash.
const PART: &str = ".part";
/// The end of the name until the content was made durable once: after a power cut such a file may have anything in it.
const VOLATILE: &str = ".new";
/// The end of the name, before an event's number, once the content is that of the tables. Later events may change what the file
/// is, so after a crash it does not count, unless the event is lost.
const DONE: &str = ".done-";

/// An open backing file.
#[derive(Debug)]
pub(super) struct Backing {
    pub(super) file: File,
    state: Mutex<Condition>,
}

#[derive(Debug)]
struct Condition {
    path: PathBuf,
    /// What the content had when it was last known to be that of the tables; none if it never was.
    clean: Option<Mark>,
    /// What it had when it was last made packets while others had it open. They may have written it since without a trace: the
    /// times of a mapped file change only when a page is written for the first time.
    taken: Option<Mark>,
    /// It waits for another try to make packets of it.
    is_retried: bool,
    /// When it was made or found.
    since: Instant,
    /// The name will be removed.
    is_doomed: bool,
}

impl Condition {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            clean: None,
            taken: None,
            is_retried: false,
            since: Instant::now(),
            is_doomed: false,
        }
    }
}

/// What changes when a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    bytes: i64,
    modified: (i64, u64),
    changed: (i64, u64),
}

/// The name of a backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name {
    pub(super) ino: u64,
    pub(super) generation: u64,
    /// Whether it was never made durable.
    pub(super) is_volatile: bool,
    /// The event that has made it unneeded.
    pub(super) done: Option<u64>,
}

impl Name {
    /// Reads a name. Names of unfinished files are none.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (name, done) = match name.split_once(DONE) {
            Some((name, event)) => (name, Some(event.parse().ok()?)),
            None => (name, None),
        };
        let (name, is_volatile) = match name.strip_suffix(VOLATILE) {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (ino, generation) = name.split_once('.')?;
        let (ino, generation) = (ino.parse().ok()?, generation.parse().ok()?);
        Some(Self { ino, generation, is_volatile, done })
    }
}

impl Backing {
    /// Makes an empty backing file, of a spare one if there is any.
    pub(super) fn new(dir: &Path, ino: u64, generation: u64, spares: &Spares) -> io::Result<Self> {
        let path = dir.join(format!("{ino}.{generation}{VOLATILE}"));
        match spares.take(&path) {
            Some(file) => Ok(Self { file, state: Mutex::new(Condition::new(path)) }),
            None => Self::make(path),
        }
    }

    /// Makes one that counts only when it is placed.
    pub(super) fn new_part(dir: &Path, ino: u64, generation: u64) -> io::Result<Self> {
        Self::make(dir.join(format!("{ino}.{generation}{PART}")))
    }

    fn make(path: PathBuf) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create_new(true).mode(MODE).open(&path)?;
        Ok(Self { file, state: Mutex::new(Condition::new(path)) })
    }

    /// Opens a backing file of an earlier run.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(&path)?;
        Ok(Self { file, state: Mutex::new(Condition::new(path)) })
    }

    /// Gives a filled file its name.
    pub(super) fn place(&self) -> io::Result<()> {
        self.rename(PART, VOLATILE)?;
        self.mark_clean()
    }

    /// Deletes a file that is not needed. A name that is left is deleted at the next start.
    pub(super) fn discard(&self) {
        let _ = std::fs::remove_file(self.path());
    }

    /// Makes the content durable, so that it counts after a power cut.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        if self.is_volatile() {
            let before = self.mark()?;
            self.rename(VOLATILE, "")?;
            self.renamed(before)?;
            if let Some(dir) = self.path().parent() {
                File::open(dir)?.sync_all()?;
            }
        }
        Ok(())
    }

    /// Tells whether the content was never made durable.
    fn is_volatile(&self) -> bool {
        self.lock().path.to_string_lossy().ends_with(VOLATILE)
    }

    /// Tells whether a power cut would lose what was written a while ago.
    pub(super) fn is_overdue(&self, after: Duration) -> bool {
        self.lock().since.elapsed() >= after && self.is_volatile()
    }

    /// A new name changes a time of the content, which is no write.
    fn renamed(&self, before: Mark) -> io::Result<()> {
        let now = self.mark()?;
        if (now.bytes, now.modified) != (before.bytes, before.modified) {
            return Ok(());
        }
        let mut state = self.lock();
        let of = |mark: Option<Mark>| mark.map(|mark| if mark == before { now } else { mark });
        (state.clean, state.taken) = (of(state.clean), of(state.taken));
        drop(state);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        if state.is_doomed {
            return Ok(());
        }
        let name = state.path.to_string_lossy();
        let Some(stem) = name.strip_suffix(from) else { return Ok(()) };
        let path = PathBuf::from(format!("{stem}{to}"));
        std::fs::rename(&state.path, &path)?;
        state.path = path;
        Ok(())
    }

    /// Notes that the tables have the content since an event, or anything newer. Returns the name, which is to be removed after
    /// the next barrier.
    pub(super) fn finish(&self, event: u64) -> io::Result<PathBuf> {
        self.rename("", &format!("{DONE}{event}"))?;
        Ok(self.doom())
    }

    /// Counts again, since the event by which it was not needed is lost.
    pub(super) fn revive(&self) -> io::Result<()> {
        let name = self.path();
        match name.to_string_lossy().rfind(DONE) {
            Some(at) => self.rename(&name.to_string_lossy()[at..], ""),
            None => Ok(()),
        }
    }

    /// Keeps the name as it is from now on. Returns it.
    pub(super) fn doom(&self) -> PathBuf {
        let mut state = self.lock();
        state.is_doomed = true;
        state.path.clone()
    }

    pub(super) fn path(&self) -> PathBuf {
        self.lock().path.clone()
    }

    /// Fills it with the content that packets have.
    pub(super) fn fill(
        &self,
        manifest: &Manifest,
        modified: Nanos,
        read: impl Fn(crate::packet::PacketRef) -> io::Result<Vec<u8>>,
    ) -> io::Result<()> {
        self.file.set_len(manifest.bytes())?;
        for (at, packet) in manifest.covering(0, u64::MAX) {
            self.file.write_all_at(&read(packet)?, at)?;
        }
        self.set_modified(modified)
    }

    /// Gives it the content of a file without data.
    pub(super) fn hole(&self, node: &Node) -> io::Result<()> {
        self.file.set_len(node.content.bytes)?;
        self.set_modified(node.modified)?;
        self.mark_clean()
    }

    /// Sets the time of its last modification.
    pub(super) fn set_modified(&self, modified: Nanos) -> io::Result<()> {
        let time = timespec(modified);
        futimens(self.file.as_fd(), &Timestamps { last_access: time, last_modification: time })?;
        Ok(())
    }

    pub(super) fn stat(&self) -> io::Result<Stat> {
        Ok(fstat(self.file.as_fd())?)
    }

    /// Notes that the content is that of the tables.
    pub(super) fn mark_clean(&self) -> io::Result<()> {
        let mark = self.mark()?;
        self.set_clean(mark);
        Ok(())
    }

    /// Notes that the content was that of the tables when it had this mark, and that nobody else had it open before.
    pub(super) fn set_clean(&self, mark: Mark) {
        self.lock().clean = Some(mark);
    }

    /// Notes that the tables have the content of this mark, or an older one.
    pub(super) fn set_taken(&self, mark: Mark) {
        self.lock().taken = Some(mark);
    }

    /// Tells whether it has changed, as far as its times say, since packets were made of it.
    pub(super) fn has_news(&self) -> bool {
        let taken = self.lock().taken;
        self.is_dirty() && (taken.is_none() || self.mark().ok() != taken)
    }

    /// Tells whether packets were made of it when it had a mark.
    pub(super) fn was_taken(&self, mark: Mark) -> bool {
        self.lock().taken == Some(mark)
    }

    /// Tells whether it still has a mark: then it has not changed, as far as its times say.
    pub(super) fn is_at(&self, mark: Mark) -> bool {
        self.mark().is_ok_and(|now| now == mark)
    }

    /// Tells whether nobody else can read or write it: no program has it open or mapped, also not through a former mount.
    pub(super) fn is_alone(&self) -> bool {
        match lease::is_alone(&self.file) {
            Ok(is_alone) => is_alone,
            // Without leases the kernel never gets to use the file directly.
            Err(error) => matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)),
        }
    }

    /// Notes whether it waits for another try; returns what was noted before.
    pub(super) fn set_retried(&self, is_retried: bool) -> bool {
        std::mem::replace(&mut self.lock().is_retried, is_retried)
    }

    /// Opens the content once more, with an offset of its own.
    pub(super) fn reopen(&self) -> io::Result<File> {
        // The name may change at any time.
        File::open(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Tells whether it was, or may have been, written since it was clean.
    pub(super) fn is_dirty(&self) -> bool {
        let clean = self.lock().clean;
        clean.is_none() || self.mark().ok() != clean
    }

    pub(super) fn mark(&self) -> io::Result<Mark> {
        let stat = self.stat()?;
        Ok(Mark {
            bytes: stat.st_size,
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Condition> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the time of a backing file's last modification.
pub(super) fn modified(stat: &Stat) -> Nanos {
    let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
    stat.st_mtime.saturating_mul(SECOND).saturating_add(nanos)
}

fn timespec(nanos: Nanos) -> rustix::fs::Timespec {
    rustix::fs::Timespec { tv_sec: nanos.div_euclid(SECOND), tv_nsec: nanos.rem_euclid(SECOND) }
}
