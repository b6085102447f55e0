//! What the answers are made from, and how a request is answered that lacks something: it is attempted again
//! each time the source has fetched what it lacked.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

use super::counters::Counters;
use super::noted::Asker;
use super::source::{Done, Lack, Source};
use crate::mirror::{Invalidation, Mirror};
use crate::store::Shelf;

/// How often one request fetches something before it fails: a file that is written all the time
/// changes between the fetch of its manifest and that of its packets.
const FETCHES_MAX: u32 = 40;

/// What all kernels that show the tree have to forget, and what is called then.
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
    /// view --notices--> the thread that has the kernel forget
    notices: mpsc::Sender<Notice>,
    /// Notices of [`Self::forget`] that the kernel has not taken yet.
    pending: Arc<AtomicU64>,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("counters", &self.counters).finish_non_exhaustive()
    }
}

impl View {
    /// Makes a view of a tree of which nothing is known, and what tells which parts of it the kernel has to
    /// forget.
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
        // The mirror is never left half changed: its methods do not panic between changes.
        self.mirror.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the kernel forget, then calls `done`.
    pub(crate) fn notify(&self, forget: BTreeSet<Invalidation>, done: Box<dyn FnOnce() + Send>) {
        // Without the thread there is no mount any more.
        let _ = self.notices.send(Notice { forget, done });
    }

    /// Has the kernel forget, some time.
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

    /// Tells whether the kernel has forgotten all that it has to forget on account of walks that are over.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.load(Ordering::Acquire) == 0
    }

    /// Answers with `attempt`, fetching what it lacks and trying again until it can.
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
                "a request of a walk failed: what it needs has changed with every answer"
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

    /// Notes why something could not be fetched.
    fn note_unfetched(&self, errno: i32, path: &str, asker: Asker) {
        match errno {
            // The origin does not show it.
            libc::EACCES => self.counters.hidden.note(asker),
            // It was removed meanwhile, as it may be between two calls natively; the change is on its way.
            libc::ENOENT => {}
            _ => {
                let by = asker.program();
                tracing::warn!(errno, ?asker, by, path, "a request of a walk failed");
                self.counters.failures.note(asker);
            }
        }
    }
}
