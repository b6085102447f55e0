//! The calls of programs for locks, until they are answered. [`crate::locks`] decides, [`super::locking`] does what follows.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use worknode::history::{Author, FileId};

use crate::locks::{Action, Held, Mode, Node, Owner, Refusal, Space, Told, Word};

/// Most files of which it is remembered that programs have closed them. Beyond that all files are looked at.
const CLOSED_MAX: usize = 4096;

/// What a program asks for.
#[derive(Debug, Clone, Copy)]
pub struct LockCall {
    pub ino: u64,
    /// The open file.
    pub handle: u64,
    /// The kernel's number of who asks.
    pub owner: u64,
    pub space: Space,
    pub start: u64,
    /// The last byte.
    pub end: u64,
    /// The process, and the thread that waits.
    pub pid: u32,
    pub thread: u32,
}

impl LockCall {
    pub(super) fn held(&self, node: Author, mode: Mode) -> Held {
        let Self { space, start, end, pid, .. } = *self;
        Held { owner: Owner { node, id: self.owner }, space, mode, start, end, pid }
    }
}

/// Told how a call ends: for a test also which lock is in the way.
pub type Done = Box<dyn FnOnce(Result<Option<Held>, Errno>) + Send>;
/// Sends a message to another node.
pub type Wire = Box<dyn Fn(Vec<u8>) + Send>;

/// A call that is not answered yet.
pub(super) struct Call {
    pub(super) at: LockCall,
    pub(super) file: FileId,
    pub(super) mode: Mode,
    pub(super) is_test: bool,
    pub(super) done: Done,
}

/// How a call ends.
pub(super) enum End {
    Granted,
    Test(Option<Held>),
    Failed(Errno),
}

/// What is to be said to another node.
pub(super) struct Out {
    pub(super) to: Author,
    /// What programs have written to this file, and to those that they have closed, becomes events first.
    pub(super) first: Option<FileId>,
    pub(super) round: u64,
    pub(super) word: Word,
}

/// The locks of a volume.
#[derive(Debug)]
pub(super) struct Locks {
    inner: Mutex<Inner>,
    pub(super) due: Condvar,
    /// Told when events were applied.
    pub(super) applied: Condvar,
    /// Events that are being applied, or of which kernels are being told.
    learning: AtomicUsize,
    /// Open files by which locks were asked for.
    handles: AtomicUsize,
    is_alone: AtomicBool,
    closed: Mutex<Closed>,
}

/// What programs have closed since others were given all.
#[derive(Debug, Default)]
pub(super) struct Closed {
    pub(super) files: BTreeSet<u64>,
    /// There are more.
    pub(super) is_all: bool,
}

pub(super) struct Inner {
    pub(super) node: Node,
    pub(super) calls: HashMap<u64, Call>,
    /// Who has asked for locks on which file by an open file.
    handles: HashMap<u64, BTreeSet<(FileId, u64)>>,
    pub(super) wires: BTreeMap<Author, Wire>,
    pub(super) outbox: VecDeque<Out>,
    /// What holders of locks must see.
    pub(super) seen: BTreeMap<Author, u64>,
    pub(super) is_closed: bool,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("node", &self.node).finish_non_exhaustive()
    }
}

impl Locks {
    pub(super) fn new(author: Author) -> Self {
        let inner = Inner {
            node: Node::new(author),
            calls: HashMap::new(),
            handles: HashMap::new(),
            wires: BTreeMap::new(),
            outbox: VecDeque::new(),
            seen: BTreeMap::new(),
            is_closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            due: Condvar::new(),
            applied: Condvar::new(),
            learning: AtomicUsize::new(0),
            handles: AtomicUsize::new(0),
            is_alone: AtomicBool::new(true),
            closed: Mutex::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note that events of others are about to be applied.
    pub(super) fn begin_learning(&self) {
        self.learning.fetch_add(1, Ordering::SeqCst);
    }

    /// Takes note that they were applied, and that kernels have been told.
    pub(super) fn end_learning(&self) {
        self.learning.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn is_learning(&self) -> bool {
        self.learning.load(Ordering::SeqCst) > 0
    }

    pub(super) fn is_alone(&self) -> bool {
        self.is_alone.load(Ordering::Relaxed)
    }

    /// Takes note that a program has closed a file that it may have written.
    pub(super) fn note_closed(&self, ino: u64) {
        if self.is_alone() {
            return;
        }
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.is_all |= closed.files.len() >= CLOSED_MAX;
        if !closed.is_all {
            closed.files.insert(ino);
        }
    }

    /// Returns what programs have closed since this was asked last.
    pub(super) fn take_closed(&self) -> Closed {
        std::mem::take(&mut *self.closed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes note whether another node is linked. What was closed before is to be given all.
    pub(super) fn set_alone(&self, is_alone: bool) {
        if self.is_alone.swap(is_alone, Ordering::Relaxed) && !is_alone {
            self.closed.lock().unwrap_or_else(PoisonError::into_inner).is_all = true;
        }
    }

    /// Tells whether no program has asked for locks by what is still open.
    pub(super) fn is_unused(&self) -> bool {
        self.handles.load(Ordering::Relaxed) == 0
    }

    /// Takes note of who asks for a lock by an open file.
    pub(super) fn note_handle(&self, inner: &mut Inner, at: &LockCall, file: FileId) {
        inner.handles.entry(at.handle).or_default().insert((file, at.owner));
        self.handles.store(inner.handles.len(), Ordering::Relaxed);
    }

    /// Returns who has asked for locks by an open file that is gone.
    pub(super) fn end_handle(&self, inner: &mut Inner, handle: u64) -> BTreeSet<(FileId, u64)> {
        let asked = inner.handles.remove(&handle).unwrap_or_default();
        self.handles.store(inner.handles.len(), Ordering::Relaxed);
        asked
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.due.notify_all();
    }

    /// Has sent what is to be sent, and returns the calls that have ended.
    pub(super) fn act(&self, inner: &mut Inner) -> Vec<(Call, End)> {
        let mut ended = Vec::new();
        for action in inner.node.actions() {
            let told = match action {
                Action::Tell(told) => told,
                Action::Send { to, first, round, word } => {
                    inner.outbox.push_back(Out { to, first, round, word });
                    self.due.notify_one();
                    continue;
                }
            };
            let (id, end) = match told {
                Told::Granted { id } => (id, End::Granted),
                Told::Free { id } => (id, End::Test(None)),
                Told::Late { id } => (id, End::Failed(Errno::ENOLCK)),
                Told::Refused { id, refusal: Refusal::Held(held) } => {
                    let is_test = inner.calls.get(&id).is_some_and(|call| call.is_test);
                    (id, if is_test { End::Test(Some(held)) } else { End::Failed(Errno::EAGAIN) })
                }
                Told::Refused { id, refusal: Refusal::Deadlock } => {
                    (id, End::Failed(Errno::EDEADLK))
                }
                Told::Refused { id, refusal: Refusal::Cancelled } => {
                    (id, End::Failed(Errno::EINTR))
                }
                Told::Refused { id, refusal: Refusal::Full } => (id, End::Failed(Errno::ENOLCK)),
                Told::Lost { file, lock } => {
                    tracing::warn!(
                        pid = lock.pid,
                        ?file,
                        "a program has lost its lock: another node had taken one while this node was not connected with it; \
                         what both have written is kept as versions"
                    );
                    continue;
                }
            };
            if let Some(call) = inner.calls.remove(&id) {
                ended.push((call, end));
            }
        }
        ended
    }
}
