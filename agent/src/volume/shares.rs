//! Shares: ordinary directories that a volume follows, and that follow it if they are written. Each has a thread of its own with the lowest priority, and starts again
//! with the agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use packetfs::export::{Hidden, is_kernels};
use packetfs::share::{Plan, Round, Share, ShareError};
use packetfs::tree::Kind;
use packetfs::volume::Volume;
use packetfs::whole;
use serde::{Deserialize, Serialize};
use worknode::request::VolumeShare;

use super::ended::{Ended, Ending};

/// The mounts that this thread sees.
const MOUNTS: &str = "/proc/thread-self/mountinfo";
/// The file with all shares, in the volume's directory.
const SHARES: &str = "shares.json";
/// What a share has taken over is in a file with this at the end of its name.
const KNOWN: &str = "known";
/// Changes of a moment are taken over together.
const PAUSE: Duration = Duration::from_millis(200);
/// Time until a share that failed is tried again, which compares all. It is twice as long each time, …
const AGAIN: Duration = Duration::from_secs(10);
/// … but no longer than this.
const AGAIN_MAX: Duration = Duration::from_secs(40);
/// A file that changed while it was read is looked at again after this time.
const UNSURE: Duration = Duration::from_millis(50);
/// Directories that the kernel does not watch are compared after this time.
const UNWATCHED: Duration = Duration::from_secs(30);
/// Time between two notes of what was taken over.
const NOTE_PERIOD: Duration = Duration::from_secs(60);
/// The same for a share that is written and has few files: what changes on both sides after a crash is a conflict only because
/// of what was not noted.
const SHORT_NOTE_PERIOD: Duration = Duration::from_secs(2);
/// Such a note has no more bytes.
const SHORT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest wait for the end of all shares with the agent.
const ENDING_MAX: Duration = Duration::from_secs(3);
/// The lowest priority of a thread.
const NICE: i32 = 19;
/// Files that are named if they could not be taken over.
const NAMED_MAX: usize = 10;

/// A share as it is noted for the next start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wish {
    pub(super) dir: Vec<u8>,
    pub(super) name: Vec<u8>,
    /// Whether what others change in the volume is written to the directory. Earlier versions have not noted it.
    #[serde(default)]
    pub(super) writes: bool,
}

/// All shares of a volume.
pub(super) struct Shares {
    dir: PathBuf,
    hidden: Arc<Hidden>,
    running: BTreeMap<Vec<u8>, Running>,
    /// Shares that were stopped and may still read or write.
    ending: Vec<(Wish, Arc<Ended>)>,
}

struct Running {
    wish: Wish,
    told: Arc<Mutex<VolumeShare>>,
    stop: Arc<EventFd>,
    /// Ends a round that takes long.
    cancel: Arc<AtomicBool>,
    ended: Arc<Ended>,
}

impl Shares {
    pub(super) fn new(dir: &Path, hidden: Arc<Hidden>) -> Self {
        Self { dir: dir.to_owned(), hidden, running: BTreeMap::new(), ending: Vec::new() }
    }

    /// Returns whether there were shares when the agent ended.
    pub(super) fn are_wished(&self) -> bool {
        !self.wishes().is_empty()
    }

    /// Starts the shares of the last time.
    pub(super) fn start_again(&mut self, volume: &Arc<Volume>) {
        for wish in self.wishes() {
            if let Err(error) = self.run(volume, wish, false) {
                tracing::error!("failed to start a share: {error:#}");
            }
        }
    }

    /// Starts a share.
    pub(super) fn start(&mut self, volume: &Arc<Volume>, wish: Wish) -> anyhow::Result<()> {
        let Wish { dir, name, writes } = &wish;
        let shown = String::from_utf8_lossy(name).into_owned();
        anyhow::ensure!(
            is_name(name),
            "'{shown}' is no name for a share: use names with / between them, such as team/src"
        );
        let meets = |other: &Vec<u8>| is_at_or_below(other, name) || is_at_or_below(name, other);
        if let Some(other) = self.running.keys().find(|other| meets(other)) {
            anyhow::bail!(
                "the share {} is there: choose another name with --as, or end it with 'oswalk share --stop {0}'",
                String::from_utf8_lossy(other)
            );
        }
        self.check_ended(&wish)?;
        let kind = kind(volume, name)?;
        anyhow::ensure!(
            *writes || self.known(name).exists() || kind.is_none(),
            "the volume has {shown} already: choose another name with --as, or keep both the same with --write"
        );
        anyhow::ensure!(
            kind.is_none_or(|kind| kind == Kind::Dir),
            "{shown} in the volume is not a directory: choose another name with --as"
        );
        check_dir(&path(dir), &self.dir, &self.hidden)?;
        self.check_apart(&wish)?;
        self.run(volume, wish, true)?;
        self.note()
    }

    /// Refuses a directory that another share has, if either is written: each would take the other's changes for programs'.
    fn check_apart(&self, wish: &Wish) -> anyhow::Result<()> {
        let dir = path(&wish.dir);
        let meets = |other: &&Wish| {
            let at = path(&other.dir);
            (wish.writes || other.writes) && (at.starts_with(&dir) || dir.starts_with(&at))
        };
        let other = self.running.values().map(|running| &running.wish).find(meets);
        other.map_or(Ok(()), |other| {
            anyhow::bail!(
                "{} is in the share {}: end that with 'oswalk share --stop {1}' first",
                dir.display(),
                String::from_utf8_lossy(&other.name)
            )
        })
    }

    /// Refuses what a share still has that was stopped.
    fn check_ended(&mut self, wish: &Wish) -> anyhow::Result<()> {
        self.ending.retain(|(_, ended)| !ended.is());
        let meets =
            |one: &[u8], other: &[u8]| is_at_or_below(one, other) || is_at_or_below(other, one);
        let other = self
            .ending
            .iter()
            .map(|(other, _)| other)
            .find(|other| meets(&other.name, &wish.name) || meets(&other.dir, &wish.dir));
        other.map_or(Ok(()), |other| {
            let shown = String::from_utf8_lossy(&other.name);
            anyhow::bail!("the share {shown} has not ended yet: try again in a moment")
        })
    }

    /// Ends a share, and returns what tells when it has ended. What it has taken over stays.
    pub(super) fn stop(&mut self, name: &[u8]) -> anyhow::Result<Arc<Ended>> {
        let running = self.running.remove(name).with_context(|| {
            let shown = String::from_utf8_lossy(name);
            format!("there is no share {shown}: 'oswalk share' lists all")
        })?;
        running.cancel();
        self.ending.retain(|(_, ended)| !ended.is());
        self.ending.push((running.wish, Arc::clone(&running.ended)));
        self.note()?;
        Ok(running.ended)
    }

    pub(super) fn list(&self) -> Vec<VolumeShare> {
        self.running.values().map(|running| locked(&running.told).clone()).collect()
    }

    /// Ends all threads, and waits for that, but not long; the shares start again with the agent.
    pub(super) fn end(&mut self) {
        self.running.values().for_each(Running::cancel);
        let running = std::mem::take(&mut self.running).into_values().map(|it| it.ended);
        let deadline = Instant::now() + ENDING_MAX;
        for ended in running.chain(std::mem::take(&mut self.ending).into_iter().map(|it| it.1)) {
            ended.wait(deadline.saturating_duration_since(Instant::now()));
        }
    }

    /// Starts the thread of a share. `is_asked` says that the user has asked for it, and not the last run.
    fn run(&mut self, volume: &Arc<Volume>, wish: Wish, is_asked: bool) -> anyhow::Result<()> {
        let plan = Plan {
            dir: path(&wish.dir),
            owner: None,
            name: wish.name.clone(),
            writes: wish.writes,
        };
        let known = self.known(&wish.name);
        // Who asks for a directory that was shared before has it joined: what was removed meanwhile comes back.
        let is_joined = is_asked && wish.writes;
        let before = if is_joined { None } else { fs::read(&known).ok() };
        let hidden = Arc::clone(&self.hidden);
        let share = Share::new(plan, Arc::clone(volume), hidden, before.as_deref())?;
        let told = Arc::new(Mutex::new(VolumeShare {
            name: String::from_utf8_lossy(&wish.name).into_owned(),
            dir: String::from_utf8_lossy(&wish.dir).into_owned(),
            writes: wish.writes,
            ..VolumeShare::default()
        }));
        let stop = Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?);
        let (cancel, ended) = (share.cancel(), Arc::<Ended>::default());
        let follower = Follower {
            writes: wish.writes,
            is_asked,
            share,
            cancel: Arc::clone(&cancel),
            volume: Arc::clone(volume),
            known,
            told: Arc::clone(&told),
            stop: Arc::clone(&stop),
            _ending: Ending(Arc::clone(&ended)),
        };
        let thread = std::thread::Builder::new().name("share".into());
        thread.spawn(move || follower.follow())?;
        self.running.insert(wish.name.clone(), Running { wish, told, stop, cancel, ended });
        Ok(())
    }

    fn known(&self, name: &[u8]) -> PathBuf {
        let digest = blake3::hash(name).to_hex();
        self.dir.join(format!("share-{}.{KNOWN}", &digest[..16]))
    }

    fn note(&self) -> anyhow::Result<()> {
        let wishes: Vec<_> = self.running.values().map(|running| &running.wish).collect();
        let path = self.dir.join(SHARES);
        whole::write(&path, &serde_json::to_vec(&wishes)?)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    fn wishes(&self) -> Vec<Wish> {
        let path = self.dir.join(SHARES);
        match fs::read(&path).map(|json| serde_json::from_slice(&json)) {
            Ok(Ok(wishes)) => wishes,
            Ok(Err(error)) => {
                tracing::error!(%error, "{} is damaged: start the shares again with 'oswalk share'", path.display());
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

impl Running {
    /// Has the thread end.
    fn cancel(&self) {
        self.cancel.store(true, Ordering::Relaxed);
        // It fails only if the counter is full, and then the thread knows.
        let _ = self.stop.write(1);
    }
}

/// The thread of a share.
struct Follower {
    share: Share,
    cancel: Arc<AtomicBool>,
    writes: bool,
    /// Whether the user has just asked for it.
    is_asked: bool,
    volume: Arc<Volume>,
    known: PathBuf,
    told: Arc<Mutex<VolumeShare>>,
    stop: Arc<EventFd>,
    /// Dropped after all others.
    _ending: Ending,
}

impl Follower {
    fn follow(mut self) {
        // It never takes a processor from what the user waits for. Without the right to change it, the priority stays.
        let _ = rustix::process::nice(NICE);
        if self.is_asked {
            self.share.accept_top();
        }
        let mut is_behind = true;
        let (mut again, mut is_told) = (AGAIN, false);
        let mut noted = Instant::now();
        let (mut is_noted, mut period) = (true, NOTE_PERIOD);
        if self.writes {
            // Which directory it is must be known when its disk is not mounted.
            (is_noted, period) = (false, Duration::ZERO);
        }
        loop {
            let round = if is_behind { self.share.all() } else { self.share.changed() };
            if self.cancel.load(Ordering::Relaxed) {
                break;
            }
            is_behind = round.is_err();
            let changes = |round: &Round| round.taken + round.removed + round.written;
            is_noted &= round.as_ref().is_ok_and(|round| changes(round) == 0);
            self.tell(&round);
            if !is_noted && noted.elapsed() >= period {
                (period, is_noted) = self.note();
                noted = Instant::now();
            }
            let wait = match (is_behind, self.share.is_unsure(), is_noted) {
                (true, ..) => Some(again),
                (_, true, _) => Some(UNSURE),
                (_, _, false) => Some(period.saturating_sub(noted.elapsed())),
                _ => None,
            };
            let next_try = self.share.next_try().filter(|_| !is_behind);
            let unwatched = self.share.lacks_watches().then_some(UNWATCHED);
            if unwatched.is_some() && !std::mem::replace(&mut is_told, true) {
                tracing::warn!(
                    share = locked(&self.told).name,
                    "the kernel has no inotify watches left for a share: changes are found after {} s; raise fs.inotify.max_user_watches",
                    UNWATCHED.as_secs()
                );
            }
            let wait = wait.into_iter().chain(next_try).chain(unwatched).min();
            again = if is_behind { (again * 2).min(AGAIN_MAX) } else { AGAIN };
            if self.wait(wait, is_behind).is_break() {
                break;
            }
        }
        self.note();
    }

    /// Waits for changes, or for the end.
    fn wait(&self, time: Option<Duration>, is_behind: bool) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        let Ok(changes) = self.share.changes() else { return Break(()) };
        let timeout = |time: Option<Duration>| {
            time.map_or(PollTimeout::NONE, |time| {
                PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX)
            })
        };
        let queues = std::iter::once(self.stop.as_fd()).chain(changes.iter().map(AsFd::as_fd));
        let mut all: Vec<_> = queues.map(|queue| PollFd::new(queue, PollFlags::POLLIN)).collect();
        let watched = if is_behind { &mut all[..1] } else { &mut all[..] };
        let _ = poll(watched, timeout(time));
        if all[0].any() == Some(true) {
            return Break(());
        }
        if all[1..].iter().any(|queue| queue.any() == Some(true)) {
            let _ = poll(&mut all[..1], timeout(Some(PAUSE)));
        }
        if all[0].any() == Some(true) { Break(()) } else { Continue(()) }
    }

    fn tell(&self, round: &Result<Round, ShareError>) {
        let mut told = locked(&self.told);
        let trouble = match round {
            Ok(round) => {
                told.taken += round.taken;
                told.bytes += round.bytes;
                told.removed += round.removed;
                told.written += round.written;
                let left = round
                    .left
                    .iter()
                    .take(NAMED_MAX)
                    .map(|(path, left)| format!("{}: {left}", String::from_utf8_lossy(path)));
                told.left = left.collect();
                round.trouble.clone()
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(trouble) = trouble.as_ref().filter(|_| told.trouble != trouble) {
            tracing::warn!(share = told.name, "a share waits: {trouble}");
        }
        told.is_up_to_date = trouble.is_none();
        told.trouble = trouble;
    }

    /// Notes what was taken over, once volume and directory have made it durable. Returns the time until it is noted again, and
    /// whether that is due only after changes.
    fn note(&mut self) -> (Duration, bool) {
        let known = self.share.known();
        let is_short = self.writes && known.len() <= SHORT_BYTES_MAX;
        let synced = self.volume.sync().map_err(|error| error.to_string());
        let synced = synced.and_then(|()| self.share.sync().map_err(|error| error.to_string()));
        let noted = match synced {
            // The disk has much to do.
            Ok(false) => return (SHORT_NOTE_PERIOD, false),
            Ok(true) => whole::write(&self.known, &known).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::warn!(
                error,
                "failed to note what a share has taken over: its next start compares all files"
            );
        }
        (if is_short { SHORT_NOTE_PERIOD } else { NOTE_PERIOD }, true)
    }
}

/// Refuses a directory that is in a volume, or that has the volume of this agent in it: a share of it would have no end.
fn check_dir(dir: &Path, state: &Path, hidden: &Hidden) -> anyhow::Result<()> {
    let shown = dir.display();
    let path = dir.as_os_str().as_bytes();
    anyhow::ensure!(
        !is_kernels(path) && !hidden.hides(path),
        "{shown} is never shown to other nodes: it is the kernel's, or has secrets"
    );
    let mounts = fs::read_to_string(MOUNTS).context("failed to read the mounts")?;
    anyhow::ensure!(
        !is_in_volume(&mounts, dir),
        "{shown} is in a mounted volume, which keeps its files already: choose an ordinary directory"
    );
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    anyhow::ensure!(
        !state.starts_with(dir) && !dir.starts_with(&state),
        "{shown} has the volume's own files in it: choose a directory without {}",
        state.display()
    );
    Ok(())
}

/// Tells whether a path is in a mount of PacketFS: each line ends with kind, source and options.
fn is_in_volume(mounts: &str, path: &Path) -> bool {
    mounts.lines().any(|line| {
        let Some((mount, of)) = line.split_once(" - ") else { return false };
        let mut of = of.split(' ');
        let is_ours =
            of.next().is_some_and(|kind| kind.starts_with("fuse")) && of.next() == Some("packetfs");
        let point = mount.split(' ').nth(4).unwrap_or_default();
        // The kernel writes these characters as octal numbers.
        let point = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(point.to_owned(), |point, (coded, plain)| point.replace(coded, plain));
        is_ours && path.starts_with(point)
    })
}

fn is_name(name: &[u8]) -> bool {
    let is_sound = |part: &[u8]| {
        !part.is_empty() && part.len() <= 255 && ![&b"."[..], b"..", b".oswalk"].contains(&part)
    };
    !name.contains(&0) && name.split(|byte| *byte == b'/').all(is_sound)
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Returns what has a name in the volume.
fn kind(volume: &Volume, name: &[u8]) -> anyhow::Result<Option<Kind>> {
    let (mut ino, mut kind) = (packetfs::volume::ROOT, Kind::Dir);
    for part in name.split(|byte| *byte == b'/') {
        if kind != Kind::Dir {
            return Ok(Some(kind));
        }
        match volume.peek(ino, part).context("failed to look into the volume")? {
            Some(found) => (ino, kind) = (found.attr.ino, found.attr.kind),
            None => return Ok(None),
        }
    }
    Ok(Some(kind))
}

fn path(bytes: &[u8]) -> PathBuf {
    std::ffi::OsString::from_vec(bytes.to_vec()).into()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_in_volumes_are_refused() {
        let mounts = "50 21 0:41 / /a\\040b rw shared:1 - fuse packetfs rw\n\
                      51 21 0:42 / /c rw - fuse sshfs rw\n";
        for (path, expected) in [("/a b", true), ("/a b/c", true), ("/a bc", false), ("/c", false)]
        {
            assert_eq!(is_in_volume(mounts, Path::new(path)), expected, "{path}");
        }
        let state = Path::new("/var/lib/oswalk/volume");
        for (dir, expected) in [
            ("/var/lib", false),
            ("/var/lib/oswalk/volume/x", false),
            ("/srv", true),
            ("/proc", false),
            ("/sys/class/net", false),
        ] {
            assert_eq!(
                check_dir(Path::new(dir), state, &Hidden::default()).is_ok(),
                expected,
                "{dir}"
            );
        }
    }

    #[test]
    fn names_of_shares_are_paths_below_the_root() {
        assert!(["src", "team/src", "a b/c"].iter().all(|name| is_name(name.as_bytes())));
        let bad = ["", "/src", "src/", "a//b", ".", "a/../b", ".oswalk/x", "a\0"];
        assert!(!bad.iter().any(|name| is_name(name.as_bytes())));
        assert!(is_at_or_below(b"a/b", b"a") && is_at_or_below(b"a", b"a"));
        assert!(!is_at_or_below(b"ab", b"a") && !is_at_or_below(b"a", b"a/b"));
    }

    fn wish(dir: &Path, name: &str) -> Wish {
        let (dir, name) = (dir.as_os_str().as_bytes().to_vec(), name.as_bytes().to_vec());
        Wish { dir, name, writes: true }
    }

    #[test]
    fn nobody_waits_for_a_share_that_is_stopped() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let mut shares = Shares::new(temporary.path(), Arc::default());
        // It is busy and does not end.
        let running = Running {
            wish: wish(Path::new("/srv/src"), "team/src"),
            told: Arc::default(),
            stop: Arc::new(EventFd::new().expect("a descriptor")),
            cancel: Arc::default(),
            ended: Arc::default(),
        };
        let cancel = Arc::clone(&running.cancel);
        shares.running.insert(b"team/src".to_vec(), running);
        let ended = shares.stop(b"team/src").expect("it is there");
        assert!(cancel.load(Ordering::Relaxed) && !ended.is());
        assert!(shares.list().is_empty() && shares.wishes().is_empty());
        for (dir, name) in [("/srv/src/x", "other"), ("/elsewhere", "team"), ("/srv", "other")] {
            let refused = shares.check_ended(&wish(Path::new(dir), name));
            assert!(refused.expect_err("it still has that").to_string().contains("team/src"));
        }
        shares.check_ended(&wish(Path::new("/elsewhere"), "other")).expect("it has nothing of it");
        drop(Ending(ended));
        shares.check_ended(&wish(Path::new("/srv/src"), "team/src")).expect("it has ended");
    }

    #[test]
    fn a_share_can_be_stopped_at_any_time_and_begun_again() {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let [dir, state] = ["src", "state"].map(|name| temporary.path().join(name));
        fs::create_dir(&dir).expect("it is free");
        for number in 0..500 {
            fs::write(dir.join(number.to_string()), number.to_string()).expect("there is room");
        }
        let author = worknode::history::Author([1; 16]);
        let options =
            packetfs::volume::Options { author, signer: None, may_pass: false, boot: None };
        let volume = Arc::new(Volume::open(&state, &options).expect("a volume"));
        let mut shares = Shares::new(&state, Arc::default());
        for pause in [0, 1, 10, 100] {
            shares.run(&volume, wish(&dir, "src"), true).expect("the kernel watches");
            std::thread::sleep(Duration::from_millis(pause));
            let ended = shares.stop(b"src").expect("it is there");
            assert!(ended.wait(Duration::from_secs(60)), "it ends");
        }
        shares.run(&volume, wish(&dir, "src"), true).expect("the kernel watches");
        let begin = Instant::now();
        while !shares.list()[0].is_up_to_date {
            assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", shares.list());
            std::thread::yield_now();
        }
        shares.end();
        let top = volume.peek(packetfs::volume::ROOT, b"src").expect("it works").expect("there");
        let list = volume.list(top.attr.ino).expect("a directory");
        assert_eq!(list.len(), 502, "with . and ..");
    }
}
