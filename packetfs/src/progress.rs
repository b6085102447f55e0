//! How far long work has come, as another thread sees it, which may end it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// How far work has come.
#[derive(Debug, Default)]
pub struct Progress {
    done: AtomicU64,
    total: AtomicU64,
    is_cancelled: AtomicBool,
}

impl Progress {
    /// Returns the bytes that are done, and all bytes; 0 if that is not known.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Relaxed), self.total.load(Relaxed))
    }

    /// Has the work end soon.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Relaxed);
    }

    /// Tells whether the work is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Relaxed)
    }

    /// Says that so many more bytes are to be done.
    pub fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Relaxed);
    }

    /// Says that so many more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Relaxed);
    }
}
