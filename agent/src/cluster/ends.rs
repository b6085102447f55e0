//! Tells the broker of ends: of attempts, and of walks that are not wanted any more. While the broker is away it is told
//! again and again: otherwise a slot would be taken for ever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use broker::{Broker, Finished, Grant, Matchmaker};
use worknode::id::WalkId;

/// What the broker did not hear while it was away is repeated, for an hour.
const REPEAT_EVERY: Duration = Duration::from_millis(500);
const REPEATS_MAX: u32 = 7200;

/// Ends of attempts that the broker is being told of, at most, for grants that nobody waits for to be given back. An
/// honest broker grants what was asked for, and at the end of a session a walk's grant may come too late.
const UNDER_WAY_MAX: usize = 4096;

/// The ends that the broker is being told of.
#[derive(Debug)]
pub(super) struct Ends {
    broker: Broker,
    under_way: UnderWay,
}

impl Ends {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker, under_way: UnderWay::default() }
    }

    /// Tells whether a grant that nobody waits for may be given back.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.has_room()
    }

    /// Ends an attempt. `next` takes the grant of another walk that the broker may answer with.
    pub(super) fn finish(self: &Rc<Self>, grant: &Grant, next: impl FnOnce(Grant) + 'static) {
        let (ends, grant) = (Rc::clone(self), grant.clone());
        let one = self.under_way.one_more();
        tokio::task::spawn_local(async move {
            let _one = one;
            for _ in 0..REPEATS_MAX {
                match ends.broker.finish(grant.walk, &grant.node, grant.attempt).await {
                    Ok(Finished::Done { next: Some(granted) }) => return next(granted),
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, walk = %grant.walk, "failed to finish"),
                }
                tokio::time::sleep(REPEAT_EVERY).await;
            }
        });
    }

    /// Takes a walk out of the queue.
    pub(super) fn cancel(self: &Rc<Self>, walk: WalkId) {
        let ends = Rc::clone(self);
        tokio::task::spawn_local(async move {
            for _ in 0..REPEATS_MAX {
                match ends.broker.cancel(walk).await {
                    Ok(_) => return,
                    Err(error) => tracing::debug!(%error, %walk, "failed to cancel"),
                }
                tokio::time::sleep(REPEAT_EVERY).await;
            }
        });
    }
}

/// Counts ends of attempts.
#[derive(Debug, Default)]
struct UnderWay(Rc<Cell<usize>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct One(Rc<Cell<usize>>);

impl UnderWay {
    fn has_room(&self) -> bool {
        self.0.get() < UNDER_WAY_MAX
    }

    fn one_more(&self) -> One {
        self.0.set(self.0.get() + 1);
        One(Rc::clone(&self.0))
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_that_nobody_asked_for_are_given_back_so_many_at_once() {
        let under_way = UnderWay::default();
        let all: Vec<_> =
            (0..).map_while(|_| under_way.has_room().then(|| under_way.one_more())).collect();
        assert_eq!(all.len(), UNDER_WAY_MAX);
        // What a walk had is given back in any case.
        drop(under_way.one_more());
        assert!(!under_way.has_room());
        drop(all);
        assert!(under_way.has_room());
    }
}
