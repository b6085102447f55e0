//! `oswalk-order`: whether programs on several nodes see each other's files in order, all in one volume. Programs write growing
//! numbers, in place and by rename; others on all nodes open and read them. Prints what was done, and how late.
//!
//! Stale is a number that is smaller than what a program of the same node had read before the `open`, or, under a lock, other
//! than the last one that was written under it. Late is a number although a greater one was closed before the `open`, which is
//! usual for some milliseconds. The directory of a node in another mount namespace is `/proc/TASK/root/…`.
#![expect(clippy::print_stdout, reason = "a program of the scripts: the figures are its output")]
#![expect(clippy::print_stderr, reason = "a program of the scripts: what failed is a message")]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

const USAGE: &str = "usage: oswalk-order OPERATIONS DIR DIR…";
/// Files that each node writes, half of them in place.
const FILES: usize = 4;
/// Files that all nodes write, each under a lock of its own.
const LOCKED: usize = 4;
/// Readers on each node.
const READERS: usize = 2;
/// Time between the rounds of writers, so that others see most of what they write.
const REST: Duration = Duration::from_millis(5);
/// Time between the rounds of readers, so that the agents have time for what they see.
const READ_REST: Duration = Duration::from_millis(20);
/// A file that has no number for so long has lost it; a writer that waits for a processor takes less.
const PART_MAX: Duration = Duration::from_secs(1);
/// After this, a file that is to be there is missing.
const THERE_MAX: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let parsed = arguments.split_first().and_then(|(count, dirs)| {
        let dirs: Vec<PathBuf> = dirs.iter().map(PathBuf::from).collect();
        Some((count.parse().ok()?, dirs)).filter(|(_, dirs)| dirs.len() > 1)
    });
    let Some((operations, dirs)) = parsed else {
        eprintln!("oswalk-order: {USAGE}");
        return ExitCode::FAILURE;
    };
    match check(operations, &dirs) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(stale) => {
            eprintln!("oswalk-order: {stale} stale reads");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("oswalk-order: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What all threads share.
struct World<'a> {
    dirs: &'a [PathBuf],
    files: Vec<Numbers>,
    /// The last number written under each lock.
    locked: [AtomicU64; LOCKED],
    left: AtomicU64,
    stale: AtomicU64,
    locks: AtomicU64,
    writes: AtomicU64,
    reads: AtomicU64,
    /// Reads while a file was rewritten in place, which found nothing in it, or no number.
    torn: AtomicU64,
    late: Mutex<Vec<Duration>>,
}

/// A file with a growing number.
struct Numbers {
    name: String,
    writer: usize,
    by_rename: bool,
    /// When each number was closed.
    closed: Mutex<Vec<Instant>>,
    /// The greatest number that was read on each node.
    seen: Vec<AtomicU64>,
}

fn check(operations: u64, dirs: &[PathBuf]) -> io::Result<u64> {
    let numbers = |writer: usize, number: usize| Numbers {
        name: format!("of-{writer}-{number}"),
        writer,
        by_rename: number % 2 == 1,
        closed: Mutex::default(),
        seen: dirs.iter().map(|_| AtomicU64::new(0)).collect(),
    };
    let nodes = 0..dirs.len();
    let files = nodes.clone().flat_map(|node| (0..FILES).map(move |number| numbers(node, number)));
    let world = World {
        dirs,
        files: files.collect(),
        locked: Default::default(),
        left: AtomicU64::new(operations),
        stale: AtomicU64::new(0),
        locks: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        reads: AtomicU64::new(0),
        torn: AtomicU64::new(0),
        late: Mutex::default(),
    };
    world.prepare()?;
    let began = Instant::now();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for node in nodes {
            let world = &world;
            threads.push(scope.spawn(move || world.write(node)));
            threads.push(scope.spawn(move || world.count(node)));
            let readers = (0..READERS).map(|_| scope.spawn(move || world.read(node)));
            threads.extend(readers);
        }
        threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;
    world.say(began.elapsed());
    Ok(world.stale.load(SeqCst))
}

impl World<'_> {
    /// Makes all files, and waits until all nodes have them.
    fn prepare(&self) -> io::Result<()> {
        for file in &self.files {
            fs::write(self.dirs[file.writer].join(&file.name), number(0))?;
            lock(&file.closed).push(Instant::now());
        }
        for lock in 0..LOCKED {
            fs::write(self.dirs[0].join(format!("lock-{lock}")), "")?;
            fs::write(self.dirs[0].join(format!("locked-{lock}")), number(0))?;
        }
        let names = self.files.iter().map(|file| file.name.clone());
        let names: Vec<_> = names.chain((0..LOCKED).map(|it| format!("locked-{it}"))).collect();
        let began = Instant::now();
        for path in self.dirs.iter().flat_map(|dir| names.iter().map(|name| dir.join(name))) {
            while read(&path)?.is_none() {
                if began.elapsed() > THERE_MAX {
                    return Err(io::Error::other(format!("{} is missing", path.display())));
                }
                thread::sleep(REST);
            }
        }
        Ok(())
    }

    /// Takes one of the operations that are left.
    fn takes(&self) -> bool {
        self.left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn write(&self, node: usize) -> io::Result<()> {
        for next in 1.. {
            for file in self.files.iter().filter(|file| file.writer == node) {
                if !self.takes() {
                    return Ok(());
                }
                let path = self.dirs[node].join(&file.name);
                if file.by_rename {
                    let new = path.with_extension("new");
                    fs::write(&new, number(next))?;
                    fs::rename(&new, &path)?;
                } else {
                    fs::write(&path, number(next))?;
                }
                lock(&file.closed).push(Instant::now());
                self.writes.fetch_add(1, SeqCst);
            }
            thread::sleep(REST);
        }
        Ok(())
    }

    fn read(&self, node: usize) -> io::Result<()> {
        loop {
            for file in &self.files {
                if !self.takes() {
                    return Ok(());
                }
                let before = file.seen[node].load(SeqCst);
                let opened = Instant::now();
                let path = self.dirs[node].join(&file.name);
                let found = read(&path)?;
                self.reads.fetch_add(1, SeqCst);
                let Some(found) = found else {
                    self.torn.fetch_add(1, SeqCst);
                    self.check_whole(&path, file.by_rename)?;
                    continue;
                };
                file.seen[node].fetch_max(found, SeqCst);
                if found < before {
                    self.stale.fetch_add(1, SeqCst);
                    eprintln!("{} on node {node}: {found} after {before}", file.name);
                }
                let next = usize::try_from(found).unwrap_or(usize::MAX).saturating_add(1);
                let newer = lock(&file.closed).get(next).copied();
                let late = newer.and_then(|closed| opened.checked_duration_since(closed));
                lock(&self.late).extend(late);
            }
            thread::sleep(READ_REST);
        }
    }

    /// Checks that a file without a number has one soon, and that it is not one that was written before it got its name.
    fn check_whole(&self, path: &Path, by_rename: bool) -> io::Result<()> {
        let begun = Instant::now();
        let mut is_whole = false;
        while !is_whole && begun.elapsed() < PART_MAX {
            is_whole = matches!(read(path), Ok(Some(_)));
        }
        if by_rename || !is_whole {
            self.stale.fetch_add(1, SeqCst);
            eprintln!("{} has no number: {:?}", path.display(), fs::read(path)?);
        }
        Ok(())
    }

    /// Counts on, under locks that all nodes take.
    fn count(&self, node: usize) -> io::Result<()> {
        loop {
            for (number_of, last) in self.locked.iter().enumerate() {
                if !self.takes() {
                    return Ok(());
                }
                let dir = &self.dirs[node];
                let held = File::open(dir.join(format!("lock-{number_of}")))?;
                flock(&held, FlockOperation::LockExclusive)?;
                let path = dir.join(format!("locked-{number_of}"));
                let (found, last_written) = (read(&path)?, last.load(SeqCst));
                if found != Some(last_written) {
                    self.stale.fetch_add(1, SeqCst);
                    eprintln!(
                        "{} on node {node}: {found:?} instead of {last_written}",
                        path.display()
                    );
                }
                fs::write(&path, number(last_written + 1))?;
                last.store(last_written + 1, SeqCst);
                drop(held);
                self.locks.fetch_add(1, SeqCst);
            }
        }
    }

    fn say(&self, took: Duration) {
        let count = |counter: &AtomicU64| counter.load(SeqCst);
        let (writes, reads, locks) = (count(&self.writes), count(&self.reads), count(&self.locks));
        println!(
            "{writes} writes, {reads} reads, {locks} times under a lock in {:.1} s",
            took.as_secs_f64()
        );
        println!(
            "{} stale, {} torn while rewritten in place",
            count(&self.stale),
            count(&self.torn)
        );
        let mut late = lock(&self.late);
        late.sort_unstable();
        let ms = |part: usize| {
            let at = late.get(late.len() * part / 100).or(late.last());
            at.map_or(0.0, |late| late.as_secs_f64() * 1000.0)
        };
        println!(
            "{} reads late: by p50 {:.2} p99 {:.2} max {:.2} ms",
            late.len(),
            ms(50),
            ms(99),
            ms(100)
        );
    }
}

/// Returns the number in a file, or none if the file is missing or has none.
fn read(path: &Path) -> io::Result<Option<u64>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = [0; 21];
    let length = file.read_at(&mut text, 0)?;
    if length == 0 {
        return Ok(None);
    }
    // Neither content, while a file is rewritten in place.
    Ok(std::str::from_utf8(&text[..length]).ok().and_then(|text| text.trim().parse().ok()))
}

/// Returns a number as text, always of the same length.
fn number(number: u64) -> String {
    format!("{number:020}\n")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
