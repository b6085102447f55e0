//! Programs that write until the file system goes away, and know what they were promised.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use super::dice::Dice;

const WORKERS: u64 = 3;
const FILES: usize = 6;
const BYTES_MAX: u64 = 100_000;
/// Length of a record in a file that is only appended to.
const RECORD_BYTES: usize = 100;
const HEAD_BYTES: usize = 16;

/// What went away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crash {
    /// The process that serves the mount.
    Process,
    /// The machine.
    Machine,
}

/// The versions of a file that is replaced by rename.
#[derive(Debug, Default, Clone)]
struct Known {
    tried: u64,
    acknowledged: u64,
    durable: u64,
}

/// A program with a directory of its own.
pub(crate) struct Worker {
    dir: PathBuf,
    dice: Dice,
    files: Vec<Known>,
    records: Known,
}

/// Workers at work.
pub(crate) struct Load {
    threads: Vec<JoinHandle<Worker>>,
    done: Receiver<()>,
}

impl Load {
    /// Starts programs. They are new ones if there are none of an earlier load.
    pub(crate) fn start(root: &Path, dice: &mut Dice, workers: Vec<Worker>) -> Self {
        let (done_tx, done) = channel();
        let workers = if workers.is_empty() { Worker::all(root, dice) } else { workers };
        let start = |mut worker: Worker| {
            let done_tx = done_tx.clone();
            std::thread::spawn(move || {
                while worker.step(&done_tx).is_ok() {}
                worker
            })
        };
        Self { threads: workers.into_iter().map(start).collect(), done }
    }

    /// Waits until so many things were acknowledged.
    pub(crate) fn wait(&self, count: u64) {
        for _ in 0..count {
            self.done.recv().expect("the programs run until the file system goes away");
        }
    }

    /// Returns the programs once the file system has gone away.
    pub(crate) fn end(self) -> Vec<Worker> {
        self.threads.into_iter().map(|thread| thread.join().expect("it ends")).collect()
    }
}

impl Worker {
    fn all(root: &Path, dice: &mut Dice) -> Vec<Self> {
        let new = |number: u64| Self {
            dir: root.join(number.to_string()),
            dice: Dice::of(dice.seed + number),
            files: vec![Known::default(); FILES],
            records: Known::default(),
        };
        (0..WORKERS).map(new).collect()
    }

    fn path(&self, file: usize) -> PathBuf {
        self.dir.join(format!("f{file}"))
    }

    fn step(&mut self, done: &Sender<()>) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        if self.dice.below(3) == 0 {
            self.append()?
        } else {
            self.replace()?
        }
        // Nobody waits any more.
        let _ = done.send(());
        Ok(())
    }

    /// Replaces a file as careful programs do, and as careless ones do.
    fn replace(&mut self) -> io::Result<()> {
        let file = self.dice.index(FILES);
        let (path, new) = (self.path(file), self.dir.join(format!("new{file}")));
        self.files[file].tried += 1;
        let version = self.files[file].tried;
        let mut out = File::create(&new)?;
        out.write_all(&content(version, self.dice.below(BYTES_MAX)))?;
        let (is_synced, stays_open) = (self.dice.below(2) == 0, self.dice.below(2) == 0);
        if is_synced {
            out.sync_all()?;
        }
        let open = stays_open.then_some(out);
        fs::rename(&new, &path)?;
        self.files[file].acknowledged = version;
        match open {
            Some(out) if self.dice.below(2) == 0 => out.sync_all()?,
            _ if self.dice.below(3) == 0 => File::open(&self.dir)?.sync_all()?,
            _ => return Ok(()),
        }
        self.files[file].durable = version;
        Ok(())
    }

    fn append(&mut self) -> io::Result<()> {
        let mut out = File::options().create(true).append(true).open(self.dir.join("records"))?;
        for _ in 0..=self.dice.below(20) {
            out.write_all(&record(self.records.acknowledged))?;
            self.records.acknowledged += 1;
        }
        if self.dice.below(2) == 0 {
            rustix::fs::fdatasync(out.as_fd())?;
            self.records.durable = self.records.acknowledged;
        }
        Ok(())
    }

    /// Checks what is there after a crash, and takes note of it.
    pub(crate) fn check(&mut self, crash: Crash) {
        for file in 0..FILES {
            let found = fs::read(self.path(file));
            let found = found.map_or(0, |bytes| version(&bytes, &self.path(file)));
            let known = &mut self.files[file];
            let least = if crash == Crash::Process { known.acknowledged } else { known.durable };
            let is_kept = (least..=known.tried).contains(&found);
            assert!(
                is_kept,
                "{:?} {crash:?}: found {found} of {known:?}",
                self.dir.join(format!("f{file}"))
            );
            (known.acknowledged, known.durable) = (found, known.durable.min(found));
        }
        let found = fs::read(self.dir.join("records")).unwrap_or_default();
        let known = &mut self.records;
        let least = if crash == Crash::Process { known.acknowledged } else { known.durable };
        let whole = (0..).zip(found.chunks_exact(RECORD_BYTES));
        let count = whole.take_while(|(number, bytes)| *bytes == record(*number)).count() as u64;
        assert!(
            count >= least,
            "{:?} {crash:?}: {count} records of {known:?}, {} bytes",
            self.dir,
            found.len()
        );
        // What was not acknowledged is cut off, as a database does.
        if let Ok(out) = File::options().write(true).open(self.dir.join("records")) {
            out.set_len(count * RECORD_BYTES as u64).expect("the disk has room");
            out.sync_all().expect("the disk has room");
        }
        *known = Known { tried: count, acknowledged: count, durable: count };
    }
}

fn record(number: u64) -> Vec<u8> {
    format!("{number:0RECORD_BYTES$}").into_bytes()
}

/// Returns the content of a version, which says how long it is.
fn content(version: u64, bytes: u64) -> Vec<u8> {
    let mut dice = Dice::of(version);
    let mut all = [version.to_le_bytes(), bytes.to_le_bytes()].concat();
    all.extend((0..bytes).map(|_| u8::try_from(dice.below(256)).unwrap_or(0)));
    all
}

/// Returns the version of a content, which must be whole.
fn version(found: &[u8], path: &Path) -> u64 {
    assert!(found.len() >= HEAD_BYTES, "{} is torn: {} bytes", path.display(), found.len());
    let number = |at: usize| u64::from_le_bytes(found[at..at + 8].try_into().expect("eight bytes"));
    let (version, bytes) = (number(0), number(8));
    assert!(found == content(version, bytes.min(BYTES_MAX)), "{} is torn", path.display());
    version
}
