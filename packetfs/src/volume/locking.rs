//! Locks of programs on files of the volume: what programs ask for, and what nodes say to each other.
//!
//! Before another node gets a lock, what was written here becomes durable events ([`super::givers`]). A message about a lock says
//! up to which events its holder must have seen all: they may take another way than the message. Before a program here gets a
//! lock, it sees them ([`super::showing`]). The thread of this file waits for neither: it sends, and looks at what is due.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use worknode::history::{Author, FileId};

use super::changes::failed;
use super::interrupted::is_interrupted;
use super::locks::{Call, Done, End, Ended, Inner, LockCall, Next, Out, Unsound, Wire};
use super::model::{Shared, Volume};
use crate::locks::{Envelope, Held, Mode, Owner, Ticket, Want};

/// Time between looks at what is due, and at whether a program that waits is to go on otherwise.
const TICK: Duration = Duration::from_millis(20);
/// The same while nobody waits.
const SLOW_TICK: Duration = Duration::from_millis(250);
/// Most programs that are looked at each time: each is a file to read.
const LOOKS_MAX: usize = 256;
/// Longest wait of claims for what was written here: less than a master waits for them.
const CLAIM_GIVE_MAX: Duration = Duration::from_secs(2);

impl Volume {
    /// Takes a lock. `done` may be called at once, or by another thread.
    pub fn take_lock(&self, at: LockCall, mode: Mode, waits: bool, done: Done) {
        self.ask_lock(at, mode, |lock| Want::Lock { lock, waits }, done);
    }

    /// Tells which lock is in the way of one.
    pub fn test_lock(&self, at: LockCall, mode: Mode, done: Done) {
        self.ask_lock(at, mode, |lock| Want::Test { lock }, done);
    }

    /// Gives a lock back. Who gives back many at once waits for the master.
    pub fn release_lock(&self, at: LockCall, done: Done) {
        self.ask_lock(at, Mode::Exclusive, |lock| Want::Unlock { lock }, done);
    }

    fn ask_lock(&self, at: LockCall, mode: Mode, want: impl FnOnce(Held) -> Want, done: Done) {
        let shared = &self.shared;
        let file = match shared.lock_file(at.ino) {
            Ok(file) => file,
            Err(error) => return done(Err(error)),
        };
        let mut inner = shared.locks.lock();
        let lock = at.held(shared.author, mode);
        let want = want(lock);
        let mut before = Vec::new();
        if matches!(want, Want::Lock { .. }) {
            shared.locks.note_handle(&mut inner, &at, file);
            shared.giving.note_user(file, at.user);
            before = inner.node.own(file, &lock);
        }
        let is_test = matches!(want, Want::Test { .. });
        let id = inner.node.request(file, want, at.user, Instant::now());
        inner.calls.insert(id, Call { at, file, mode, is_test, before, done });
        shared.end_acts(inner);
    }

    /// Tells whether no other node is linked, or was not long ago.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.locks.is_alone()
    }

    /// A user's process has closed a file that it may have written. Its locks on that end.
    pub fn note_flush(&self, ino: u64, owner: u64, user: u32) {
        self.shared.note_closed(ino, user);
        if !self.shared.locks.is_unused()
            && let Ok(file) = self.shared.lock_file(ino)
        {
            let owner = Owner { node: self.shared.author, id: owner };
            self.shared.unlock(file, Held::all_of(owner), user);
        }
    }

    /// An open file is gone, with the locks that were taken by it.
    pub fn release_handle(&self, handle: u64) {
        let locks = &self.shared.locks;
        if locks.is_unused() {
            return;
        }
        let mut inner = locks.lock();
        // If its mount is gone, nobody hears the answers.
        let waiting = inner.calls.iter().filter(|(_, call)| call.at.handle == handle);
        let waiting: Vec<u64> = waiting.map(|(id, _)| *id).collect();
        waiting.into_iter().for_each(|id| inner.node.cancel(id, Instant::now()));
        // At once: otherwise the next open file with one of the numbers could get a lock in between, and lose it.
        for (file, id, user) in locks.end_handle(&mut inner, handle) {
            let owner = Owner { node: self.shared.author, id };
            inner.node.unlock(file, Held::all_of(owner), user, Instant::now());
        }
        self.shared.end_acts(inner);
    }

    /// Another node's volume is linked.
    pub fn begin_locks(&self, node: Author, wire: Wire) {
        let mut inner = self.shared.locks.lock();
        self.shared.note_alone(false);
        inner.wires.insert(node, wire);
        inner.node.begin(node, Instant::now());
        self.shared.end_acts(inner);
    }

    /// The link to it has ended.
    pub fn end_locks(&self, node: Author) {
        let mut inner = self.shared.locks.lock();
        inner.wires.remove(&node);
        inner.outboxes.remove(&node);
        inner.seen.end(node);
        inner.node.end(node, Instant::now());
        self.shared.end_acts(inner);
    }

    /// Takes its message.
    ///
    /// # Errors
    /// It is damaged, or not true.
    pub fn hear_locks(&self, node: Author, message: &[u8]) -> Result<(), Unsound> {
        let Envelope { seen, round, word } = Envelope::decode(message).ok_or(Unsound::Damaged)?;
        let (own, now) = (self.shared.author, Instant::now());
        let knows = |author| author == own || self.shared.foreign.get(author).is_some();
        let seen: Vec<_> =
            seen.into_iter().filter(|(author, _)| *author == node || knows(*author)).collect();
        let mut inner = self.shared.locks.lock();
        inner.seen.hear(node, &seen, |_| true, now);
        let is_fit = inner.node.hear(node, round, word, now);
        self.shared.end_acts(inner);
        if is_fit { Ok(()) } else { Err(Unsound::Untrue) }
    }

    /// A linked node says how many events its volume has made.
    pub fn note_has(&self, author: Author, last: u64) {
        self.shared.locks.lock().seen.note_has(author, last, Instant::now());
    }
}

/// Works until the volume is closed: sends what is to be sent, in order, and looks at what is due.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut inner = shared.locks.lock();
    let mut ticked = Instant::now();
    while !inner.is_closed {
        let now = Instant::now();
        match inner.next_out(now, now + CLAIM_GIVE_MAX) {
            Next::Send(out) => {
                drop(inner);
                shared.say(out);
                inner = shared.locks.lock();
            }
            Next::Give(master) => {
                drop(inner);
                shared.give_for_claim(master);
                inner = shared.locks.lock();
            }
            Next::Nothing => inner = wait(shared, inner),
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            drop(inner);
            shared.tick_locks();
            inner = shared.locks.lock();
        }
    }
}

fn wait<'a>(shared: &'a Shared, inner: MutexGuard<'a, Inner>) -> MutexGuard<'a, Inner> {
    let due = &shared.locks.due;
    let is_waited = !inner.calls.is_empty() || !inner.showing.is_empty();
    if !is_waited && inner.node.is_idle() && inner.outboxes.is_empty() {
        return due.wait(inner).unwrap_or_else(PoisonError::into_inner);
    }
    let is_soon = is_waited || inner.node.is_waited_for();
    let tick = if is_soon { TICK } else { SLOW_TICK };
    due.wait_timeout(inner, tick).unwrap_or_else(PoisonError::into_inner).0
}

impl Shared {
    /// Returns the file of a number; one that only this node knows, for what others cannot know.
    fn lock_file(&self, ino: u64) -> Result<FileId, Errno> {
        let found = self.lock().tree.find(ino).map_err(|error| failed(&error))?;
        let private = FileId { author: Author::default(), seq: ino };
        Ok(found.map_or(private, |node| node.id))
    }

    /// A user's program has closed a file that it may have written.
    pub(super) fn note_closed(&self, ino: u64, user: u32) {
        if !self.locks.is_alone() {
            self.giving.note_closed(ino, user);
        }
    }

    /// Takes note whether another node is linked. What was closed before is to be given all.
    fn note_alone(&self, is_alone: bool) {
        if self.locks.set_alone(is_alone) {
            self.giving.note_all();
        }
    }

    pub(super) fn unlock(self: &Arc<Self>, file: FileId, lock: Held, user: u32) {
        let mut inner = self.locks.lock();
        inner.node.unlock(file, lock, user, Instant::now());
        self.end_acts(inner);
    }

    /// Does what follows from what the nodes decide.
    pub(super) fn end_acts<'a>(self: &'a Arc<Self>, mut inner: MutexGuard<'a, Inner>) {
        loop {
            let (ended, gives) = self.locks.act(&mut inner);
            let is_alone = inner.node.is_alone();
            if !inner.calls.is_empty() {
                self.locks.due.notify_one();
            }
            drop(inner);
            self.end_calls(ended, is_alone);
            let given =
                gives.into_iter().filter(|(ticket, file)| self.give_for_lock(*ticket, *file));
            let given: Vec<Ticket> = given.map(|(ticket, _)| ticket).collect();
            if given.is_empty() {
                break;
            }
            inner = self.locks.lock();
            given.into_iter().for_each(|ticket| inner.node.given(ticket, Instant::now()));
        }
    }

    /// What a lock waited for is given.
    pub(super) fn end_give(self: &Arc<Self>, ticket: Ticket) {
        let mut inner = self.locks.lock();
        inner.node.given(ticket, Instant::now());
        self.end_acts(inner);
    }

    /// What claims waited for is given.
    pub(super) fn end_claim_give(&self, master: Author) {
        self.locks.lock().note_given(master);
        self.locks.due.notify_one();
    }

    /// Answers calls. Whoever gets a lock first sees what the former holders wrote.
    fn end_calls(self: &Arc<Self>, ended: Vec<Ended>, is_alone: bool) {
        for (id, call, end) in ended {
            match end {
                End::Test(held) => (call.done)(Ok(held)),
                End::Released => (call.done)(Ok(None)),
                End::Failed(error) => (call.done)(Err(error)),
                End::Granted if is_alone || self.is_seen(&call) => (call.done)(Ok(None)),
                End::Granted => self.show(id, call),
            }
        }
    }

    /// Sends a message.
    fn say(&self, Out { to, round, word }: Out) {
        let own = self.log.shared();
        let applied = self.applied_of_all();
        let mut inner = self.locks.lock();
        if own > 0 {
            inner.seen.hear(self.author, &[(self.author, own)], |_| true, Instant::now());
        }
        let seen = inner.seen.to_tell(|author| applied.get(&author).copied().unwrap_or_default());
        if let Some(wire) = inner.wires.get(&to)
            && let Ok(bytes) = postcard::to_allocvec(&Envelope { seen, round, word })
        {
            wire(bytes);
        }
    }

    /// Returns up to which event of each author all are here.
    pub(super) fn applied_of_all(&self) -> BTreeMap<Author, u64> {
        let authors: Vec<Author> = self.foreign.all().iter().map(|it| it.author).collect();
        let state = self.lock();
        let authors = authors.into_iter().chain([self.author]);
        authors.map(|author| (author, state.tree.applied(author))).collect()
    }

    /// Does what is due, and lets programs go on that wait and have got a signal.
    fn tick_locks(self: &Arc<Self>) {
        let waiting: Vec<(u64, u32)> = {
            let mut inner = self.locks.lock();
            let threads = inner.calls.range(inner.looked_at + 1..).take(LOOKS_MAX);
            let threads: Vec<_> = threads.map(|(id, call)| (*id, call.at.thread)).collect();
            let is_all = threads.len() < LOOKS_MAX;
            inner.looked_at = threads.last().filter(|_| !is_all).map_or(0, |(id, _)| *id);
            threads
        };
        let interrupted = waiting.into_iter().filter(|(_, thread)| is_interrupted(*thread));
        let interrupted: Vec<u64> = interrupted.map(|(id, _)| id).collect();
        self.end_shows();
        let mut inner = self.locks.lock();
        let now = Instant::now();
        interrupted.into_iter().for_each(|id| inner.node.cancel(id, now));
        inner.node.tick(now);
        self.note_alone(inner.node.is_alone());
        self.end_acts(inner);
    }
}
