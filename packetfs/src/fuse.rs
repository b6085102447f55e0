//! Mounts a view, read-only: the adapter between the kernel and [`crate::view`], and the one room that
//! names fuser.
//!
//! A view has a second mount where something has extended attributes or access control lists. The
//! first one shows none of them: it says so once, and costs no question more.
//!
//! The kernel may keep everything for ever: names, absent names, attributes, pages. `open` and
//! `opendir` are answered once, with `ENOSYS`, and never asked again. What changes is taken back by
//! [`Mount::invalidate`], from a thread of its own: a notification sent by a thread that also
//! answers requests can deadlock with the kernel.

mod handler;
mod reply;

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use fuser::{BackgroundSession, Config, INodeNo, MountOption, Notifier, SessionACL};

use crate::mirror::{Answer, Invalidation, Marks, Mirror, Need};
use crate::path::Bytes;
use crate::store::Shelf;
use crate::tree::{Attr, Time, Xattr};
use crate::view::{Counters, Notice, Outset, Source, View};
use handler::Handler;

/// Loop threads: as many as CPUs, no more than this.
const THREADS_MAX: usize = 4;

/// Whom to tell what has to be forgotten: a notifier for each mount.
type Notifiers = Arc<Mutex<Vec<Notifier>>>;

/// A mounted mirror. Unmounts when dropped.
#[derive(Debug)]
pub struct Mount {
    /// Hold the mounts; dropping one unmounts.
    sessions: Mutex<Vec<BackgroundSession>>,
    notifiers: Notifiers,
    view: Arc<View>,
}

impl Mount {
    /// Mounts a fresh mirror at `point`. Its thread that has the kernel forget is started by `spawn`:
    /// without it walks would see what is not so any more.
    ///
    /// # Errors
    /// `/dev/fuse` is missing or forbidden, or the mount fails.
    pub fn new(
        point: &Path,
        name: &str,
        store: Shelf,
        source: Box<dyn Source>,
        spawn: impl FnOnce(&'static str, Box<dyn FnOnce() + Send>) -> io::Result<()>,
    ) -> io::Result<Self> {
        let (view, notices) = View::new(store, source);
        let notifiers = Notifiers::default();
        let told = Arc::clone(&notifiers);
        spawn("fuse-notify", Box::new(move || notify(&notices, &told)))?;
        let mount = Self { sessions: Mutex::default(), notifiers, view };
        mount.mount(point, name, false)?;
        Ok(mount)
    }

    /// Mounts the mirror once more, at `point`, with the extended attributes of files.
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
            MountOption::FSName(format!("oswalk:{name}")),
            MountOption::Subtype("oswalk".into()),
            MountOption::DefaultPermissions,
            MountOption::NoAtime,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.acl = SessionACL::All;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        config.n_threads = Some(cpus.min(THREADS_MAX));
        let handler = Handler { view: Arc::clone(&self.view), xattrs };
        let session = fuser::Session::new(handler, point, &config)?;
        // Before anybody looks at it.
        lock(&self.notifiers).push(session.notifier());
        lock(&self.sessions).push(session.spawn()?);
        Ok(())
    }

    /// Runs `change` on the mirror and has the kernel forget what it returns. Then calls `done`,
    /// from another thread.
    pub fn update(
        &self,
        change: impl FnOnce(&mut Mirror) -> BTreeSet<Invalidation>,
        done: Box<dyn FnOnce() + Send>,
    ) {
        let forget = change(&mut self.view.mirror());
        self.invalidate(forget, done);
    }

    /// Has the kernel forget, then calls `done`.
    pub fn invalidate(&self, forget: BTreeSet<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        self.view.notify(forget, done);
    }

    /// Tells whether the kernel has forgotten all that it has to forget on account of walks that are over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.view.is_settled()
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.view.counters
    }

    /// Returns what tells what a walk finds that begins now; from any thread.
    pub fn outset(&self) -> Outset {
        Outset::new(&self.view)
    }

    /// Tells whether anything that is known of the tree has extended attributes.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.view.mirror().marks()
    }

    /// Returns what gives the extended attributes of a path, from any thread.
    pub fn xattrs(&self) -> impl Fn(&[u8]) -> Vec<Xattr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| {
            let mirror = view.mirror();
            mirror.node(path).map(|node| mirror.xattrs(node).to_vec()).unwrap_or_default()
        }
    }

    /// Returns what gives the attributes of what a path names, as far as they are known; from any thread.
    pub fn attrs(&self) -> impl Fn(&[u8]) -> Answer<Attr> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |path| view.mirror().attr_at(path)
    }

    /// Returns what gives the modification times since a moment that are known; from any thread.
    pub fn times_since(&self) -> impl Fn(Time) -> HashSet<Time> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |moment| view.mirror().times_since(moment)
    }

    /// Tells what must be fetched before a directory can be entered; nothing, if all is known.
    #[must_use]
    pub fn lacks(&self, dir: &[u8]) -> Option<Need> {
        self.view.mirror().lacks(dir)
    }

    /// Returns what gives the paths behind a number, from any thread.
    pub fn paths(&self) -> impl Fn(u64) -> Vec<Bytes> + Send + use<> {
        let view = Arc::clone(&self.view);
        move |node| view.mirror().known_paths(node)
    }
}

/// Has all mounts forget what has to be forgotten, as long as there is a view.
fn notify(notices: &mpsc::Receiver<Notice>, notifiers: &Notifiers) {
    while let Ok(Notice { forget, done }) = notices.recv() {
        if !forget.is_empty() {
            // The kernel may answer only after a request that waits for who mounts: no lock is held.
            let notifiers = lock(notifiers).clone();
            for notifier in &notifiers {
                forget.iter().for_each(|invalidation| invalidate(notifier, invalidation));
            }
        }
        done();
    }
}

fn invalidate(notifier: &Notifier, invalidation: &Invalidation) {
    // ENOENT: the kernel did not know it.
    let _ = match invalidation {
        Invalidation::Entry(dir, name) => {
            notifier.inval_entry(INodeNo(*dir), OsStr::from_bytes(name))
        }
        Invalidation::Node(node) => notifier.inval_inode(INodeNo(*node), 0, 0),
    };
}

fn lock<T>(list: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    // A list is whole after each push.
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
