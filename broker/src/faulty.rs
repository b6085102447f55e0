//! A wrapper around any matchmaker that injects faults and delays, for tests.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

use crate::error::BrokerError;
use crate::matchmaker::Matchmaker;
use crate::model::{
    Event, Finished, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted,
};

/// A fault of a call. A failed call loses the connection, so [`Event::Lost`] and [`Event::Back`] follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails without having taken effect.
    Unheard,
    /// It takes effect, but its answer is lost.
    Unanswered,
    /// It is delayed by this time.
    Late(Duration),
}

/// Percentages of calls with each fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Odds {
    /// Calls that fail without effect.
    pub unheard: u64,
    /// Calls whose answer is lost.
    pub unanswered: u64,
    /// Calls that are delayed by up to [`Self::late_max`].
    pub late: u64,
    /// Longest delay.
    pub late_max: Duration,
}

/// A matchmaker with faults. The same seed and the same calls have the same faults.
#[derive(Debug, Clone)]
pub struct Faulty<M> {
    inner: M,
    faults: Arc<Mutex<Faults>>,
    events_tx: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
struct Faults {
    /// Faults of the next calls.
    next: VecDeque<Fault>,
    /// Random faults of later calls.
    odds: Odds,
    random: u64,
    is_cut: bool,
}

impl<M: Matchmaker> Faulty<M> {
    /// Wraps a matchmaker and its events, without faults at first.
    pub fn new(
        inner: M,
        mut events_rx: mpsc::UnboundedReceiver<Event>,
        seed: u64,
    ) -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (events_tx, faulty_rx) = mpsc::unbounded_channel();
        let forward_tx = events_tx.clone();
        // The task ends with the agent, or with the wrapped matchmaker.
        tokio::spawn(async move {
            while let Some(event) = events_rx.recv().await {
                if forward_tx.send(event).is_err() {
                    return;
                }
            }
        });
        let (next, odds) = (VecDeque::new(), Odds::default());
        let faults = Arc::new(Mutex::new(Faults { next, odds, random: seed, is_cut: false }));
        (Self { inner, faults, events_tx }, faulty_rx)
    }

    /// Adds a fault for the next call that has none yet.
    pub fn push(&self, fault: Fault) {
        self.faults().next.push_back(fault);
    }

    /// Sets the odds of random faults.
    pub fn set_odds(&self, odds: Odds) {
        self.faults().odds = odds;
    }

    /// Cuts the connection: all calls fail without effect until [`Self::mend`].
    pub fn cut(&self) {
        self.faults().is_cut = true;
        let _ = self.events_tx.send(Event::Lost);
    }

    /// Restores the connection.
    pub fn mend(&self) {
        self.faults().is_cut = false;
        let _ = self.events_tx.send(Event::Back);
    }

    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&M) -> Result<T, BrokerError>,
    ) -> Result<T, BrokerError> {
        if self.faults().is_cut {
            return Err(self.away());
        }
        let fault = self.faults().draw();
        match fault {
            None => call(&self.inner).await,
            Some(Fault::Late(delay)) => {
                tokio::time::sleep(delay).await;
                call(&self.inner).await
            }
            Some(Fault::Unheard) => Err(self.lost()),
            Some(Fault::Unanswered) => {
                let _unheard = call(&self.inner).await;
                Err(self.lost())
            }
        }
    }

    fn lost(&self) -> BrokerError {
        let _ = self.events_tx.send(Event::Lost);
        let _ = self.events_tx.send(Event::Back);
        self.away()
    }

    fn away(&self) -> BrokerError {
        BrokerError::Away { url: self.inner.url().to_owned() }
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Faults {
    /// Returns the fault of a call, if it has one.
    fn draw(&mut self) -> Option<Fault> {
        if let Some(fault) = self.next.pop_front() {
            return Some(fault);
        }
        let Odds { unheard, unanswered, late, late_max } = self.odds;
        let chance = self.below(100);
        if chance < unheard {
            Some(Fault::Unheard)
        } else if chance < unheard + unanswered {
            Some(Fault::Unanswered)
        } else if chance < unheard + unanswered + late {
            let micros = u64::try_from(late_max.as_micros()).unwrap_or(u64::MAX);
            Some(Fault::Late(Duration::from_micros(self.below(micros.max(1)))))
        } else {
            None
        }
    }

    /// Returns a pseudo-random number below a bound (splitmix64).
    fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

impl<M: Matchmaker> Matchmaker for Faulty<M> {
    fn url(&self) -> &str {
        self.inner.url()
    }

    fn is_up(&self) -> bool {
        !self.faults().is_cut && self.inner.is_up()
    }

    async fn register(&self, info: &NodeInfo) -> Result<(), BrokerError> {
        self.call(async |inner| inner.register(info).await).await
    }

    async fn heartbeat(&self) -> Result<Registered, BrokerError> {
        self.call(async |inner| inner.heartbeat().await).await
    }

    fn note_load(&self, load_percent: u32) {
        self.inner.note_load(load_percent);
    }

    fn heard_lately(&self) -> Option<Registered> {
        self.inner.heard_lately()
    }

    async fn leave(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.call(async |inner| inner.leave(node).await).await
    }

    async fn list(&self) -> Result<(Vec<NodeState>, Vec<PastNode>), BrokerError> {
        self.call(async |inner| inner.list().await).await
    }

    async fn submit(&self, submit: &Submit) -> Result<Submitted, BrokerError> {
        self.call(async |inner| inner.submit(submit).await).await
    }

    async fn retry(
        &self,
        walk: WalkId,
        attempt: Attempt,
        avoid: Option<&NodeId>,
    ) -> Result<Retried, BrokerError> {
        self.call(async |inner| inner.retry(walk, attempt, avoid).await).await
    }

    async fn finish(
        &self,
        walk: WalkId,
        node: &NodeId,
        attempt: Attempt,
    ) -> Result<Finished, BrokerError> {
        self.call(async |inner| inner.finish(walk, node, attempt).await).await
    }

    async fn cancel(&self, walk: WalkId) -> Result<bool, BrokerError> {
        self.call(async |inner| inner.cancel(walk).await).await
    }

    async fn cancel_session(&self, session: SessionId) -> Result<(), BrokerError> {
        self.call(async |inner| inner.cancel_session(session).await).await
    }

    async fn reap_node(&self, node: &NodeId) -> Result<(), BrokerError> {
        self.call(async |inner| inner.reap_node(node).await).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Memory, MemoryCell};

    fn faulty(seed: u64) -> (Faulty<Memory>, mpsc::UnboundedReceiver<Event>) {
        let node = "n".parse().expect("a sound name");
        let (inner, events_rx) = Memory::connect(&MemoryCell::default(), &node);
        Faulty::new(inner, events_rx, seed)
    }

    fn submit() -> Submit {
        let walk = WalkId { session: SessionId(1), number: 1 };
        Submit {
            walk,
            after: Attempt(0),
            uid: 0,
            only: None,
            avoid: Vec::new(),
            near: Vec::new(),
            prefer: Vec::new(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn calls_have_the_requested_faults() {
        let (broker, mut events_rx) = faulty(1);
        let submit = submit();
        broker.push(Fault::Unheard);
        broker.push(Fault::Unanswered);
        broker.push(Fault::Late(Duration::from_secs(3)));
        assert!(broker.submit(&submit).await.is_err());
        assert!(!broker.inner.cancel(submit.walk).await.expect("answers"), "it was not heard");
        assert!(broker.submit(&submit).await.is_err());
        assert!(broker.inner.cancel(submit.walk).await.expect("answers"), "it was heard");
        for event in [Event::Lost, Event::Back, Event::Lost, Event::Back] {
            assert_eq!(events_rx.recv().await, Some(event));
        }
        let begun = tokio::time::Instant::now();
        assert_eq!(broker.submit(&submit).await.expect("answers"), Submitted::Queued(1));
        assert!(begun.elapsed() >= Duration::from_secs(3));
    }

    #[tokio::test]
    async fn no_events_arrive_while_the_connection_is_cut() {
        let (broker, mut events_rx) = faulty(1);
        broker.cut();
        assert!(!broker.is_up() && broker.submit(&submit()).await.is_err());
        broker.mend();
        assert!(broker.is_up() && broker.list().await.is_ok());
        assert_eq!(events_rx.recv().await, Some(Event::Lost));
        assert_eq!(events_rx.recv().await, Some(Event::Back));
    }

    #[tokio::test]
    async fn the_same_seed_has_the_same_faults() {
        let late_max = Duration::from_millis(5);
        let odds = Odds { unheard: 20, unanswered: 20, late: 20, late_max };
        let faults = |seed| {
            let (broker, _events_rx) = faulty(seed);
            broker.set_odds(odds);
            let mut faults = broker.faults();
            (0..100).map(|_| faults.draw()).collect::<Vec<_>>()
        };
        assert_eq!(faults(7), faults(7));
        assert_ne!(faults(7), faults(8));
        let count = |is: fn(&Fault) -> bool| faults(7).iter().flatten().filter(|f| is(f)).count();
        assert!(count(|fault| matches!(fault, Fault::Unheard)) > 5);
        assert!(count(|fault| matches!(fault, Fault::Unanswered)) > 5);
        assert!(count(|fault| matches!(fault, Fault::Late(_))) > 5);
    }
}
