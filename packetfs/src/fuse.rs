//! Mounts a view read-only: the adapter between the kernel and [`crate::view`], and the only module that
//! depends on fuser.
//!
//! If the tree has extended attributes or access control lists, a view has a second mount that shows
//! them. The first one answers `ENOSYS` once, so the kernel never asks it again.
//!
//! The kernel may cache everything forever: names, absent names, attributes, pages. `open` and `opendir`
//! are answered once, with `ENOSYS`, and never requested again. [`Mount::invalidate`] invalidates what
//! changes, from its own thread: a notification from a thread that also answers requests can deadlock
//! with the kernel.

mod handler;
mod reply;
pub mod volume;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};

use crate::mirror::{Answer, Invalidation, Marks, Mirror, Need};
use crate::owners::Owners;
use crate::path::Bytes;
use crate::store::Shelf;
use crate::tree::{Attr, Time, Xattr};
use crate::view::{Counters, Notice, Outset, Source, View};
use handler::Handler;

/// The type of the file system.
const NAME: &str = "oswalk";
/// Most loop threads; otherwise one per CPU.
const THREADS_MAX: usize = 4;

/// Mounts FUSE at a point, with a name, in another mount namespace. Returns the device for its requests.
pub type Mounter = Box<dyn Fn(&Path, &str) -> io::Result<OwnedFd> + Send + Sync>;

/// The notifier of each mount, which sends it invalidations.
type Notifiers = Arc<Mutex<Vec<Notifier>>>;

/// A mounted mirror. Unmounts when dropped what it has mounted itself.
pub struct Mount {
    /// Keep the mounts; dropping one unmounts it.
    sessions: Mutex<Vec<BackgroundSession>>,
    /// Mounts it, unless this process may.
    mounter: Option<Mounter>,
    notifiers: Notifiers,
    view: Arc<View>,
    owners: Owners,
}

impl std::fmt::Debug for Mount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mount").field("owners", &self.owners).finish_non_exhaustive()
    }
}

impl Mount {
    /// Mounts a fresh mirror at `point`, with the runner's numbers for `owners`, by the `mounter` if there is one. `spawn`
    /// starts the thread that sends invalidations to the kernel; without it walks would read stale data.
    ///
    /// # Errors
    /// `/dev/fuse` is missing or forbidden, or the mount fails.
    pub fn new(
        (point, name): (&Path, &str),
        owners: Owners,
        mounter: Option<Mounter>,
        store: Shelf,
        source: Box<dyn Source>,
        spawn: impl FnOnce(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (view, notices) = View::new(store, source);
        let notifiers = Notifiers::default();
        let told = Arc::clone(&notifiers);
        spawn("fuse-notify", Box::new(move || notify(&notices, &told)))?;
        let mount = Self { sessions: Mutex::default(), mounter, notifiers, view, owners };
        mount.mount(point, name, false)?;
        Ok(mount)
    }

    /// Mounts the mirror a second time, at `point`, with extended attributes.
    ///
    /// # Errors
    /// See [`Self::new`].
    pub fn mount_with_xattrs(&self, point: &Path, name: &str) -> io::Result<()> {
        self.mount(point, name, true)
    }

    fn mount(&self, point: &Path, name: &str, xattrs: bool) -> io::Result<()> {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::RO,
            MountOption::FSName(format!("{NAME}:{name}")),
            MountOption::Subtype(NAME.into()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.acl = SessionACL::All;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        config.n_threads = Some(cpus.min(THREADS_MAX));
        let handler = Handler { view: Arc::clone(&self.view), owners: self.owners, xattrs };
        let session = match &self.mounter {
            None => fuser::Session::new(handler, point, &config),
            Some(mounter) => {
                let name = format!("{NAME}:{name}");
                fuser::Session::from_fd(handler, mounter(point, &name)?, config.acl, config)
            }
        }?;
        // Before the mount serves its first request.
        lock(&self.notifiers).push(session.notifier());
        lock(&self.sessions).push(session.spawn()?);
        Ok(())
    }

    /// Runs `change` on the mirror and invalidates what it returns in the kernel. Then calls `done` from
    /// another thread.
    pub fn update(
        &self,
        change: impl FnOnce(&mut Mirror) -> BTreeSet<Invalidation>,
        done: Box<dyn FnOnce() + Send>,
    ) {
        let forget = change(&mut self.view.mirror());
        self.invalidate(forget, done);
    }

    /// Sends invalidations to the kernel, then calls `done`.
    pub fn invalidate(&self, forget: BTreeSet<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        self.view.notify(forget, done);
    }

    /// Tells whether the kernel has processed all invalidations due to finished walks.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.view.is_settled()
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.view.counters
    }

    /// Returns the tree as a walk that begins now finds it, for use from any thread.
    pub fn outset(&self) -> Outset {
        Outset::new(&self.view)
    }

    /// Tells whether anything known of the tree has extended attributes.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.view.mirror().marks()
    }

    /// Returns a function from path to extended attributes, for use from any thread.
    pub fn xattrs(&self) -> impl Fn(&[u8]) -> Vec<Xattr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| {
            let mirror = view.mirror();
            mirror.node(path).map(|node| mirror.xattrs(node).to_vec()).unwrap_or_default()
        }
    }

    /// Returns a function from path to attributes, where known, for use from any thread.
    pub fn attrs(&self) -> impl Fn(&[u8]) -> Answer<Attr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| view.mirror().attr_at(path)
    }

    /// Returns a function that lists the known modification times since a moment, for use from any thread.
    pub fn times_since(&self) -> impl Fn(Time) -> HashSet<Time> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |moment| view.mirror().times_since(moment)
    }

    /// Returns what must be fetched before a directory can be entered, or `None` if all is known.
    #[must_use]
    pub fn lacks(&self, dir: &[u8]) -> Option<Need> {
        self.view.mirror().lacks(dir)
    }

    /// Returns a function from inode number to paths, for use from any thread.
    pub fn paths(&self) -> impl Fn(u64) -> Vec<Bytes> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |node| view.mirror().known_paths(node)
    }
}

/// Sends invalidations to all mounts as long as the view exists.
fn notify(notices: &mpsc::Receiver<Notice>, notifiers: &Notifiers) {
    while let Ok(Notice { forget, done }) = notices.recv() {
        if !forget.is_empty() {
            // The kernel may first need an answer that waits for the thread that mounts: hold no lock.
            let notifiers = lock(notifiers).clone();
            for notifier in &notifiers {
                forget.iter().for_each(|invalidation| invalidate(notifier, invalidation));
            }
        }
        done();
    }
}

fn invalidate(notifier: &Notifier, invalidation: &Invalidation) {
    // ENOENT: the kernel had not cached it.
    let _ = match invalidation {
        Invalidation::Entry(dir, name) => {
            notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name))
        }
        Invalidation::Node(node) => notifier.inval_inode(INodeNo(*node), 0, 0),
    };
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    // A push never leaves the list half changed.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
