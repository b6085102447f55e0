//! Shows a program that gets a lock what its former holders wrote: waits for their events, and gives the file that it has open the
//! content that it has by now. A thread for each lock does that, as long as it takes. The program waits for a bounded time, and
//! can be interrupted; then it has what it had before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use worknode::history::Author;

use super::interrupted::is_interrupted;
use super::locks::{Call, Showing};
use super::model::Shared;
use crate::locks::{Held, Want};

/// Longest wait of a granted lock for the events that its holder must see, of nodes that are linked.
const SEEN_WAIT: Duration = Duration::from_secs(10);
/// The same for events of others, which perhaps nobody has.
const UNSEEN_WAIT: Duration = Duration::from_secs(1);
/// How often that is looked at.
const SEEN_TICK: Duration = Duration::from_millis(50);
/// Longest wait of a granted lock until its holder sees all, with the content of a file that it has open.
const SHOWN_WAIT: Duration = Duration::from_secs(30);
/// Most threads that show, of one user.
const USER_SHOWING_MAX: usize = 64;
/// Times that a file's content is replaced while others write it.
const REFRESHED_MAX: u32 = 4;

impl Shared {
    /// Tells whether a holder sees all that it must.
    pub(super) fn is_seen(&self, call: &Call) -> bool {
        // The kernel may still have what was before.
        self.unseen().is_empty()
            && !self.locks.is_learning()
            && !self.lock().bases.contains_key(&call.at.ino)
    }

    /// Answers a call when its program sees all that it must.
    pub(super) fn show(self: &Arc<Self>, id: u64, call: Call) {
        let (ino, user) = (call.at.ino, call.at.user);
        {
            let mut inner = self.locks.lock();
            let until = Instant::now() + SHOWN_WAIT;
            let count = inner.showing.values().filter(|it| it.user == user).count();
            inner.showing.insert(id, Showing { call: Some(call), user, until });
            if count >= USER_SHOWING_MAX {
                drop(inner);
                self.end_show(id, Err(Errno::ENOLCK));
                return self.forget_show(id);
            }
        }
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("locked".into());
        let thread = thread.spawn(move || {
            let shown = shared.see(id).and_then(|()| shared.refresh(ino));
            if let Err(error) = &shown
                && *error != Errno::EINTR
            {
                tracing::warn!(%error, "a lock is not granted: what its former holder wrote is not here");
            }
            shared.end_show(id, shown.map_err(|_| Errno::ENOLCK));
            shared.forget_show(id);
        });
        if let Err(error) = thread {
            tracing::error!(%error, "a lock is not granted: failed to start a thread");
            self.end_show(id, Err(Errno::ENOLCK));
            self.forget_show(id);
        }
    }

    fn forget_show(&self, id: u64) {
        self.locks.lock().showing.remove(&id);
    }

    /// Answers a call, unless that was done. Without success its owner has what it had before.
    fn end_show(self: &Arc<Self>, id: u64, shown: Result<(), Errno>) {
        let mut inner = self.locks.lock();
        let call = inner.showing.get_mut(&id).and_then(|it| it.call.take());
        let Some(call) = call else { return };
        if shown.is_ok() {
            drop(inner);
            return (call.done)(Ok(None));
        }
        let Call { at, file, mode, before, done, .. } = call;
        let (now, lock) = (Instant::now(), at.held(self.author, mode));
        // What was open is perhaps closed by now.
        let before = if inner.has_handle(at.handle) { before } else { Vec::new() };
        let (kept, freed) = parts(&lock, before);
        for lock in kept {
            inner.node.request(file, Want::Lock { lock, waits: false }, at.user, now);
        }
        for lock in freed {
            inner.node.unlock(file, lock, at.user, now);
        }
        self.end_acts(inner);
        done(shown.map(|()| None));
    }

    /// Ends the waits of programs that have got a signal, and those that take too long. What their threads do goes on.
    pub(super) fn end_shows(self: &Arc<Self>) {
        let showing: Vec<(u64, u32, Instant)> = {
            let inner = self.locks.lock();
            let showing = inner.showing.iter();
            let showing = showing.filter_map(|(id, it)| Some((*id, it.call.as_ref()?, it.until)));
            showing.map(|(id, call, until)| (id, call.at.thread, until)).collect()
        };
        for (id, thread, until) in showing {
            if is_interrupted(thread) {
                self.end_show(id, Err(Errno::EINTR));
            } else if Instant::now() >= until {
                tracing::warn!(
                    "a lock is not granted: it takes too long to show what its former holder wrote"
                );
                self.end_show(id, Err(Errno::ENOLCK));
            }
        }
    }

    /// Returns those authors of whom not all is applied that a holder must see.
    fn unseen(&self) -> BTreeSet<Author> {
        let applied = self.applied_of_all();
        let here = |author| applied.get(&author).copied().unwrap_or_default();
        self.locks.lock().seen.missing(here)
    }

    /// Waits until a holder sees all that it must. What nodes have that are not linked may be nowhere else.
    fn see(&self, id: u64) -> Result<(), Errno> {
        let begun = Instant::now();
        let at_first = self.applied_of_all();
        loop {
            let unseen = self.unseen();
            let mut inner = self.locks.lock();
            let is_over = inner.showing.get(&id).is_none_or(|it| it.call.is_none());
            let linked: BTreeSet<Author> =
                unseen.iter().copied().filter(|author| inner.node.knows(*author)).collect();
            if linked.is_empty() && (unseen.is_empty() || begun.elapsed() >= UNSEEN_WAIT) {
                unseen.into_iter().for_each(|author| inner.seen.give_up(author));
                break;
            }
            drop(inner);
            if begun.elapsed() >= SEEN_WAIT {
                self.doubt(&linked, &at_first);
                return Err(Errno::ETIMEDOUT);
            }
            let state = self.lock();
            if state.is_closed || is_over {
                return Err(Errno::EINTR);
            }
            drop(self.locks.applied.wait_timeout(state, SEEN_TICK));
        }
        self.wait_told();
        Ok(())
    }

    /// Of whom nothing has come in all the time, nothing is waited for any more.
    fn doubt(&self, authors: &BTreeSet<Author>, before: &BTreeMap<Author, u64>) {
        let applied = self.applied_of_all();
        let mut inner = self.locks.lock();
        for author in authors.iter().filter(|it| applied.get(*it) == before.get(*it)) {
            tracing::warn!(
                ?author,
                "changes of a node did not come that locks waited for: they are not waited for any longer"
            );
            inner.seen.doubt(*author, Instant::now());
        }
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

/// Returns of a lock what its owner had before, and what it had not.
fn parts(lock: &Held, mut before: Vec<Held>) -> (Vec<Held>, Vec<Held>) {
    before.sort_by_key(|it| it.start);
    let mut freed = Vec::new();
    let mut next = Some(lock.start);
    for it in &mut before {
        (it.start, it.end) = (it.start.max(lock.start), it.end.min(lock.end));
        if let Some(start) = next.filter(|start| *start < it.start) {
            freed.push(Held { start, end: it.start - 1, ..*lock });
        }
        next = it.end.checked_add(1);
    }
    if let Some(start) = next.filter(|start| *start <= lock.end) {
        freed.push(Held { start, ..*lock });
    }
    (before, freed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::locks::table::END;
    use crate::locks::{Mode, Owner};

    #[test]
    fn a_lock_that_is_not_granted_leaves_what_there_was() {
        let all = Held::all_of(Owner { node: Author::default(), id: 1 });
        let part = |start, end| Held { start, end, ..all };
        let shared = |start, end| Held { mode: Mode::Shared, ..part(start, end) };
        assert_eq!(parts(&all, vec![]), (vec![], vec![all]));
        assert_eq!(parts(&all, vec![shared(0, END)]), (vec![shared(0, END)], vec![]));
        let had = vec![shared(30, 50), shared(0, 12)];
        let kept = vec![shared(10, 12), shared(30, 40)];
        assert_eq!(parts(&part(10, 40), had), (kept, vec![part(13, 29)]));
    }
}
