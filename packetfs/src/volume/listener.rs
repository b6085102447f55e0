//! Tells listeners which names and files of a volume have changed, whoever changed them.
//!
//! The news for whoever watches a mount leave out what programs do there. Listeners hear that, too.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::event::{EventfdFlags, eventfd};
use worknode::history::Name;

/// Most changes that are noted one by one. Beyond this number, everything counts as changed.
const HEARD_MAX: usize = 10_000;

/// What has changed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Names in directories.
    pub names: BTreeSet<(u64, Name)>,
    /// Files with another content or other attributes.
    pub files: BTreeSet<u64>,
    /// Too much has changed to say what.
    pub is_all: bool,
}

/// Hears of changes until it is dropped.
#[derive(Debug)]
pub struct Listener {
    heard: Mutex<Heard>,
    wake: OwnedFd,
}

/// The listeners of a volume.
#[derive(Debug, Default)]
pub(super) struct Listeners(Vec<Weak<Listener>>);

impl Listeners {
    /// Returns a new listener.
    pub(super) fn add(&mut self) -> io::Result<Arc<Listener>> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let listener = Arc::new(Listener { heard: Mutex::default(), wake });
        self.0.push(Arc::downgrade(&listener));
        Ok(listener)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tells all of changed names and files.
    pub(super) fn tell(&mut self, names: &BTreeSet<(u64, Name)>, files: &BTreeSet<u64>) {
        if names.is_empty() && files.is_empty() {
            return;
        }
        self.0.retain(|listener| {
            let Some(listener) = listener.upgrade() else { return false };
            listener.note(names, files);
            true
        });
    }
}

impl Listener {
    /// Returns a descriptor that is readable when something has changed.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn queue(&self) -> io::Result<OwnedFd> {
        self.wake.try_clone()
    }

    /// Takes the changes since the last call.
    #[must_use]
    pub fn take(&self) -> Heard {
        let mut heard = self.lock();
        // It fails only if nothing was written.
        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        std::mem::take(&mut heard)
    }

    fn note(&self, names: &BTreeSet<(u64, Name)>, files: &BTreeSet<u64>) {
        let mut heard = self.lock();
        if !heard.is_all {
            heard.names.extend(names.iter().cloned());
            heard.files.extend(files.iter().copied());
        }
        if heard.names.len() + heard.files.len() > HEARD_MAX {
            *heard = Heard { is_all: true, ..Heard::default() };
        }
        // It fails only if the counter is full, and then it is readable.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
