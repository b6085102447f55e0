//! Tells mounts what the kernel must forget, when a file changes otherwise than by a call of the kernel.
//!
//! A mount passes it on from a thread of its own: the kernel may hold a lock on the file while it waits for an answer.

use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Mutex, PoisonError};

use worknode::history::Name;

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

/// The mounts that are told.
#[derive(Debug, Default)]
pub(super) struct Mounts(Mutex<Vec<Sender<Stale>>>);

impl Mounts {
    pub(super) fn file(&self, ino: u64) {
        self.tell(|| Stale::File(ino));
    }

    /// Tells of a file that is in a directory.
    pub(super) fn file_in(&self, dir: u64, ino: u64) {
        self.tell(|| Stale::Lookups(dir));
        self.file(ino);
    }

    pub(super) fn name(&self, dir: u64, name: &[u8]) {
        self.tell(|| Stale::Name(dir, name.to_vec()));
    }

    pub(super) fn tell(&self, stale: impl Fn() -> Stale) {
        self.lock().retain(|mount| mount.send(stale()).is_ok());
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sender<Stale>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
