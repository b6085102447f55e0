//! Tells mounts what the kernel must forget, when a file changes otherwise than by a call of the kernel.
//!
//! A mount passes it on from a thread of its own: the kernel may hold a lock on the file while it waits for an answer.

use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};

use worknode::history::Name;

use super::news::{Feed, Item, UnderWay};

/// What the kernel must forget.
#[derive(Debug)]
pub enum Stale {
    /// Attributes and content of a file.
    File(u64),
    /// A name in a directory, or its absence.
    Name(u64, Name),
    /// Nothing: look-ups in a directory that are under way get into the kernel's cache before what is told next. Otherwise the
    /// kernel would not know a file yet when it is to forget its attributes, and keep those of the look-up.
    Lookups(u64),
    /// Nothing: all that came before is passed on when this is dropped.
    Mark(Mark),
}

/// Tells when it is dropped.
#[derive(Debug)]
pub struct Mark {
    pub(super) _done: SyncSender<()>,
}

/// What a mount must pass on. To be dropped when that is done.
#[derive(Debug)]
pub struct Told {
    /// What the kernel must forget.
    pub stale: Stale,
    pub(super) _under_way: Option<Arc<UnderWay>>,
}

/// The mounts that are told.
#[derive(Debug, Default)]
pub(super) struct Mounts {
    mounts: Mutex<Vec<Sender<Told>>>,
    feed: Arc<Feed>,
}

impl Mounts {
    pub(super) fn file(&self, ino: u64) {
        let under_way = Arc::new(self.begin(Item::File(ino)));
        self.pass(Some(&under_way), || Stale::File(ino));
    }

    /// Notes a change of a file that no kernel knows.
    pub(super) fn unknown_file(&self, ino: u64) {
        drop(self.begin(Item::File(ino)));
    }

    /// Notes a change that programs cannot see yet. It is news until this is dropped.
    pub(super) fn begin(&self, item: Item) -> UnderWay {
        self.feed.begin(item)
    }

    pub(super) fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Tells of a file that is in a directory.
    pub(super) fn file_in(&self, dir: u64, ino: u64) {
        self.tell(|| Stale::Lookups(dir));
        self.file(ino);
    }

    pub(super) fn name(&self, dir: u64, name: &[u8]) {
        let under_way = Arc::new(self.begin(Item::Name(dir, name.to_vec())));
        self.pass(Some(&under_way), || Stale::Name(dir, name.to_vec()));
    }

    pub(super) fn tell(&self, stale: impl Fn() -> Stale) {
        self.pass(None, stale);
    }

    fn pass(&self, under_way: Option<&Arc<UnderWay>>, stale: impl Fn() -> Stale) {
        let told = || Told { stale: stale(), _under_way: under_way.cloned() };
        self.lock().retain(|mount| mount.send(told()).is_ok());
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sender<Told>>> {
        self.mounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
