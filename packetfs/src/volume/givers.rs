//! Gives to other nodes what programs have written, before a lock goes to them: makes packets and durable events of it. This may
//! take as long as the files are large, and so threads of its own do it, of which a user gets a few only.
//!
//! A lock waits for the file that it is on, and for all files that programs of its user have closed, however long that takes. It
//! waits for what other users have closed for a moment only: none of them keeps another's locks here.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use worknode::history::{Author, FileId};

use super::error::VolumeError;
use super::giving::{ALL, GIVERS_MAX, Task, Work};
use super::model::Shared;
use crate::locks::Ticket;

/// Longest wait of a lock for what programs of other users have closed.
const OTHERS_WAIT: Duration = Duration::from_secs(1);

impl Shared {
    /// Has given what a lock waits for. Returns whether nothing is to be given.
    pub(super) fn give_for_lock(self: &Arc<Self>, ticket: Ticket, file: FileId) -> bool {
        if self.has_nothing_to_give(file) {
            return true;
        }
        let user = match ticket {
            Ticket::Release { user, .. } => user,
            Ticket::Grant(_) => self.releaser(file),
        };
        self.give(user, Task::Lock(ticket, file));
        false
    }

    /// Has given what a node's claims to a master wait for.
    pub(super) fn give_for_claim(self: &Arc<Self>, master: Author) {
        self.give(ALL, Task::Claim(master));
    }

    /// Returns who has given back a lock on a file, or else its owner.
    fn releaser(&self, file: FileId) -> u32 {
        let releasers = self.giving.lock().releasers.get(&file).cloned().unwrap_or_default();
        releasers.first().copied().unwrap_or_else(|| {
            let state = self.lock();
            let node = state.tree.find(state.tree.ino(file)).ok().flatten();
            node.map_or(ALL, |node| node.permissions.uid)
        })
    }

    fn has_nothing_to_give(&self, file: FileId) -> bool {
        {
            let work = self.giving.lock();
            if work.is_all
                || !work.in_work.is_empty()
                || work.closed.values().any(|it| !it.is_empty())
            {
                return false;
            }
        }
        let backing = {
            let state = self.lock();
            state.uses.backing(state.tree.ino(file)).cloned()
        };
        !backing.is_some_and(|backing| backing.has_news()) && self.log.last().0 <= self.log.shared()
    }

    fn give(self: &Arc<Self>, user: u32, task: Task) {
        let mut work = self.giving.lock();
        work.tasks.push_back((user, task));
        self.start_giver(&mut work);
        drop(work);
        self.giving.changed.notify_all();
    }

    /// Starts one more thread if all others are busy.
    fn start_giver(self: &Arc<Self>, work: &mut Work) {
        if work.idle >= work.tasks.len() || work.threads.len() >= GIVERS_MAX || work.is_closed {
            return;
        }
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("lock-give".into());
        match thread.spawn(move || shared.run_giver()) {
            Ok(thread) => {
                work.threads.push(thread);
                work.idle += 1;
            }
            Err(error) if work.threads.is_empty() => {
                tracing::error!(%error, "failed to start a thread: locks do not go to other nodes until one can be started");
            }
            Err(_) => {}
        }
    }

    /// Gives until the volume is closed.
    fn run_giver(self: &Arc<Self>) {
        let mut work = self.giving.lock();
        while !work.is_closed {
            let Some((user, task)) = work.next() else {
                work = self.giving.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            work.idle -= 1;
            drop(work);
            self.do_task(task);
            work = self.giving.lock();
            work.end(user);
            work.idle += 1;
            // Another task of the user may be next.
            self.giving.changed.notify_all();
        }
    }

    fn do_task(self: &Arc<Self>, task: Task) {
        self.find_all();
        match task {
            Task::Lock(ticket, file) => {
                let users = match ticket {
                    Ticket::Release { user, .. } => [user].into(),
                    Ticket::Grant(_) => {
                        self.giving.lock().releasers.remove(&file).unwrap_or_default()
                    }
                };
                let ino = self.lock().tree.ino(file);
                let mut files = self.giving.lock().files(&users, true);
                files.insert(ino);
                self.give_files(&files, &users);
                self.make_durable();
                self.end_give(ticket);
            }
            Task::Claim(master) => {
                self.give_files(&BTreeSet::new(), &BTreeSet::new());
                self.make_durable();
                self.end_claim_give(master);
            }
            Task::Closed(user) => {
                let files = self.giving.lock().files(&[user].into(), true);
                files.into_iter().for_each(|ino| self.give_file(ino));
            }
        }
    }

    /// Notes whose files are open that may have something new, if that is not known.
    fn find_all(&self) {
        if !std::mem::take(&mut self.giving.lock().is_all) {
            return;
        }
        let backed: Vec<_> = {
            let state = self.lock();
            state.uses.backed().map(|(ino, backing, _)| (ino, Arc::clone(backing))).collect()
        };
        for (ino, _) in backed.into_iter().filter(|(_, backing)| backing.has_news()) {
            let node = self.lock().tree.find(ino).ok().flatten();
            let user = node.map_or(ALL, |node| node.permissions.uid);
            self.giving.lock().closed.entry(user).or_default().insert(ino);
        }
    }

    /// Gives files, and waits a moment for what programs of others than these users have closed.
    fn give_files(self: &Arc<Self>, files: &BTreeSet<u64>, users: &BTreeSet<u32>) {
        let until = Instant::now() + OTHERS_WAIT;
        let others: BTreeSet<u64> = {
            let mut work = self.giving.lock();
            work.ask_others(users);
            self.start_giver(&mut work);
            work.files(users, false).difference(files).copied().collect()
        };
        self.giving.changed.notify_all();
        files.iter().for_each(|ino| self.give_file(*ino));
        let mut work = self.giving.lock();
        while !work.is_closed && others.iter().any(|ino| work.is_left(*ino)) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::info!(
                    "a lock goes to another node before what other users have closed is there"
                );
                let left: Vec<u64> = others.into_iter().filter(|ino| work.is_left(*ino)).collect();
                work.slow.extend(left);
                break;
            }
            work = self.giving.wait(work, left);
        }
    }

    /// Makes packets and events of a file, unless another thread does: then waits for that first.
    fn give_file(&self, ino: u64) {
        let mut work = self.giving.lock();
        while work.in_work.contains_key(&ino) {
            work = self.giving.changed.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
        let closed =
            work.closed.iter_mut().filter_map(|(user, it)| it.remove(&ino).then_some(*user));
        let users: BTreeSet<u32> = closed.collect();
        work.closed.retain(|_, files| !files.is_empty());
        work.in_work.insert(ino, users.clone());
        drop(work);
        let given = self.catch_up(ino);
        if given.is_ok() {
            // Programs may still have it open, but all that was written under the lock is packets.
            self.holds.end(ino, self.log.last().0);
        }
        let mut work = self.giving.lock();
        work.in_work.remove(&ino);
        work.slow.remove(&ino);
        if let Err(error) = given {
            tracing::warn!(%error, ino, "failed to make packets of what was written under a lock");
            users.into_iter().for_each(|user| {
                work.closed.entry(user).or_default().insert(ino);
            });
        }
        drop(work);
        self.giving.changed.notify_all();
    }

    fn make_durable(&self) {
        let is_durable = || -> Result<(), VolumeError> {
            if self.log.last().0 > self.log.shared() { self.settle_log() } else { Ok(()) }
        };
        if let Err(error) = is_durable() {
            tracing::error!(%error, "failed to make events of what was written under a lock: others do not see it yet");
        }
        self.prompt.tell();
    }
}
