//! Examines users' paths without blocking the agent's main thread: an unresponsive file server would stop it for all users.
//! The main thread uses only what the kernel has cached. If that does not suffice, another thread, which may block, does the
//! work.
//!
//! `/proc/PID/{root,cwd,fd,ns,stat,status}` may be read on the main thread: they take no lock that a process holds while it
//! waits for a file system, and [`Place`] sends no request to a server. `environ`, `cmdline`, `maps` and `mem` take such a
//! lock, and the agent never reads them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;
use packetfs::path::{Bytes, normal, split};
use tokio::sync::Semaphore;

use crate::sys::place::Place;

/// The root of users' paths, if it differs from this process's.
static ROOT: OnceLock<OwnedFd> = OnceLock::new();

/// Sets the root of all paths.
pub(crate) fn set_root(root: &OwnedFd) -> io::Result<()> {
    // If it is set already, it is the same one.
    let _ = ROOT.set(root.try_clone()?);
    Ok(())
}

/// Opens a regular file for reading, following links.
///
/// # Errors
/// The system call fails, or (`EINVAL`) it is not a regular file. Other types are not even opened, because that would
/// unblock a fifo's writer. Paths of open files (`/dev/stdin`) are refused as well: they name other files here.
pub(crate) fn open_file(path: &[u8]) -> Result<File, Errno> {
    let found = match Look::Waiting.resolve(path)? {
        Resolved::Nothing => return Err(Errno::ENOENT),
        Resolved::Stream => return Err(Errno::EINVAL),
        Resolved::At(_) => {
            let how = ResolveFlag::RESOLVE_NO_MAGICLINKS;
            Look::Waiting.open_with(path, OFlag::empty(), how)?
        }
    };
    if SFlag::from_bits_truncate(fstat(&found)?.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        return Err(Errno::EINVAL);
    }
    let again = format!("/proc/self/fd/{}", found.as_raw_fd());
    // Another process may hold a lease on it.
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(again).map_err(errno)
}

/// Fetches a path's attributes from its file system, and returns the file system's device. May block.
///
/// # Errors
/// What the system says.
pub(crate) fn ask_server(path: &[u8]) -> Result<u64, Errno> {
    fstat(Look::Waiting.open(path)?).map(|stat| stat.st_dev)
}

fn open_at_root(path: &[u8], how: OpenHow, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
    let path = OsStr::from_bytes(path);
    match ROOT.get() {
        Some(root) => openat2(root, path, how.resolve(resolve | ResolveFlag::RESOLVE_IN_ROOT)),
        None => openat2(AT_FDCWD, path, how.resolve(resolve)),
    }
}

/// A way to look at paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Uses only what the kernel has cached, and fails with `EAGAIN` if that does not suffice.
    AtOnce,
    /// May read from a disk or a server.
    Waiting,
}

impl Look {
    /// Opens a path with `O_PATH`, following links.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn open(self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.open_with(path, OFlag::empty(), ResolveFlag::empty())
    }

    fn open_with(self, path: &[u8], flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
        match self {
            Self::Waiting => {
                note_file_system(path);
                open_at_root(path, as_place(flags), how)
            }
            Self::AtOnce => match open_cached(path, flags, how) {
                Err(Errno::EAGAIN) => open_in_local(path, flags, how),
                opened => opened,
            },
        }
    }

    fn place(self, path: &[u8]) -> Result<Place, Errno> {
        Place::of(self.open(path)?).map_err(errno)
    }

    /// Returns what a path leads to, if anything that can be looked at. Links to what a process has open are
    /// not followed: they lead elsewhere for each process.
    ///
    /// # Errors
    /// `EAGAIN`: it cannot be told at once.
    pub(crate) fn resolve(self, path: &[u8]) -> Result<Resolved, Errno> {
        // Most paths contain no links, and are resolved by one system call.
        match self.open_with(path, OFlag::empty(), ResolveFlag::RESOLVE_NO_SYMLINKS) {
            Err(Errno::ELOOP) => {}
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            Err(_) => return Ok(Resolved::Nothing),
            Ok(file) => {
                let found = |place: Place| Found { path: normal(b"/", path), kind: place.kind };
                return Ok(Place::of(&file).map_or(Resolved::Nothing, |it| Resolved::At(found(it))));
            }
        }
        let file = match self.open_with(path, OFlag::empty(), ResolveFlag::RESOLVE_NO_MAGICLINKS) {
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            // A link to an open file, or a loop of links: neither can be opened.
            Err(Errno::ELOOP) => {
                return match self.open(path) {
                    Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
                    Err(Errno::ELOOP) => Ok(Resolved::Nothing),
                    _ => Ok(Resolved::Stream),
                };
            }
            Err(_) => return Ok(Resolved::Nothing),
            Ok(file) => file,
        };
        let Ok(place) = Place::of(&file) else { return Ok(Resolved::Nothing) };
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let path = nix::fcntl::readlink(link.as_str())?.into_vec();
        Ok(Resolved::At(Found { path, kind: place.kind }))
    }

    /// Returns a symbolic link's target, or `None` if the path is not a link.
    ///
    /// # Errors
    /// `EAGAIN`: it cannot be told at once.
    pub(crate) fn link(self, path: &[u8]) -> Result<Option<Bytes>, Errno> {
        let file = match self.open_with(path, OFlag::O_NOFOLLOW, ResolveFlag::empty()) {
            Err(Errno::EAGAIN) => return Err(Errno::EAGAIN),
            Err(_) => return Ok(None),
            Ok(file) => file,
        };
        Ok(nix::fcntl::readlinkat(&file, "").ok().map(OsStringExt::into_vec))
    }

    /// Returns the size of a file, asked of its server if it has one.
    ///
    /// # Errors
    /// What the system says; `EAGAIN`: it cannot be told at once.
    pub(crate) fn bytes(self, path: &[u8]) -> Result<u64, Errno> {
        let file = self.open(path)?;
        if self == Self::AtOnce && !is_local(&Place::of(&file).map_err(errno)?) {
            return Err(Errno::EAGAIN);
        }
        Ok(u64::try_from(fstat(&file)?.st_size).unwrap_or(0))
    }

    /// Returns what is at a path, if anything that can be looked at.
    ///
    /// # Errors
    /// `EAGAIN`: it cannot be told at once.
    pub(crate) fn find(self, path: &[u8]) -> Result<Option<Place>, Errno> {
        match self.place(path) {
            Err(Errno::EAGAIN) => Err(Errno::EAGAIN),
            found => Ok(found.ok()),
        }
    }
}

fn as_place(flags: OFlag) -> OpenHow {
    OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
}

/// Opens a path from the kernel's cache.
fn open_cached(path: &[u8], flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
    match open_at_root(path, as_place(flags), how | cached()) {
        // Kernels before 5.12 may always block.
        Err(Errno::EINVAL) => Err(Errno::EAGAIN),
        opened => opened,
    }
}

fn cached() -> ResolveFlag {
    ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED)
}

/// Opens an uncached name, such as that of an output that does not exist yet, if its directory is on a local file system,
/// which always answers.
fn open_in_local(path: &[u8], flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
    let (dir, name) = split(path).ok_or(Errno::EAGAIN)?;
    let dir = open_cached(if dir.is_empty() { b"/" } else { dir }, OFlag::empty(), how)?;
    let place = Place::of(&dir).map_err(|_| Errno::EAGAIN)?;
    if !is_local(&place) {
        return Err(Errno::EAGAIN);
    }
    let here = ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV;
    match openat2(&dir, OsStr::from_bytes(name), as_place(flags).resolve(here)) {
        // It leads elsewhere.
        Err(Errno::ELOOP | Errno::EXDEV) => Err(Errno::EAGAIN),
        opened => opened,
    }
}

/// Tells whether a place was seen to be on a local file system.
fn is_local(place: &Place) -> bool {
    let since = LOCAL.lock().expect("nobody panics with it").get(&place.dev).copied();
    since.is_some_and(|since| since.elapsed() < LOCAL_FOR)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Records whether the directory of a path is on a local file system. May block.
fn note_file_system(path: &[u8]) {
    let Some((dir, _)) = split(path) else { return };
    let dir = open_at_root(dir, as_place(OFlag::empty()), ResolveFlag::empty());
    let Ok(dir) = dir else { return };
    let (Ok(place), Ok(system)) = (Place::of(&dir), fstatfs(&dir)) else { return };
    if LOCAL_TYPES.contains(&system.filesystem_type().0) {
        LOCAL.lock().expect("nobody panics with it").insert(place.dev, Instant::now());
    }
}

/// Types of file systems that depend on no server or other process.
const LOCAL_TYPES: [libc::__fsword_t; 6] = [
    libc::EXT4_SUPER_MAGIC,
    libc::XFS_SUPER_MAGIC,
    libc::BTRFS_SUPER_MAGIC,
    libc::F2FS_SUPER_MAGIC,
    libc::TMPFS_MAGIC,
    libc::OVERLAYFS_SUPER_MAGIC,
];
/// Time after which a device number may belong to another file system.
const LOCAL_FOR: Duration = Duration::from_secs(10);
/// Devices of local file systems, and when that was seen. There are as many as mounts.
static LOCAL: Mutex<BTreeMap<u64, Instant>> = Mutex::new(BTreeMap::new());

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// Nothing that can be looked at.
    Nothing,
    /// What a process has open (`/dev/stdin`, `/proc/self/fd/3`, `/proc/1/cwd`), by whatever name.
    Stream,
    /// A file.
    At(Found),
}

/// A file that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// A path without links.
    pub(crate) path: Bytes,
    /// The type, as in `st_mode`; 0 for what is not there yet.
    pub(crate) kind: u32,
}

/// Most threads that block on file systems. The runtime has 512; 64 of the others ask mounts (`served`), and the rest reads
/// changes of walks.
const LOOKS_MAX: usize = 256;
/// Most threads per user, so that one user's unresponsive file system does not block others.
const LOOKS_PER_USER_MAX: usize = 64;
/// Most threads per user that have much to do, rather than to wait: the processors are for others, too.
const LARGE_PER_USER_MAX: usize = 2;
/// Timeout for an answer. An automounter may take seconds; a file system that takes longer counts as unresponsive.
const PATIENCE: Duration = Duration::from_secs(10);

/// Answers questions about paths, if necessary on threads that may block.
#[derive(Debug)]
pub(crate) struct Looks {
    all: Arc<Semaphore>,
    /// Of each user who has asked a thread.
    by_user: Threads,
    /// Of each user who has asked much.
    large_by_user: Threads,
    patience: Duration,
}

impl Default for Looks {
    fn default() -> Self {
        let all = Arc::new(Semaphore::new(LOOKS_MAX));
        Self {
            all,
            by_user: RefCell::default(),
            large_by_user: RefCell::default(),
            patience: PATIENCE,
        }
    }
}

impl Looks {
    /// Answers a user's question at once if possible, otherwise on a thread that may block.
    ///
    /// # Errors
    /// What the question fails with; `ETIMEDOUT` if the file system does not answer, or if the user's
    /// threads all wait for one.
    pub(crate) async fn look<T, Q>(&self, uid: u32, question: Q) -> Result<T, Errno>
    where
        T: Send + 'static,
        Q: Fn(Look) -> Result<T, Errno> + Send + 'static,
    {
        match question(Look::AtOnce) {
            Err(Errno::EAGAIN) => {
                let answer = tokio::time::timeout(self.patience, self.wait(uid, question));
                answer.await.unwrap_or(Err(Errno::ETIMEDOUT))
            }
            answer => answer,
        }
    }

    /// Answers a user's question that is much work, on a thread.
    ///
    /// # Errors
    /// See [`Self::look`].
    pub(crate) async fn look_apart<T, Q>(&self, uid: u32, question: Q) -> Result<T, Errno>
    where
        T: Send + 'static,
        Q: Fn(Look) -> Result<T, Errno> + Send + 'static,
    {
        let answer = tokio::time::timeout(self.patience, async {
            let turn = of(&self.large_by_user, uid, LARGE_PER_USER_MAX).acquire_owned().await;
            let turn = turn.map_err(|_| Errno::EIO)?;
            let held = move |look| {
                let _turn = &turn;
                question(look)
            };
            self.wait(uid, held).await
        });
        answer.await.unwrap_or(Err(Errno::ETIMEDOUT))
    }

    async fn wait<T, Q>(&self, uid: u32, question: Q) -> Result<T, Errno>
    where
        T: Send + 'static,
        Q: Fn(Look) -> Result<T, Errno> + Send + 'static,
    {
        let closed = |_| Errno::EIO;
        let user =
            of(&self.by_user, uid, LOOKS_PER_USER_MAX).acquire_owned().await.map_err(closed)?;
        let any = Arc::clone(&self.all).acquire_owned().await.map_err(closed)?;
        let answer = tokio::task::spawn_blocking(move || {
            // Held until the thread is free again, even after a timeout.
            let _permits = (user, any);
            question(Look::Waiting)
        });
        answer.await.unwrap_or(Err(Errno::EIO))
    }
}

/// The threads that each user may have.
type Threads = RefCell<HashMap<u32, Arc<Semaphore>>>;

/// Returns the threads of a user, and forgets users who have none at work.
fn of(by_user: &Threads, uid: u32, max: usize) -> Arc<Semaphore> {
    let mut by_user = by_user.borrow_mut();
    by_user.retain(|_, threads| Arc::strong_count(threads) > 1);
    Arc::clone(by_user.entry(uid).or_insert_with(|| Arc::new(Semaphore::new(max))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(path: &std::path::Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    #[test]
    fn links_are_followed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().join("real");
        std::fs::create_dir(&real).expect("writable");
        std::os::unix::fs::symlink("real", dir.path().join("link")).expect("writable");
        let link = dir.path().join("link");
        Look::Waiting.find(bytes(&link)).expect("can be looked at");
        // While others rename or mount something the kernel cannot tell at once.
        let at_once = |path| Look::AtOnce.find(bytes(path)).ok();
        let place = |path| (0..1000).find_map(|_| at_once(path)).expect("was looked up just now");
        assert!(place(&link).is_some() && place(&link) == place(&real));
        let gone = dir.path().join("gone");
        assert_eq!(Look::Waiting.find(bytes(&gone)).map(|found| found.is_some()), Ok(false));
    }

    #[test]
    fn absent_names_on_a_local_disk_are_told_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let gone = dir.path().join("gone");
        assert_eq!(Look::Waiting.find(bytes(&gone)), Ok(None));
        if LOCAL.lock().expect("nobody panics with it").is_empty() {
            return;
        }
        for name in ["gone", "gone too"] {
            let path = dir.path().join(name);
            let found = (0..1000).find_map(|_| Look::AtOnce.find(bytes(&path)).ok());
            assert_eq!(found, Some(None));
        }
    }

    fn waiting<T: Send + 'static>(
        answer: impl Fn() -> T + Send + 'static,
    ) -> impl Fn(Look) -> Result<T, Errno> + Send + 'static {
        move |way| match way {
            Look::AtOnce => Err(Errno::EAGAIN),
            Look::Waiting => Ok(answer()),
        }
    }

    #[tokio::test]
    async fn who_cannot_tell_at_once_looks_again() {
        let looks = Looks::default();
        let answer = looks.look(0, waiting(|| std::thread::current().id()));
        assert_ne!(answer.await, Ok(std::thread::current().id()));
        assert!(looks.by_user.borrow().len() <= 1);
    }

    #[tokio::test]
    async fn a_user_whose_file_system_does_not_answer_delays_no_other() {
        let looks = Looks { patience: Duration::ZERO, ..Looks::default() };
        let (answer_tx, answer_rx) = std::sync::mpsc::channel::<()>();
        let answer_rx = Arc::new(Mutex::new(answer_rx));
        for _ in 0..2 * LOOKS_PER_USER_MAX {
            let answer_rx = Arc::clone(&answer_rx);
            let hung = waiting(move || drop(answer_rx.lock().map(|rx| rx.recv())));
            assert_eq!(looks.look(1000, hung).await, Err(Errno::ETIMEDOUT));
        }
        let patient = Looks { patience: PATIENCE, ..looks };
        assert_eq!(patient.look(1001, waiting(|| 7)).await, Ok(7));
        assert_eq!(patient.all.available_permits(), LOOKS_MAX - LOOKS_PER_USER_MAX);
        // The file system answers after all.
        drop(answer_tx);
        assert_eq!(patient.look(1000, waiting(|| 7)).await, Ok(7));
    }
}
