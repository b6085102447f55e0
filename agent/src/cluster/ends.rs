//! Reports finished attempts and cancelled walks to the broker. While the broker does not answer, reports are repeated:
//! otherwise a slot would stay taken forever.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use broker::{Broker, Finished, Grant, Matchmaker};
use worknode::id::WalkId;

/// Reports that the broker did not receive are repeated, for an hour.
const REPEAT_EVERY: Duration = Duration::from_millis(500);
const REPEATS_MAX: u32 = 7200;

/// Most reports under way at which unexpected grants are still given back. An honest broker sends few: at the end
/// of a session, a walk's grant may come too late.
const UNDER_WAY_MAX: usize = 4096;

/// The reports that are under way.
#[derive(Debug)]
pub(super) struct Ends {
    broker: Broker,
    under_way: UnderWay,
}

impl Ends {
    pub(super) fn new(broker: Broker) -> Self {
        Self { broker, under_way: UnderWay::default() }
    }

    /// Tells whether an unexpected grant may be given back.
    pub(super) fn has_room(&self) -> bool {
        self.under_way.has_room()
    }

    /// Reports the end of an attempt. The broker may answer with a grant for another walk, which `next` receives.
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

    /// Removes a walk from the broker's queue.
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

/// Counts reports under way.
#[derive(Debug, Default)]
struct UnderWay(Rc<Cell<usize>>);

/// One report, counted until it is dropped.
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
    fn returns_of_unexpected_grants_are_bounded() {
        let under_way = UnderWay::default();
        let all: Vec<_> =
            (0..).map_while(|_| under_way.has_room().then(|| under_way.one_more())).collect();
        assert_eq!(all.len(), UNDER_WAY_MAX);
        // Slots that a walk held are always given back.
        drop(under_way.one_more());
        assert!(!under_way.has_room());
        drop(all);
        assert!(under_way.has_room());
    }
}
