//! Requests that are answered on threads of their own, and how many at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Most requests that wait for the disk. Each has a program that waits for it.
pub(super) const APART_MAX: usize = 256;
/// Most requests whose time depends on what users have made. Others are told to try again, so that nobody keeps everybody
/// waiting.
pub(super) const LONG_MAX: usize = 8;

/// Counts requests, of which at most `MAX` are under way at once. Clones share the count.
#[derive(Clone, Default)]
pub(super) struct Turns<const MAX: usize>(Arc<AtomicUsize>);

/// One of them, as long as it lives.
pub(super) struct Turn(Arc<AtomicUsize>);

impl<const MAX: usize> Turns<MAX> {
    /// Counts one more, unless there are too many.
    pub(super) fn turn(&self) -> Option<Turn> {
        let turn = Turn(Arc::clone(&self.0));
        (self.0.fetch_add(1, Ordering::Relaxed) < MAX).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers a request on a thread of its own. To start a thread takes a small part of the time of a sync.
pub(super) fn spawn(turn: Turn, answer: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("apart".into()).spawn(move || {
        let _turn = turn;
        answer();
    });
    if let Err(error) = thread {
        // The answer that is dropped is an error for the program.
        tracing::error!(%error, "failed to start a thread for a request that waits for the disk");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_that_is_refused_counts_no_longer() {
        let turns = Turns::<1>::default();
        let first = turns.turn();
        assert!(first.is_some() && turns.turn().is_none() && turns.turn().is_none());
        drop(first);
        assert!(turns.turn().is_some());
    }
}
