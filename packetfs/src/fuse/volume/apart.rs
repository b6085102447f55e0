//! Requests that are answered on threads of their own, since they take long: how many at once, in all and of one user. Others
//! wait in turn, so that one user keeps neither the other users nor the threads of the mount waiting.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bounds of the requests that wait for the disk or for other nodes. Each has a program that waits for it.
pub(super) const DISK: Bounds = Bounds { all: 256, of_user: 64, waiting_of_user: 1024 };
/// Bounds of the requests whose time depends on what users have made, which takes a processor.
pub(super) const LONG: Bounds = Bounds { all: 8, of_user: 4, waiting_of_user: 1024 };

/// How many requests there may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// At once.
    all: usize,
    /// At once, of one user.
    of_user: usize,
    /// Of one user, at once or in turn: as many as the user has programs that wait. One more fails.
    waiting_of_user: usize,
}

type Job = Box<dyn FnOnce() + Send>;

/// Answers requests on threads. Clones share them.
#[derive(Clone)]
pub(super) struct Threads {
    bounds: Bounds,
    work: Arc<Mutex<Work>>,
}

#[derive(Default)]
struct Work {
    running: HashMap<u32, usize>,
    waiting: VecDeque<(u32, Job)>,
    waiting_of: HashMap<u32, usize>,
}

impl Threads {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, work: Arc::default() }
    }

    /// Answers a request of a user, at once or in turn. The answer that is dropped is an error for the program. To start a
    /// thread takes a small part of the time of a sync.
    pub(super) fn run(&self, uid: u32, answer: impl FnOnce() + Send + 'static) {
        let mut work = self.lock();
        if work.may_run(uid, self.bounds) {
            *work.running.entry(uid).or_default() += 1;
            drop(work);
            self.spawn(uid, Box::new(answer));
            return;
        }
        let waiting = work.waiting_of.entry(uid).or_default();
        if *waiting < self.bounds.waiting_of_user {
            *waiting += 1;
            work.waiting.push_back((uid, Box::new(answer)));
        } else {
            tracing::warn!(
                uid,
                "a user has too many file system requests that take long: one fails"
            );
        }
    }

    fn spawn(&self, uid: u32, job: Job) {
        let threads = self.clone();
        let thread = std::thread::Builder::new().name("apart".into()).spawn(move || {
            let mut next = Some((uid, job));
            while let Some((uid, job)) = next {
                job();
                next = threads.next(uid);
            }
        });
        if let Err(error) = thread {
            self.lock().end(uid);
            tracing::error!(%error, "failed to start a thread for a request that takes long");
        }
    }

    /// Takes the next request that may run, after one of a user.
    fn next(&self, ended: u32) -> Option<(u32, Job)> {
        let mut work = self.lock();
        work.end(ended);
        let bounds = self.bounds;
        let at = work.waiting.iter().position(|(uid, _)| work.may_run(*uid, bounds))?;
        let (uid, job) = work.waiting.remove(at)?;
        lower(&mut work.waiting_of, uid);
        *work.running.entry(uid).or_default() += 1;
        Some((uid, job))
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Work {
    fn may_run(&self, uid: u32, bounds: Bounds) -> bool {
        let all: usize = self.running.values().sum();
        all < bounds.all && self.running.get(&uid).copied().unwrap_or(0) < bounds.of_user
    }

    fn end(&mut self, uid: u32) {
        lower(&mut self.running, uid);
    }
}

fn lower(counts: &mut HashMap<u32, usize>, uid: u32) {
    if let Some(count) = counts.get_mut(&uid) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    const BOUNDS: Bounds = Bounds { all: 3, of_user: 2, waiting_of_user: 2 };

    #[test]
    fn one_user_leaves_threads_to_others_and_waits_in_turn() {
        let threads = Threads::new(BOUNDS);
        let (done_tx, done) = channel();
        let block = |uid: u32, name: &'static str| {
            let (go_tx, go) = channel::<()>();
            let done = done_tx.clone();
            threads.run(uid, move || {
                let _ = go.recv();
                let _ = done.send(name);
            });
            go_tx
        };
        let first = block(1, "first");
        let second = block(1, "second");
        let third = block(1, "third");
        let fourth = block(1, "fourth");
        let refused = block(1, "refused");
        assert!(refused.send(()).is_err(), "its answer was dropped");
        let other = block(2, "other");
        drop((third, fourth));
        drop(other);
        assert_eq!(done.recv(), Ok("other"), "another user has a thread");
        drop(first);
        let mut next: Vec<_> = (0..3).map(|_| done.recv().expect("all are answered")).collect();
        next.sort_unstable();
        assert_eq!(next, ["first", "fourth", "third"]);
        drop(second);
        assert_eq!(done.recv(), Ok("second"));
        // The last thread may still be about to end.
        while !threads.lock().running.is_empty() {
            std::thread::yield_now();
        }
        assert!(threads.lock().waiting_of.is_empty());
    }
}
