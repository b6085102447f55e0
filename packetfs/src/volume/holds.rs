//! Keeps events back until the files that were closed before them are packets: no other node sees what a program made after it
//! had closed a file, and not yet what it wrote to that file. A program sees its own order everywhere.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Longest time for which a file keeps events back: those of other programs wait, too. Some gigabytes take longer, and so does a
/// disk that is busy for so long.
const HELD_MAX: Duration = Duration::from_secs(20);
/// Time from a program's `close` until the kernel says whether it was the last one, and until that is looked at.
const RELEASE_MAX: Duration = Duration::from_millis(300);

/// Files that are about to become packets.
#[derive(Debug, Default)]
pub(super) struct Holds(Mutex<HashMap<u64, Hold>>);

#[derive(Debug)]
struct Hold {
    /// The last own event before the file was closed.
    after: u64,
    begun: Instant,
    until: Instant,
    /// How often it waits to become packets.
    jobs: u32,
    /// How often it is being found out whether a close was the last one.
    releases: u32,
    /// The last own event when it had become packets: others get all that is held together with that.
    done: Option<u64>,
}

impl Hold {
    /// Returns when its time is over.
    fn end(&self) -> Instant {
        if self.releases == 0 { self.until } else { self.begun + HELD_MAX }
    }

    /// Tells whether its time is over.
    fn is_over(&self, now: Instant) -> bool {
        self.end() <= now
    }
}

impl Holds {
    /// Notes that a program closes a file which it may have written. Others may have it open and close it all the time, so that
    /// does not make it longer.
    pub(super) fn note_flush(&self, ino: u64, after: u64, now: Instant) {
        let mut holds = self.lock();
        let hold = Self::current(&mut holds, ino, after, now);
        if hold.done.take().is_some() {
            hold.until = now + RELEASE_MAX;
        }
    }

    /// Notes that a handle of a file is being closed for the last time. Whether a program has another one is found out next.
    pub(super) fn note_release(&self, ino: u64) {
        if let Some(hold) = self.lock().get_mut(&ino) {
            hold.releases += 1;
        }
    }

    /// Notes that this was looked at.
    pub(super) fn end_release(&self, ino: u64) {
        if let Some(hold) = self.lock().get_mut(&ino) {
            hold.releases = hold.releases.saturating_sub(1);
        }
    }

    /// Notes that the last program has closed a file, which waits to become packets.
    pub(super) fn begin(&self, ino: u64, after: u64, now: Instant) {
        let mut holds = self.lock();
        let hold = Self::current(&mut holds, ino, after, now);
        hold.until = hold.begun + HELD_MAX;
        hold.jobs += 1;
        hold.done = None;
    }

    /// Returns the hold of a file; a new one if there is none or its time is over.
    fn current(holds: &mut HashMap<u64, Hold>, ino: u64, after: u64, now: Instant) -> &mut Hold {
        let until = now + RELEASE_MAX;
        let new = |jobs, releases| Hold { after, begun: now, until, jobs, releases, done: None };
        let hold = holds.entry(ino).or_insert_with(|| new(0, 0));
        if hold.is_over(now) {
            *hold = new(hold.jobs, hold.releases);
        }
        hold
    }

    /// Tells whether a file was closed a moment ago, perhaps not for the last time.
    pub(super) fn has(&self, ino: u64, now: Instant) -> bool {
        self.lock().get(&ino).is_some_and(|hold| !hold.is_over(now))
    }

    /// Notes that a file is packets, or does not become any soon, with the last own event so far.
    pub(super) fn end(&self, ino: u64, last: u64) {
        if let Some(hold) = self.lock().get_mut(&ino) {
            hold.jobs = hold.jobs.saturating_sub(1);
            if hold.jobs == 0 {
                hold.done = Some(last);
            }
        }
    }

    /// Returns when the next file stops keeping events back, if its time is over before it is packets.
    pub(super) fn next_end(&self, now: Instant) -> Option<Instant> {
        let holds = self.lock();
        holds.values().filter(|hold| !hold.is_over(now)).map(Hold::end).min()
    }

    /// Returns up to which own event others may have all, of those up to `durable`.
    pub(super) fn limit(&self, durable: u64, now: Instant) -> u64 {
        let mut holds = self.lock();
        let is_done = |hold: &Hold| hold.done.is_some_and(|it| it <= durable);
        holds.retain(|_, hold| !hold.is_over(now) && !is_done(hold));
        holds.values().map(|hold| hold.after).min().unwrap_or(u64::MAX).min(durable)
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
        assert_eq!(holds.limit(20, now), 20);
        holds.note_flush(1, 5, now);
        holds.begin(1, 7, now);
        holds.begin(2, 9, now);
        assert_eq!(holds.limit(20, now), 5, "from the close on");
        holds.begin(1, 11, now);
        holds.end(1, 21);
        assert_eq!(holds.limit(20, now), 5, "it was closed again");
        holds.end(1, 22);
        assert_eq!(holds.limit(21, now), 5, "what it became is not durable yet");
        assert_eq!(holds.limit(22, now), 9);
        assert_eq!(holds.limit(22, now + HELD_MAX), 22);
        holds.end(2, 23);
    }

    #[test]
    fn a_file_that_is_closed_all_the_time_does_not_keep_back_for_ever() {
        let (holds, mut now) = (Holds::default(), Instant::now());
        for after in 0..1000 {
            holds.note_flush(1, after, now);
            // Ten closes in the time of one hold.
            assert!(holds.limit(u64::MAX, now) + 10 >= after);
            now += RELEASE_MAX / 10;
        }
        let begun = now;
        while now < begun + 2 * HELD_MAX {
            let after = u64::try_from((now - begun).as_millis()).expect("a small number");
            holds.begin(2, after, now);
            let held_ms = u64::try_from(HELD_MAX.as_millis()).expect("a small number");
            assert!(holds.limit(u64::MAX, now) + held_ms >= after);
            now += RELEASE_MAX;
        }
    }

    #[test]
    fn a_close_that_is_being_looked_at_keeps_back_until_that_is_done() {
        let (holds, now) = (Holds::default(), Instant::now());
        holds.note_flush(1, 5, now);
        assert_eq!(holds.next_end(now), Some(now + RELEASE_MAX));
        holds.note_release(1);
        assert_eq!(holds.next_end(now), Some(now + HELD_MAX));
        assert_eq!(holds.limit(9, now + RELEASE_MAX), 5);
        holds.end_release(1);
        assert_eq!(holds.next_end(now + RELEASE_MAX), None);
        assert_eq!(holds.limit(9, now + RELEASE_MAX), 9);
        holds.note_flush(2, 5, now);
        holds.note_release(2);
        assert_eq!(holds.limit(9, now + HELD_MAX), 9);
    }

    #[test]
    fn a_close_that_was_not_the_last_one_keeps_back_for_a_moment() {
        let (holds, now) = (Holds::default(), Instant::now());
        holds.note_flush(1, 5, now);
        assert!(holds.has(1, now) && !holds.has(2, now));
        assert_eq!(holds.limit(9, now), 5);
        assert!(!holds.has(1, now + RELEASE_MAX));
        assert_eq!(holds.limit(9, now + RELEASE_MAX), 9);
    }
}
