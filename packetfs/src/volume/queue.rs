//! What waits to be translated.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use worknode::history::Dot;

use super::backing::Backing;

/// Time from the close of a file until it is translated. A file that is deleted sooner never is.
const DELAY: Duration = Duration::from_millis(200);
/// Bound of a wait that is ended by the next push.
const LONG: Duration = Duration::from_secs(60);
/// The wait for another try doubles so many times: up to 25.6 s.
const DOUBLINGS_MAX: u32 = 7;

/// Largest file of which whoever makes files makes packets first.
const HELPED_BYTES_MAX: i64 = 16 * 1024 * 1024;
/// Files among which that is looked for.
const HELPED_MAX: usize = 64;

/// A file to be translated.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) ino: u64,
    pub(super) backing: Arc<Backing>,
    /// For a content that was replaced as a whole: the event before it.
    pub(super) former: Option<Dot>,
    /// It keeps events back.
    pub(super) holds: bool,
    /// How often it was tried.
    tries: u32,
}

/// What is to be translated, in the order in which it is due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    jobs: Mutex<Jobs>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Jobs {
    /// By time, and by a number since several may be due at once.
    waiting: BTreeMap<(Instant, u64), Job>,
    count: u64,
    is_closed: bool,
}

impl Queue {
    /// Adds a file that was closed.
    /// `is_awaited` says that other nodes wait for it.
    pub(super) fn push(&self, ino: u64, backing: Arc<Backing>, is_awaited: bool) {
        let delay = if is_awaited { Duration::ZERO } else { DELAY };
        self.add(delay, Job { ino, backing, former: None, holds: false, tries: 0 });
    }

    /// Adds a file that was closed, for which other nodes wait, and which keeps events back.
    pub(super) fn push_holding(&self, ino: u64, backing: Arc<Backing>) {
        self.add(Duration::ZERO, Job { ino, backing, former: None, holds: true, tries: 0 });
    }

    /// Adds a content that was replaced, which was written after an event.
    pub(super) fn push_former(&self, ino: u64, backing: Arc<Backing>, after: Dot) {
        self.add(Duration::ZERO, Job { ino, backing, former: Some(after), holds: false, tries: 0 });
    }

    /// Has a file tried again later, unless it is to be tried again anyway.
    pub(super) fn again(&self, job: Job) {
        if !job.backing.set_retried(true) {
            let wait = DELAY * 2_u32.pow(job.tries.min(DOUBLINGS_MAX));
            self.add(wait, Job { tries: job.tries.saturating_add(1), holds: false, ..job });
        }
    }

    fn add(&self, wait: Duration, job: Job) {
        let mut jobs = self.lock();
        jobs.count += 1;
        let at = (Instant::now() + wait, jobs.count);
        jobs.waiting.insert(at, job);
        drop(jobs);
        self.more.notify_one();
    }

    /// Returns the next file to be translated, though it is not due yet, if more wait than may.
    pub(super) fn excess(&self, max: usize) -> Option<Job> {
        let mut jobs = self.lock();
        if jobs.waiting.len() <= max {
            return None;
        }
        // What was tried may be mapped for long, and what is large takes long.
        let is_soon = |job: &Job| {
            let stat = job.backing.stat();
            job.tries == 0 && stat.is_ok_and(|it| it.st_size <= HELPED_BYTES_MAX)
        };
        let mut first = jobs.waiting.iter().take(HELPED_MAX);
        let key = first.find(|(_, job)| is_soon(job)).map(|(key, _)| *key)?;
        jobs.waiting.remove(&key)
    }

    /// Tells whether more wait than may.
    pub(super) fn has_excess(&self, max: usize) -> bool {
        self.lock().waiting.len() > max
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.more.notify_all();
    }

    /// Waits for the next file that is due; none when the queue is closed.
    pub(super) fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        while !jobs.is_closed {
            let now = Instant::now();
            let due = jobs.waiting.first_key_value().map(|((due, _), _)| *due);
            if due.is_some_and(|due| due <= now) {
                return jobs.waiting.pop_first().map(|(_, job)| begun(job));
            }
            let wait = due.map_or(LONG, |due| due - now);
            jobs = self.more.wait_timeout(jobs, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begun(job: Job) -> Job {
    if job.tries > 0 {
        job.backing.set_retried(false);
    }
    job
}
