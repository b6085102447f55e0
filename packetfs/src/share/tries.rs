//! How often names were tried in vain, and when each is tried again: a share that cannot get on with a file costs nothing for that.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::left::Left;
use crate::path::Bytes;

/// A directory and a name in it.
type Name = (Bytes, Bytes);

/// Times that a name is tried without a rest.
const TRIES_MAX: u32 = 10;
/// Tries that follow each other sooner count once.
const GAP: Duration = Duration::from_millis(20);
/// The first rest. Each one is twice as long as that before, …
const REST_MIN: Duration = Duration::from_secs(3);
/// … but no longer than this.
const REST_MAX: Duration = Duration::from_secs(48);
/// Most names that are noted. If more fail, all is compared after the longest rest.
const NAMES_MAX: usize = 10_000;

/// Names that could not be made the same on both sides.
#[derive(Debug, Default)]
pub(super) struct Tries {
    names: BTreeMap<Name, Try>,
    /// When all is to be compared, because there are too many names.
    all: Option<Instant>,
}

#[derive(Debug, Default)]
struct Try {
    count: u32,
    /// When one was counted last.
    last: Option<Instant>,
    /// How long it rests now, or rested before.
    length: Duration,
    rest: Option<Rest>,
}

/// A name that is not tried now.
#[derive(Debug)]
struct Rest {
    why: Left,
    /// When it is tried again; only after a change if there is no time.
    due: Option<Instant>,
}

impl Tries {
    /// Notes that a name was tried in vain. Returns whether it may be tried at once.
    pub(super) fn again(&mut self, name: Name, why: Left, now: Instant) -> bool {
        let Some(tried) = self.tried(name, now) else { return false };
        if tried.last.is_none_or(|last| now.saturating_duration_since(last) >= GAP) {
            tried.count += 1;
            tried.last = Some(now);
        }
        if tried.count >= TRIES_MAX && tried.rest.is_none() {
            tried.rest(why, now);
        }
        tried.rest.is_none()
    }

    /// Has a name rest that it is of no use to try at once.
    pub(super) fn rest(&mut self, name: Name, why: Left, now: Instant) {
        if let Some(tried) = self.tried(name, now) {
            tried.rest(why, now);
        }
    }

    fn tried(&mut self, name: Name, now: Instant) -> Option<&mut Try> {
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(&name) {
            self.all.get_or_insert(now + REST_MAX);
            return None;
        }
        Some(self.names.entry(name).or_default())
    }

    /// Notes that a name is the same on both sides, or gone.
    pub(super) fn done(&mut self, dir: &[u8], name: &[u8]) {
        if !self.names.is_empty() {
            self.names.remove(&(dir.to_vec(), name.to_vec()));
        }
    }

    /// Tells why a name rests, if it does.
    pub(super) fn why(&self, dir: &[u8], name: &[u8]) -> Option<Left> {
        if self.names.is_empty() {
            return None;
        }
        let tried = self.names.get(&(dir.to_vec(), name.to_vec()))?;
        tried.rest.as_ref().map(|rest| rest.why)
    }

    /// Has a name rest no longer, since it has changed. What changes all the time goes on resting.
    pub(super) fn wake(&mut self, dir: &[u8], name: &[u8]) {
        if self.names.is_empty() {
            return;
        }
        if let Some(tried) = self.names.get_mut(&(dir.to_vec(), name.to_vec())) {
            tried.wake();
        }
    }

    /// Does the same for all names in a directory, and returns those.
    pub(super) fn wake_dir(&mut self, dir: &[u8]) -> Vec<Name> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let names = self.names.range_mut((dir.to_vec(), Bytes::new())..);
        let here = names.take_while(|((of, _), _)| of == dir);
        here.filter_map(|(name, tried)| tried.wake().then(|| name.clone())).collect()
    }

    /// Does the same for all.
    pub(super) fn wake_all(&mut self) {
        self.names.retain(|_, tried| tried.is_busy());
        self.all = None;
    }

    /// Returns the names that have rested long enough, and whether all is to be compared.
    pub(super) fn take_due(&mut self, now: Instant) -> (Vec<Name>, bool) {
        let is_due = |rest: &Rest| rest.due.is_some_and(|due| due <= now);
        let due = self.names.iter_mut().filter(|(_, it)| it.rest.as_ref().is_some_and(is_due));
        let names = due.map(|(name, tried)| {
            tried.rest = None;
            name.clone()
        });
        let names = names.collect();
        (names, self.all.take_if(|due| *due <= now).is_some())
    }

    /// Has all rests end sooner by a time.
    #[cfg(test)]
    pub(super) fn hurry(&mut self, time: Duration) {
        let rests = self.names.values_mut().filter_map(|tried| tried.rest.as_mut());
        rests.filter_map(|rest| rest.due.as_mut()).for_each(|due| *due -= time);
    }

    /// Returns the time until a name has rested long enough.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let rests = self.names.values().filter_map(|tried| tried.rest.as_ref()?.due);
        let next = rests.chain(self.all).min()?;
        Some(next.saturating_duration_since(now))
    }

    /// Returns the names that rest, and why.
    pub(super) fn resting(&self) -> impl Iterator<Item = (&Name, Left)> {
        self.names.iter().filter_map(|(name, tried)| Some((name, tried.rest.as_ref()?.why)))
    }
}

impl Try {
    fn rest(&mut self, why: Left, now: Instant) {
        // The next one fails at once if it fails.
        self.count = TRIES_MAX;
        self.length = (self.length * 2).clamp(REST_MIN, REST_MAX);
        // Only a change can help what has no place on the disk, and that is heard.
        let due = (why != Left::Taken).then(|| now + self.length);
        self.rest = Some(Rest { why, due });
    }

    fn is_busy(&self) -> bool {
        self.rest.as_ref().is_some_and(|rest| rest.why == Left::Busy)
    }

    fn wake(&mut self) -> bool {
        !self.is_busy() && self.rest.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(dir: &str, name: &str) -> Name {
        (dir.into(), name.into())
    }

    #[test]
    fn a_name_rests_longer_and_longer() {
        let (mut tries, mut now) = (Tries::default(), Instant::now());
        for number in 1..=TRIES_MAX {
            now += GAP;
            let may = tries.again(name("d", "f"), Left::Busy, now);
            assert_eq!(may, number < TRIES_MAX);
            assert_eq!(tries.again(name("d", "f"), Left::Busy, now + GAP / 2), may);
        }
        assert_eq!(tries.why(b"d", b"f"), Some(Left::Busy));
        let mut rests = Vec::new();
        for _ in 0..7 {
            let rest = tries.next(now).expect("it rests");
            assert_eq!(tries.take_due(now + rest / 2).0, []);
            now += rest;
            assert_eq!(tries.take_due(now), (vec![name("d", "f")], false));
            assert_eq!((tries.why(b"d", b"f"), tries.next(now)), (None, None));
            assert!(!tries.again(name("d", "f"), Left::Busy, now));
            rests.push(rest.as_secs());
        }
        assert_eq!(rests, [3, 6, 12, 24, 48, 48, 48]);
        tries.done(b"d", b"f");
        assert!(tries.again(name("d", "f"), Left::Busy, now), "it begins anew");
    }

    #[test]
    fn what_has_changed_is_tried_again() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for (dir, it, why) in [
            ("d", "busy", Left::Busy),
            ("d", "open", Left::Open),
            ("d", "taken", Left::Taken),
            ("e", "open", Left::Open),
        ] {
            tries.rest(name(dir, it), why, now);
        }
        assert_eq!(tries.resting().count(), 4);
        assert_eq!(tries.wake_dir(b"d"), [name("d", "open"), name("d", "taken")]);
        assert_eq!(tries.wake_dir(b"d"), []);
        tries.wake(b"e", b"open");
        assert_eq!(tries.resting().map(|it| it.1).collect::<Vec<_>>(), [Left::Busy]);
        tries.wake_all();
        assert_eq!(tries.why(b"d", b"busy"), Some(Left::Busy));
        // What only a change can help needs no clock.
        let mut tries = Tries::default();
        tries.rest(name("d", "taken"), Left::Taken, now);
        assert_eq!((tries.next(now), tries.take_due(now + 9 * REST_MAX).0.len()), (None, 0));
    }

    #[test]
    fn too_many_names_are_compared_all_at_once() {
        let (mut tries, now) = (Tries::default(), Instant::now());
        for number in 0..=NAMES_MAX {
            tries.rest(name("d", &number.to_string()), Left::Taken, now);
        }
        assert_eq!(tries.resting().count(), NAMES_MAX);
        assert_eq!(tries.next(now), Some(REST_MAX));
        assert_eq!(tries.take_due(now + REST_MAX), (Vec::new(), true));
        assert_eq!(tries.take_due(now + REST_MAX), (Vec::new(), false));
    }
}
