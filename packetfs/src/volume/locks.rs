//! The calls of programs for locks, until they are answered. [`crate::locks`] decides, [`super::locking`] does what follows.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use worknode::history::{Author, FileId};

use crate::locks::{
    Action, Ask, Held, Mode, Node, Owner, Refusal, Seen, Space, Ticket, Told, Word,
};

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
    /// Whose program it is.
    pub user: u32,
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
    /// What its owner had in its range.
    pub(super) before: Vec<Held>,
    pub(super) done: Done,
}

/// A call whose program has its lock, but does not know of it before it sees what the former holders wrote.
pub(super) struct Showing {
    /// Until it was told otherwise.
    pub(super) call: Option<Call>,
    pub(super) user: u32,
    pub(super) until: Instant,
}

/// What is wrong with a message about locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsound {
    /// It does not decode.
    #[error("it does not decode")]
    Damaged,
    /// It answers what was not asked.
    #[error("it answers what was not asked")]
    Untrue,
}

/// A call that has ended, with its number.
pub(super) type Ended = (u64, Call, End);

/// How a call ends.
pub(super) enum End {
    Granted,
    Test(Option<Held>),
    Released,
    Failed(Errno),
}

/// What is to be said to another node.
pub(super) struct Out {
    pub(super) to: Author,
    pub(super) round: u64,
    pub(super) word: Word,
}

impl Out {
    fn begins_round(&self) -> bool {
        matches!(self.word, Word::Ask(Ask::Claim { is_first: true, .. }))
    }
}

/// What is to be said to one node, in order.
#[derive(Default)]
pub(super) struct Outbox {
    outs: VecDeque<Out>,
    /// Until when its first message waits for what was written here.
    pub(super) until: Option<Instant>,
    /// Whether that was given.
    is_given: bool,
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
}

pub(super) struct Inner {
    pub(super) node: Node,
    pub(super) calls: BTreeMap<u64, Call>,
    pub(super) showing: BTreeMap<u64, Showing>,
    /// Who has asked for locks on which file by an open file, and whose program that was.
    handles: HashMap<u64, BTreeSet<Asked>>,
    /// By how many open files each has asked.
    askers: HashMap<Asked, usize>,
    pub(super) wires: BTreeMap<Author, Wire>,
    pub(super) outboxes: BTreeMap<Author, Outbox>,
    /// What holders of locks must see.
    pub(super) seen: Seen,
    /// The last call that was looked at for signals.
    pub(super) looked_at: u64,
    pub(super) is_closed: bool,
}

/// The file, the kernel's number of who asks, and the user.
pub(super) type Asked = (FileId, u64, u32);

impl Inner {
    /// Tells whether an open file is still there by which locks were asked for.
    pub(super) fn has_handle(&self, handle: u64) -> bool {
        self.handles.contains_key(&handle)
    }

    /// Returns what is to be done next about messages. Claims wait until then for what was written here.
    pub(super) fn next_out(&mut self, now: Instant, wait_until: Instant) -> Next {
        for (to, it) in &mut self.outboxes {
            let Some(first) = it.outs.front() else { continue };
            if !first.begins_round() || it.is_given || it.until.is_some_and(|until| now >= until) {
                (it.until, it.is_given) = (None, false);
                let Some(out) = it.outs.pop_front() else { continue };
                return Next::Send(out);
            }
            if it.until.is_none() {
                it.until = Some(wait_until);
                return Next::Give(*to);
            }
        }
        self.outboxes.retain(|_, it| !it.outs.is_empty());
        Next::Nothing
    }

    /// What the first message to a node waited for is given.
    pub(super) fn note_given(&mut self, to: Author) {
        if let Some(it) = self.outboxes.get_mut(&to).filter(|it| it.until.is_some()) {
            it.is_given = true;
        }
    }
}

/// What is to be done about messages.
pub(super) enum Next {
    Send(Out),
    /// What was written here is to be given before a message to this node.
    Give(Author),
    Nothing,
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
            calls: BTreeMap::new(),
            showing: BTreeMap::new(),
            handles: HashMap::new(),
            askers: HashMap::new(),
            wires: BTreeMap::new(),
            outboxes: BTreeMap::new(),
            seen: Seen::default(),
            looked_at: 0,
            is_closed: false,
        };
        Self {
            inner: Mutex::new(inner),
            due: Condvar::new(),
            applied: Condvar::new(),
            learning: AtomicUsize::new(0),
            handles: AtomicUsize::new(0),
            is_alone: AtomicBool::new(true),
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

    /// Takes note whether another node is linked. Returns whether that is so since now.
    pub(super) fn set_alone(&self, is_alone: bool) -> bool {
        self.is_alone.swap(is_alone, Ordering::Relaxed) && !is_alone
    }

    /// Tells whether no program has asked for locks by what is still open.
    pub(super) fn is_unused(&self) -> bool {
        self.handles.load(Ordering::Relaxed) == 0
    }

    /// Takes note of who asks for a lock by an open file.
    pub(super) fn note_handle(&self, inner: &mut Inner, at: &LockCall, file: FileId) {
        let asked = (file, at.owner, at.user);
        if inner.handles.entry(at.handle).or_default().insert(asked) {
            *inner.askers.entry(asked).or_default() += 1;
        }
        self.handles.store(inner.handles.len(), Ordering::Relaxed);
    }

    /// Returns who has asked for locks by an open file that is gone, and by no other one: the kernel tells of a close only some time
    /// after it, and gives its number to the next open file at once.
    pub(super) fn end_handle(&self, inner: &mut Inner, handle: u64) -> BTreeSet<Asked> {
        let mut asked = inner.handles.remove(&handle).unwrap_or_default();
        self.handles.store(inner.handles.len(), Ordering::Relaxed);
        asked.retain(|asked| {
            let Some(count) = inner.askers.get_mut(asked) else { return true };
            *count -= 1;
            let is_last = *count == 0;
            if is_last {
                inner.askers.remove(asked);
            }
            is_last
        });
        asked
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.due.notify_all();
    }

    /// Has sent what is to be sent, and returns the calls that have ended, and what is to be given.
    pub(super) fn act(&self, inner: &mut Inner) -> (Vec<Ended>, Vec<(Ticket, FileId)>) {
        let (mut ended, mut gives) = (Vec::new(), Vec::new());
        for action in inner.node.actions() {
            let told = match action {
                Action::Tell(told) => told,
                Action::Give { ticket, file } => {
                    gives.push((ticket, file));
                    continue;
                }
                Action::Send { to, round, word } => {
                    let outs = &mut inner.outboxes.entry(to).or_default().outs;
                    outs.push_back(Out { to, round, word });
                    self.due.notify_one();
                    continue;
                }
            };
            let (id, end) = match told {
                Told::Granted { id } => (id, End::Granted),
                Told::Free { id } => (id, End::Test(None)),
                Told::Released { id } => (id, End::Released),
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
                ended.push((id, call, end));
            }
        }
        (ended, gives)
    }
}
