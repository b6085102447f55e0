//! A program of a world, which changes files on one node, and remembers what it wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, RenameFlags, XattrFlags, lremovexattr, lsetxattr, renameat_with};
use rustix::io::Errno;

use crate::coherence::Random;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
/// Most components of a path below the world's directory.
pub(crate) const DEPTH_MAX: usize = 3;
/// Mostly what comes with its event; some contents are several packets.
const SMALL_BYTES: usize = 3000;
const LARGE_BYTES: usize = 300_000;
/// A content that its own node replaces sooner may be no version: `docs/semantics.md` says 200 ms, and this machine is busy.
const SOON: Duration = Duration::from_millis(1500);
/// Longest time between two operations, so that events, cuts and kills come in between.
const REST_MS: usize = 12;
/// What any operation on files that others change may answer.
const USUAL: [Errno; 10] = [
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::INVAL,
    Errno::LOOP,
    Errno::NODATA,
    Errno::STALE,
    // A directory has no second name.
    Errno::PERM,
];
/// What a program gets from a killed agent, or for a packet that no node in reach has.
const LOST: [Errno; 3] = [Errno::NOTCONN, Errno::CONNABORTED, Errno::IO];

/// Where a node's mount is, and what its program is doing.
#[derive(Default)]
pub(crate) struct Stand {
    place: Mutex<Place>,
    moved: Condvar,
    steps: AtomicUsize,
    now: Mutex<String>,
}

#[derive(Default)]
struct Place {
    /// None while the agent is dead.
    root: Option<PathBuf>,
    /// How often the agent was killed.
    kills: usize,
    waits: bool,
}

impl Stand {
    pub(crate) fn is_at(&self, root: PathBuf) {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).root = Some(root);
        self.moved.notify_all();
    }

    /// Says, before the agent is killed, that it will be.
    pub(crate) fn is_gone(&self) {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.root = None;
        place.kills += 1;
    }

    pub(crate) fn waits(&self) -> bool {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).waits
    }

    pub(crate) fn steps(&self) -> usize {
        self.steps.load(Ordering::Relaxed)
    }

    /// Returns what the program is doing.
    pub(crate) fn now(&self) -> String {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn kills(&self) -> usize {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).kills
    }

    /// Waits until the agent lives. Returns where its mount is.
    fn root(&self) -> PathBuf {
        let mut place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(root) = place.root.clone() {
                place.waits = false;
                return root;
            }
            place.waits = true;
            place = self.moved.wait(place).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What programs did.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) steps: u64,
    pub(crate) failed: u64,
    /// The digests of all contents that files can have had.
    pub(crate) tried: BTreeSet<String>,
    /// The digest of each content that has to be there, and who wrote it.
    pub(crate) kept: BTreeMap<String, String>,
    /// What should not have happened.
    pub(crate) wrong: Vec<String>,
    /// A line for each operation, with its time, to understand a failure by.
    pub(crate) history: Vec<String>,
}

impl Done {
    pub(crate) fn of_all(each: Vec<Self>) -> Self {
        let mut all = Self::default();
        all.tried.insert(digest(b""));
        for mut one in each {
            all.steps += one.steps;
            all.failed += one.failed;
            all.tried.append(&mut one.tried);
            all.kept.append(&mut one.kept);
            all.wrong.append(&mut one.wrong);
            all.history.append(&mut one.history);
        }
        all.history.sort_unstable();
        all
    }
}

/// A content that was closed.
struct Closed {
    digest: String,
    ino: u64,
    path: PathBuf,
    at: Instant,
}

pub(crate) struct Actor {
    node: &'static str,
    stand: std::sync::Arc<Stand>,
    random: Random,
    /// What was closed a short while ago.
    fresh: Vec<Closed>,
    done: Done,
}

impl Actor {
    pub(crate) fn new(node: &'static str, stand: std::sync::Arc<Stand>, random: Random) -> Self {
        Self { node, stand, random, fresh: Vec::new(), done: Done::default() }
    }

    pub(crate) fn live(mut self, steps: u64) -> Result<Done, String> {
        for step in 0..steps {
            let root = self.stand.root();
            let kills = self.stand.kills();
            let did = self.step(&root, step);
            self.stand.steps.fetch_add(1, Ordering::Relaxed);
            self.done.steps += 1;
            let (now, said) = (now(), self.stand.now());
            self.done.history.push(format!("{now} {said}: {did:?}"));
            if let Err(error) = did {
                self.done.failed += 1;
                let errno = Errno::from_io_error(&error);
                let is_usual = errno.is_some_and(|it| USUAL.contains(&it) || LOST.contains(&it));
                if !is_usual && self.stand.kills() == kills {
                    self.done.wrong.push(format!("{}: {error}", self.stand.now()));
                }
            }
            thread::sleep(Duration::from_millis(self.random.below(REST_MS) as u64));
        }
        Ok(self.done)
    }

    fn path(&mut self, root: &Path) -> PathBuf {
        // Mostly near the top, where most is.
        let depth = 1 + self.random.below(DEPTH_MAX).min(self.random.below(DEPTH_MAX));
        (0..depth).fold(root.to_owned(), |path, _| path.join(NAMES[self.random.below(NAMES.len())]))
    }

    fn says(&self, what: &str, path: &Path) {
        // Without the way to the mount.
        let path = path.to_string_lossy();
        let path = path.rsplit_once("/world").map_or(&*path, |(_, path)| path);
        let said = format!("{} {} {what} | {path}", self.node, self.done.steps);
        *self.stand.now.lock().unwrap_or_else(PoisonError::into_inner) = said;
    }

    fn step(&mut self, root: &Path, step: u64) -> io::Result<()> {
        let path = self.path(root);
        let other = self.path(root);
        let chance = self.random.below(100);
        let what = match chance {
            0..22 => "write",
            22..30 => "save",
            30..44 => "change",
            44..54 => "unlink",
            54..64 => "rename",
            64..68 => "exchange",
            68..80 => "mkdir",
            80..82 => "rmdir",
            82..86 => "link",
            86..89 => "symlink",
            89..93 => "chmod",
            93..96 => "xattr",
            _ => "read",
        };
        self.says(&format!("{what} {}", other.strip_prefix(root).unwrap_or(root).display()), &path);
        match what {
            "write" => self.write(&path, step),
            "save" => {
                let new = root.join(format!("{}~", self.node));
                self.write(&new, step)?;
                self.replaces(&path);
                fs::rename(&new, &path)
            }
            "change" => self.change(&path, step),
            "unlink" => {
                self.replaces(&path);
                fs::remove_file(&path)
            }
            "rename" => {
                self.replaces(&other);
                fs::rename(&path, &other)
            }
            "exchange" => Ok(renameat_with(CWD, &path, CWD, &other, RenameFlags::EXCHANGE)?),
            "mkdir" => fs::create_dir(&path),
            "rmdir" => fs::remove_dir(&path),
            "link" => fs::hard_link(&path, &other),
            "symlink" => symlink(NAMES[self.random.below(NAMES.len())], &path),
            "chmod" => {
                let mode = [0o755, 0o700, 0o711][self.random.below(3)];
                fs::set_permissions(&path, Permissions::from_mode(mode))
            }
            "xattr" if chance.is_multiple_of(2) => {
                Ok(lsetxattr(&path, "user.word", step.to_string().as_bytes(), XattrFlags::empty())?)
            }
            "xattr" => Ok(lremovexattr(&path, "user.word")?),
            _ => fs::read(&path).map(drop),
        }
    }

    /// Returns a content that nobody else writes.
    fn content(&mut self, step: u64) -> Vec<u8> {
        let large = self.random.below(12) == 0;
        let length = self.random.below(if large { LARGE_BYTES } else { SMALL_BYTES });
        let mut bytes = format!("{} {step} {}\n", self.node, self.random.0).into_bytes();
        while bytes.len() < length {
            bytes.extend_from_slice(&(self.random.below(usize::MAX) as u64).to_le_bytes());
        }
        bytes
    }

    /// Writes a new or truncated file.
    fn write(&mut self, path: &Path, step: u64) -> io::Result<()> {
        let content = self.content(step);
        let kills = self.stand.kills();
        // Before the file is opened, since whatever it had is truncated then.
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        self.write_whole(&file, 0, &content, &content)?;
        self.close(file, path, &content, kills)
    }

    /// Changes a part of a file, appends to it or cuts it off.
    fn change(&mut self, path: &Path, step: u64) -> io::Result<()> {
        let kills = self.stand.kills();
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        let ino = file.metadata()?.ino();
        self.forget(|closed| closed.ino == ino);
        let part = format!("{} {step} {} changes\n", self.node, self.random.0).into_bytes();
        let at = self.random.below(content.len() + 1);
        match self.random.below(3) {
            0 => {
                content.truncate(at);
                self.done.tried.insert(digest(&content));
                file.set_len(at as u64)?;
                let whole = [&content[..], &part].concat();
                self.write_whole(&file, at, &part, &whole)?;
                content = whole;
            }
            1 => {
                let end = content.len();
                content.extend_from_slice(&part);
                self.write_whole(&file, end, &part, &content)?;
            }
            _ => {
                let end = content.len().max(at + part.len());
                content.resize(end, 0);
                content[at..at + part.len()].copy_from_slice(&part);
                self.write_whole(&file, at, &part, &content)?;
            }
        }
        self.close(file, path, &content, kills)
    }

    /// Writes a part in one call, after which the file has this content.
    fn write_whole(&mut self, file: &File, at: usize, part: &[u8], whole: &[u8]) -> io::Result<()> {
        self.done.tried.insert(digest(whole));
        if file.write_at(part, at as u64)? != part.len() {
            return Err(io::Error::other("a short write"));
        }
        Ok(())
    }

    fn close(&mut self, file: File, path: &Path, content: &[u8], kills: usize) -> io::Result<()> {
        let mut read = vec![0; content.len() + 1];
        let length = file.read_at(&mut read, 0)?;
        let metadata = file.metadata()?;
        drop(file);
        // The close has failed, if the agent was killed meanwhile.
        if self.stand.kills() != kills {
            return Ok(());
        }
        if read[..length] != *content {
            let said = self.stand.now();
            self.done.wrong.push(format!("{said}: {length} other bytes than were written"));
        }
        let (digest, at) = (digest(content), Instant::now());
        let (now, said) = (now(), self.stand.now());
        let (ino, bytes) = (metadata.ino(), content.len());
        self.done.history.push(format!("{now} {said}: closed {ino}, {bytes} bytes, {digest:.16}"));
        // A file that has lost its name meanwhile never becomes packets.
        if metadata.nlink() > 0 {
            self.done.kept.insert(digest.clone(), self.stand.now());
            self.fresh.retain(|closed| closed.at.elapsed() < SOON);
            self.fresh.push(Closed { digest, ino: metadata.ino(), path: path.to_owned(), at });
        }
        Ok(())
    }

    /// Notes that what has a name is to be replaced or removed.
    fn replaces(&mut self, path: &Path) {
        let ino = fs::symlink_metadata(path).map_or(0, |it| it.ino());
        self.forget(|closed| closed.ino == ino || closed.path == path);
    }

    /// Does not ask for contents that this node replaces so soon that they need not be versions.
    fn forget(&mut self, which: impl Fn(&Closed) -> bool) {
        for closed in self.fresh.iter().filter(|it| it.at.elapsed() < SOON && which(it)) {
            self.done.kept.remove(&closed.digest);
        }
    }
}

/// Returns the time as text, that of UTC.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (day, ms) = (since.as_secs() % 86_400, since.subsec_millis());
    format!("{:02}:{:02}:{:02}.{ms:03}", day / 3600, day / 60 % 60, day % 60)
}

fn digest(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}
