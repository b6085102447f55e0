//! Locks of programs on files of the volume: what they see when they have one.
//!
//! Before another node gets a lock, what was written here becomes durable events. A message about a lock says up to which events
//! its holder must have seen all: they may take another way than the message. Before a program here gets a lock, they are applied,
//! and its open file has their content.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use worknode::history::{Author, FileId};

use super::changes::failed;
use super::error::VolumeError;
use super::interrupted::is_interrupted;
use super::locks::{Call, Closed, Done, End, Inner, LockCall, Out, Wire};
use super::model::{Shared, Volume};
use crate::locks::message::AUTHORS_MAX;
use crate::locks::{Envelope, Held, Mode, Owner, Want};

/// Time between looks at what is due, and at whether a program that waits is to go on otherwise.
const TICK: Duration = Duration::from_millis(20);
/// The same while nobody waits.
const SLOW_TICK: Duration = Duration::from_millis(250);
/// Longest wait of a granted lock for the events that its holder must see, of nodes that are linked.
const SEEN_WAIT: Duration = Duration::from_secs(10);
/// The same for events of others, which perhaps nobody has.
const UNSEEN_WAIT: Duration = Duration::from_secs(1);
/// How often that is looked at.
const SEEN_TICK: Duration = Duration::from_millis(50);
/// Times that a file's content is replaced while others write it.
const REFRESHED_MAX: u32 = 4;

impl Volume {
    /// Takes a lock. `done` may be called at once, or by another thread.
    pub fn take_lock(&self, at: LockCall, mode: Mode, waits: bool, done: Done) {
        self.ask_lock(at, mode, |lock| Want::Lock { lock, waits }, false, done);
    }

    /// Tells which lock is in the way of one.
    pub fn test_lock(&self, at: LockCall, mode: Mode, done: Done) {
        self.ask_lock(at, mode, |lock| Want::Test { lock }, true, done);
    }

    fn ask_lock(
        &self,
        at: LockCall,
        mode: Mode,
        want: impl FnOnce(Held) -> Want,
        is_test: bool,
        done: Done,
    ) {
        let shared = &self.shared;
        let file = match shared.lock_file(at.ino) {
            Ok(file) => file,
            Err(error) => return done(Err(error)),
        };
        let mut inner = shared.locks.lock();
        if !is_test {
            shared.locks.note_handle(&mut inner, &at, file);
        }
        let id = inner.node.request(file, want(at.held(shared.author, mode)), Instant::now());
        inner.calls.insert(id, Call { at, file, mode, is_test, done });
        shared.end_acts(inner);
    }

    /// Gives a lock back.
    ///
    /// # Errors
    /// The volume does not work.
    pub fn release_lock(&self, at: LockCall) -> Result<(), Errno> {
        let file = self.shared.lock_file(at.ino)?;
        self.shared.unlock(file, at.held(self.shared.author, Mode::Exclusive));
        Ok(())
    }

    /// Tells whether no other node is linked, or was not long ago.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.shared.locks.is_alone()
    }

    /// A process has closed a file that it may have written. Its locks on that end.
    pub fn note_flush(&self, ino: u64, owner: u64) {
        self.shared.locks.note_closed(ino);
        if !self.shared.locks.is_unused()
            && let Ok(file) = self.shared.lock_file(ino)
        {
            let owner = Owner { node: self.shared.author, id: owner };
            self.shared.unlock(file, Held::all_of(owner));
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
        let asked = locks.end_handle(&mut inner, handle);
        self.shared.end_acts(inner);
        for (file, id) in asked {
            self.shared.unlock(file, Held::all_of(Owner { node: self.shared.author, id }));
        }
    }

    /// Another node's volume is linked.
    pub fn begin_locks(&self, node: Author, wire: Wire) {
        let mut inner = self.shared.locks.lock();
        self.shared.locks.set_alone(false);
        inner.wires.insert(node, wire);
        inner.node.begin(node, Instant::now());
        self.shared.end_acts(inner);
    }

    /// The link to it has ended.
    pub fn end_locks(&self, node: Author) {
        let mut inner = self.shared.locks.lock();
        inner.wires.remove(&node);
        inner.node.end(node, Instant::now());
        self.shared.end_acts(inner);
    }

    /// Takes its message. Returns `None` if that is damaged.
    #[must_use]
    pub fn hear_locks(&self, node: Author, message: &[u8]) -> Option<()> {
        let Envelope { seen, round, word } = Envelope::decode(message)?;
        let mut inner = self.shared.locks.lock();
        for (author, last) in seen {
            if inner.seen.len() < AUTHORS_MAX || inner.seen.contains_key(&author) {
                let known = inner.seen.entry(author).or_default();
                *known = last.max(*known);
            }
        }
        inner.node.hear(node, round, word, Instant::now());
        self.shared.end_acts(inner);
        Some(())
    }
}

/// Works until the volume is closed: sends what is to be sent, in order, and looks at what is due.
pub(super) fn run(shared: &Arc<Shared>) {
    let mut inner = shared.locks.lock();
    let mut ticked = Instant::now();
    while !inner.is_closed {
        if let Some(out) = inner.outbox.pop_front() {
            drop(inner);
            shared.say(out);
            inner = shared.locks.lock();
        } else if inner.node.is_idle() && inner.calls.is_empty() {
            inner = shared.locks.due.wait(inner).unwrap_or_else(PoisonError::into_inner);
        } else {
            let is_waited = inner.node.is_waited_for() || !inner.calls.is_empty();
            let tick = if is_waited { TICK } else { SLOW_TICK };
            let waited = shared.locks.due.wait_timeout(inner, tick);
            inner = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            drop(inner);
            shared.tick_locks();
            inner = shared.locks.lock();
        }
    }
}

impl Shared {
    /// Returns the file of a number; one that only this node knows, for what others cannot know.
    fn lock_file(&self, ino: u64) -> Result<FileId, Errno> {
        let found = self.lock().tree.find(ino).map_err(|error| failed(&error))?;
        let private = FileId { author: Author::default(), seq: ino };
        Ok(found.map_or(private, |node| node.id))
    }

    fn unlock(self: &Arc<Self>, file: FileId, lock: Held) {
        let mut inner = self.locks.lock();
        inner.node.unlock(file, lock, Instant::now());
        self.end_acts(inner);
    }

    fn end_acts(self: &Arc<Self>, mut inner: MutexGuard<'_, Inner>) {
        let ended = self.locks.act(&mut inner);
        let is_alone = inner.node.is_alone();
        if !inner.calls.is_empty() {
            self.locks.due.notify_one();
        }
        drop(inner);
        self.end_calls(ended, is_alone);
    }

    /// Answers calls. Whoever gets a lock first sees what the former holders wrote.
    fn end_calls(self: &Arc<Self>, ended: Vec<(Call, End)>, is_alone: bool) {
        for (call, end) in ended {
            match end {
                End::Test(held) => (call.done)(Ok(held)),
                End::Failed(error) => (call.done)(Err(error)),
                End::Granted if is_alone || self.is_seen(&call) => (call.done)(Ok(None)),
                End::Granted => {
                    let shared = Arc::clone(self);
                    let thread = std::thread::Builder::new().name("locked".into());
                    if let Err(error) = thread.spawn(move || shared.end_grant(call)) {
                        // The answer that is dropped is an error for the program, whose descriptor gives the lock back.
                        tracing::error!(%error, "failed to start a thread for a lock");
                    }
                }
            }
        }
    }

    fn end_grant(self: &Arc<Self>, call: Call) {
        let shown = self.see().and_then(|()| self.refresh(call.at.ino));
        if let Err(error) = shown {
            tracing::warn!(%error, "a lock is not granted: what its former holder wrote is not here");
            self.unlock(call.file, call.at.held(self.author, call.mode));
            return (call.done)(Err(Errno::ENOLCK));
        }
        (call.done)(Ok(None));
    }

    /// Returns those authors of whom not all is applied that a holder must see.
    fn unseen(&self) -> BTreeSet<Author> {
        let seen: Vec<_> = self.locks.lock().seen.iter().map(|(it, last)| (*it, *last)).collect();
        let state = self.lock();
        let missing = seen.into_iter().filter(|(author, last)| state.tree.applied(*author) < *last);
        missing.map(|(author, _)| author).collect()
    }

    /// Tells whether a holder sees all that it must.
    fn is_seen(&self, call: &Call) -> bool {
        // The kernel may still have what was before.
        self.unseen().is_empty()
            && !self.locks.is_learning()
            && !self.lock().bases.contains_key(&call.at.ino)
    }

    /// Waits until a holder sees all that it must. What nodes have that are not linked may be nowhere else.
    fn see(&self) -> Result<(), Errno> {
        let begun = Instant::now();
        loop {
            let unseen = self.unseen();
            let linked: BTreeSet<Author> = {
                let inner = self.locks.lock();
                unseen.iter().copied().filter(|author| inner.node.knows(*author)).collect()
            };
            if linked.is_empty() && (unseen.is_empty() || begun.elapsed() >= UNSEEN_WAIT) {
                self.locks.lock().seen.retain(|author, _| !unseen.contains(author));
                break;
            }
            let state = self.lock();
            if state.is_closed || begun.elapsed() >= SEEN_WAIT {
                return Err(Errno::ETIMEDOUT);
            }
            drop(self.locks.applied.wait_timeout(state, SEEN_TICK));
        }
        self.wait_told();
        Ok(())
    }

    /// Sends a message. What programs have written to a file, and to those that they have closed, becomes durable events first.
    fn say(&self, Out { to, first, round, word }: Out) {
        if let Some(file) = first
            && let Err(error) = self.give_out(file)
        {
            tracing::error!(%error, "failed to make events of what was written under a lock: others do not see it yet");
        }
        let mut inner = self.locks.lock();
        let own = self.log.shared();
        if own > 0 {
            inner.seen.insert(self.author, own);
        }
        let seen = inner.seen.iter().map(|(author, last)| (*author, *last)).collect();
        if let Some(wire) = inner.wires.get(&to)
            && let Ok(bytes) = postcard::to_allocvec(&Envelope { seen, round, word })
        {
            wire(bytes);
        }
    }

    fn give_out(&self, file: FileId) -> Result<(), VolumeError> {
        let Closed { mut files, is_all } = self.locks.take_closed();
        {
            let state = self.lock();
            if is_all || file == FileId::default() {
                files.extend(state.uses.backed().map(|(ino, ..)| ino));
            } else {
                files.insert(state.tree.ino(file));
            }
        }
        for ino in files {
            if let Err(error) = self.catch_up(ino) {
                tracing::warn!(%error, ino, "failed to make packets of what was written under a lock");
                self.locks.note_closed(ino);
            }
        }
        if self.log.last().0 > self.log.shared() {
            self.settle_log()?;
        }
        self.prompt.tell();
        Ok(())
    }

    /// Does what is due, and lets programs go on that wait and have got a signal.
    fn tick_locks(self: &Arc<Self>) {
        let waiting: Vec<(u64, u32)> = {
            let inner = self.locks.lock();
            inner.calls.iter().map(|(id, call)| (*id, call.at.thread)).collect()
        };
        let interrupted = waiting.into_iter().filter(|(_, thread)| is_interrupted(*thread));
        let interrupted: Vec<u64> = interrupted.map(|(id, _)| id).collect();
        let mut inner = self.locks.lock();
        let now = Instant::now();
        interrupted.into_iter().for_each(|id| inner.node.cancel(id, now));
        inner.node.tick(now);
        self.locks.set_alone(inner.node.is_alone());
        self.end_acts(inner);
    }

    /// Gives a file that programs have open the content that it has by now.
    fn refresh(&self, ino: u64) -> Result<(), Errno> {
        for _ in 0..REFRESHED_MAX {
            self.catch_up(ino)?;
            let Some((refill, written)) = self.stale_backing(&self.lock(), ino)? else { break };
            self.refill_in_place(&refill)?;
            if self.end_refill(ino, &refill, written) {
                break;
            }
        }
        self.mounts.file(ino);
        self.wait_told();
        Ok(())
    }
}
