//! Packets that are being fetched: whoever needs the same waits for them, so that nobody asks for a packet twice at once.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::packet::{Digest, PacketRef};

/// The packets that are being fetched for programs that read.
#[derive(Debug, Default)]
pub(super) struct Fetching {
    packets: Mutex<HashSet<Digest>>,
    ended: Condvar,
}

/// Packets that one reader fetches. Others may fetch them again when this is dropped.
pub(super) struct Claim<'a> {
    of: &'a Fetching,
    pub(super) packets: Vec<PacketRef>,
}

impl Fetching {
    /// Claims the first of these packets that nobody fetches.
    pub(super) fn claim(&self, packets: impl Iterator<Item = PacketRef>, most: usize) -> Claim<'_> {
        let mut fetching = self.lock();
        let packets = packets.filter(|it| fetching.insert(it.digest)).take(most).collect();
        Claim { of: self, packets }
    }

    /// Waits until nobody fetches a packet.
    pub(super) fn wait(&self, digest: &Digest, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let waits = |fetching: &mut HashSet<Digest>| fetching.contains(digest);
        drop(self.ended.wait_timeout_while(self.lock(), left, waits));
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.packets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut fetching = self.of.lock();
        self.packets.iter().for_each(|it| {
            fetching.remove(&it.digest);
        });
        drop(fetching);
        self.of.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::packet::reference;

    #[test]
    fn of_two_readers_the_second_fetches_what_follows_and_waits_for_the_rest() {
        let fetching = Fetching::default();
        let packets: Vec<_> = (0..6).map(|number: u8| reference(&[number])).collect();
        let first = fetching.claim(packets.iter().copied(), 4);
        assert_eq!(first.packets, packets[..4]);
        let second = fetching.claim(packets.iter().skip(1).copied(), 4);
        assert_eq!(second.packets, packets[4..]);
        let until = Instant::now() + Duration::from_secs(60);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| fetching.wait(&packets[3].digest, until));
            drop(first);
            waiting.join().expect("no panic");
        });
        drop(second);
        assert!(Instant::now() < until, "the end was seen");
        assert!(fetching.lock().is_empty());
    }
}
