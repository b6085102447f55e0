//! Keeps events back until the files that were closed before them are packets: no other node sees what a program made after it
//! had closed a file, and not yet what it wrote to that file. A program sees its own order everywhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time for which a file keeps events back: those of other programs wait, too. Some gigabytes take longer.
const HELD_MAX: Duration = Duration::from_secs(5);
/// Time from a program's `close` until the kernel says whether it was the last one.
const RELEASE_MAX: Duration = Duration::from_millis(100);

/// Files that are about to become packets.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<u64, Hold>>);

#[derive(Debug)]
struct Hold {
    /// The last own event before the file was closed.
    after: u64,
    until: Instant,
    /// How often it waits to become packets.
    jobs: u32,
}

impl Holds {
    /// Notes that a program closes a file which it may have written.
    pub(super) fn note_flush(&self, ino: u64, after: u64, now: Instant) {
        self.note(ino, after, now + RELEASE_MAX);
    }

    /// Notes that the last program has closed a file, which waits to become packets.
    pub(super) fn begin(&self, ino: u64, after: u64, now: Instant) {
        self.note(ino, after, now + HELD_MAX);
        if let Some(hold) = self.lock().get_mut(&ino) {
            hold.jobs += 1;
        }
    }

    fn note(&self, ino: u64, after: u64, until: Instant) {
        let mut holds = self.lock();
        let hold = holds.entry(ino).or_insert(Hold { after, until, jobs: 0 });
        hold.after = hold.after.min(after);
        hold.until = hold.until.max(until);
    }

    /// Tells whether a file was closed a moment ago, perhaps not for the last time.
    pub(super) fn has(&self, ino: u64, now: Instant) -> bool {
        self.lock().get(&ino).is_some_and(|hold| hold.until > now)
    }

    /// Notes that a file is packets, or does not become any soon.
    pub(super) fn end(&self, ino: u64) {
        let mut holds = self.lock();
        if let Some(hold) = holds.get_mut(&ino) {
            hold.jobs = hold.jobs.saturating_sub(1);
            if hold.jobs == 0 {
                holds.remove(&ino);
            }
        }
    }

    /// Returns up to which own event others may have all.
    pub(super) fn limit(&self, now: Instant) -> u64 {
        let mut holds = self.lock();
        holds.retain(|_, hold| hold.until > now);
        holds.values().map(|hold| hold.after).min().unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Hold>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_is_not_packets_yet_is_the_limit() {
        let (holds, now) = (Holds::default(), Instant::now());
        assert_eq!(holds.limit(now), u64::MAX);
        holds.note_flush(1, 5, now);
        holds.begin(1, 7, now);
        holds.begin(2, 9, now);
        assert_eq!(holds.limit(now), 5, "from the close on");
        holds.begin(1, 11, now);
        holds.end(1);
        assert_eq!(holds.limit(now), 5, "it was closed again");
        holds.end(1);
        assert_eq!(holds.limit(now), 9);
        assert_eq!(holds.limit(now + HELD_MAX), u64::MAX);
        holds.end(2);
    }

    #[test]
    fn a_close_that_was_not_the_last_one_keeps_back_for_a_moment() {
        let (holds, now) = (Holds::default(), Instant::now());
        holds.note_flush(1, 5, now);
        assert!(holds.has(1, now) && !holds.has(2, now));
        assert_eq!(holds.limit(now), 5);
        assert!(!holds.has(1, now + RELEASE_MAX));
        assert_eq!(holds.limit(now + RELEASE_MAX), u64::MAX);
    }
}
