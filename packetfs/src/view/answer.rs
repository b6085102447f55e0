//! The view's state, and the retry loop: a request that lacks data is attempted again each time the source has
//! fetched what it lacked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::counters::Counters;
use super::noted::Asker;
use super::source::{Done, Lack, Source};
use crate::mirror::{Invalidation, Mirror};
use crate::store::Shelf;

/// Most fetches for one request before it fails. A file that is written continuously may change between
/// the fetches of its manifest and of its packets.
const FETCHES_MAX: u32 = 40;

/// Invalidations for every mount of the tree, and a callback for when the kernel has processed them.
pub(crate) struct Notice {
    pub(crate) forget: BTreeSet<Invalidation>,
    pub(crate) done: Box<dyn FnOnce() + Send>,
}

/// An origin's files as a runner sees them.
pub(crate) struct View {
    mirror: Mutex<Mirror>,
    pub(super) store: Shelf,
    source: Box<dyn Source>,
    pub(crate) counters: Counters,
    /// view --notices--> the thread that sends invalidations to the kernel
    notices: mpsc::Sender<Notice>,
    /// Number of notices from [`Self::forget`] that the kernel has not processed yet.
    pending: Arc<AtomicU64>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl View {
    /// Makes a view of a tree of which nothing is known yet, and the receiver of its invalidations.
    pub(crate) fn new(
        store: Shelf,
        source: Box<dyn Source>,
    ) -> (Arc<Self>, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel();
        let view = Self {
            mirror: Mutex::new(Mirror::new()),
            store,
            source,
            counters: Counters::default(),
            notices,
            pending: Arc::default(),
        };
        (Arc::new(view), receiver)
    }

    /// Returns the mirror.
    pub(crate) fn mirror(&self) -> MutexGuard<'_, Mirror> {
        // Poisoning is harmless: the mirror's methods do not panic halfway through a change.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues invalidations for the kernel; `done` is called afterwards.
    pub(crate) fn notify(&self, forget: BTreeSet<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        // If the receiving thread has ended, so has the mount.
        let _ = self.notices.send(Notice { forget, done });
    }

    /// Queues invalidations that nobody waits for.
    pub(super) fn forget(&self, forget: BTreeSet<Invalidation>) {
        if forget.is_empty() {
            return;
        }
        let pending = Arc::clone(&self.pending);
        pending.fetch_add(1, Ordering::AcqRel);
        let done = Box::new(move || {
            pending.fetch_sub(1, Ordering::AcqRel);
        });
        self.notify(forget, done);
    }

    /// Tells whether the kernel has processed all invalidations due to finished walks.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Calls `attempt`, fetching what it lacks, until it succeeds, and answers with its result.
    pub(crate) fn answer<T: Send + 'static>(
        self: &Arc<Self>,
        asker: Asker,
        attempt: impl Fn(&Self) -> Result<T, Lack> + Send + 'static,
        reply: impl FnOnce(Result<T, i32>, Asker) + Send + 'static,
    ) {
        self.answer_after(0, asker, attempt, reply);
    }

    fn answer_after<T: Send + 'static>(
        self: &Arc<Self>,
        fetches: u32,
        asker: Asker,
        attempt: impl Fn(&Self) -> Result<T, Lack> + Send + 'static,
        reply: impl FnOnce(Result<T, i32>, Asker) + Send + 'static,
    ) {
        let ask = match attempt(self) {
            Ok(value) => return reply(Ok(value), asker),
            Err(Lack::Errno(errno)) => return reply(Err(errno), asker),
            Err(Lack::Hidden) => {
                self.counters.hidden.note(asker);
                return reply(Err(libc::EACCES), asker);
            }
            Err(Lack::Ask(ask)) => ask,
        };
        if fetches == FETCHES_MAX {
            tracing::warn!(
                path = ask.named(),
                ?asker,
                "a walk's file request failed: the file changed during every fetch"
            );
            self.counters.failures.note(asker);
            return reply(Err(libc::EIO), asker);
        }
        if fetches == 0 {
            self.counters.fetches.fetch_add(1, Ordering::Relaxed);
        }
        let (view, asker, path) = (Arc::clone(self), asker.looked_up(), ask.named());
        let done: Done = Box::new(move |result| match result {
            Ok(()) => view.answer_after(fetches + 1, asker, attempt, reply),
            Err(errno) => {
                view.note_unfetched(errno, &path, asker);
                reply(Err(errno), asker);
            }
        });
        self.source.fetch(ask, done);
    }

    /// Records why a fetch failed.
    fn note_unfetched(&self, errno: i32, path: &str, asker: Asker) {
        match errno {
            // The origin hides it.
            libc::EACCES => self.counters.hidden.note(asker),
            // It has just been removed, which can also happen between two calls at the origin. The change
            // is about to arrive.
            libc::ENOENT => {}
            _ => {
                let by = asker.program();
                tracing::warn!(errno, ?asker, by, path, "a walk's file request failed");
                self.counters.failures.note(asker);
            }
        }
    }
}
