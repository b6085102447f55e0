//! Many agents at once, with everything going wrong that may: every walk ends once, no slot leaks.

#![expect(clippy::print_stdout, reason = "a failing run shows its seed")]

mod support;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use broker::{
    BrokerError, Event, Faulty, Finished, Grant, LEASE, Matchmaker, Memory, MemoryCell, Odds,
    Registered, Retried, Submit, Submitted,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, Cell, Random, RedisCell, cell, plain, seed, walk};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{AbortHandle, LocalSet};
use tokio::time::Instant;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

const ORIGINS: u64 = 5;
const RUNNERS: u64 = 4;
const WALKS: u32 = 400;
/// All must have ended by then.
const END_MAX: Duration = Duration::from_secs(60);
/// Longest time of a run, also if nobody looks at the clock any more.
const HANG_MAX: Duration = Duration::from_secs(120);

#[tokio::test]
async fn every_walk_ends_once() {
    let cell = cell().await;
    let seed = seed();
    run(&cell, seed, false).await;
    assert_nothing_left(&cell, seed).await;
}

#[tokio::test]
async fn every_walk_ends_once_though_redis_is_killed() {
    let cell = Arc::new(cell().await);
    let seed = seed();
    let doomed = Arc::clone(&cell);
    let killed = tokio::spawn(async move {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            if let Some(pid) = doomed.server.pid() {
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the server runs");
            }
        }
    });
    run(&*cell, seed, true).await;
    killed.await.expect("the server was killed");
    assert_nothing_left(&cell, seed).await;
}

#[tokio::test(start_paused = true)]
async fn every_walk_ends_once_in_memory() {
    let seed = seed();
    run(&FaultyCell { cell: MemoryCell::default(), seed, odds: LATE }, seed, false).await;
}

#[tokio::test(start_paused = true)]
async fn every_walk_ends_once_though_calls_fail() {
    let seed = seed();
    let odds = Odds { unheard: 1, unanswered: 1, ..LATE };
    run(&FaultyCell { cell: MemoryCell::default(), seed, odds }, seed, true).await;
}

/// Time passes in memory only while somebody waits.
const LATE: Odds =
    Odds { unheard: 0, unanswered: 0, late: 20, late_max: Duration::from_millis(20) };

/// A cell in memory, some of whose agents' calls have faults.
struct FaultyCell {
    cell: MemoryCell,
    seed: u64,
    odds: Odds,
}

impl Cell for FaultyCell {
    type M = Faulty<Memory>;

    async fn connect(&self, name: &NodeId) -> (Faulty<Memory>, UnboundedReceiver<Event>) {
        let (inner, events_rx) = Memory::connect(&self.cell, name);
        let salt = name.as_str().bytes().fold(0, |sum: u64, byte| sum * 31 + u64::from(byte));
        Faulty::new(inner, events_rx, self.seed ^ salt)
    }

    fn start_heart(broker: Faulty<Memory>) -> AbortHandle {
        tokio::spawn(support::beat(broker)).abort_handle()
    }
}

/// A cell whose agents may have faults once they are registered.
trait Disturbed: Cell {
    /// Open walks of an origin. All waiting ones are submitted again after a fault, which must cause less
    /// than one further fault.
    const OPEN_MAX: usize;

    fn disturb(&self, broker: &Self::M);
}

impl Disturbed for RedisCell {
    const OPEN_MAX: usize = WALKS as usize;

    fn disturb(&self, _broker: &Self::M) {}
}

impl Disturbed for FaultyCell {
    const OPEN_MAX: usize = 16;

    fn disturb(&self, broker: &Self::M) {
        broker.set_odds(self.odds);
    }
}

/// Runs origins and runners until all walks have ended; `doubtful` if answers may be lost.
async fn run<C: Disturbed>(cell: &C, seed: u64, doubtful: bool) {
    println!("SEED={seed}");
    let local = LocalSet::new();
    let over = Rc::new(std::cell::Cell::new(false));
    let mut runners = Vec::new();
    for index in 0..RUNNERS {
        let agent = cell.agent(&format!("r{index}")).await;
        let random = Random(seed ^ (index + 100));
        runners.push(local.spawn_local(runner(agent, random, Rc::clone(&over))));
    }
    let mut origins = Vec::new();
    for index in 0..ORIGINS {
        let agent = cell.node(&format!("o{index}"), u32::from(index == 0)).await;
        cell.disturb(&agent.broker);
        let origin = Origin::new(agent, index, seed, doubtful);
        origins.push(local.spawn_local(origin.run(C::OPEN_MAX)));
    }
    let ended = async {
        for origin in origins {
            origin.await.unwrap_or_else(|error| panic!("SEED={seed}: {error}"));
        }
        over.set(true);
        let mut deaths = 0;
        for runner in runners {
            deaths += runner.await.expect("a runner ends");
        }
        println!("{deaths} nodes died");
    };
    let ended = tokio::time::timeout(HANG_MAX, local.run_until(ended)).await;
    assert!(ended.is_ok(), "SEED={seed}: nobody did anything for a long time");
    let observer = cell.agent("observer").await;
    for node in observer.nodes().await {
        assert_eq!(node.running, 0, "SEED={seed}: {node:?}");
    }
}

/// A node that now and then is silent for longer than its lease. Returns how often it died of that.
async fn runner(
    agent: Agent<impl Matchmaker>,
    mut random: Random,
    over: Rc<std::cell::Cell<bool>>,
) -> u32 {
    let mut deaths = 0;
    let slots = 2 + u32::try_from(random.below(4)).expect("small");
    agent.register(slots).await;
    while !over.get() {
        if random.below(30) == 0 {
            tokio::time::sleep(LEASE + LEASE / 2).await;
        }
        tokio::time::sleep(LEASE / 10).await;
        if let Ok(Registered::No) = agent.broker.heartbeat().await {
            deaths += 1;
            agent.register(slots).await;
        }
    }
    deaths
}

struct Origin<M> {
    agent: Agent<M>,
    random: Random,
    session: u64,
    /// The walks that have not ended, each with the newest grant.
    open: HashMap<WalkId, Option<Grant>>,
    /// A reply may have been lost.
    doubtful: bool,
    ended: u32,
    started: Instant,
}

impl<M: Matchmaker + Clone> Origin<M> {
    fn new(agent: Agent<M>, index: u64, seed: u64, doubtful: bool) -> Self {
        Self {
            agent,
            random: Random(seed ^ (index + 1)),
            session: index + 1,
            open: HashMap::new(),
            doubtful,
            ended: 0,
            started: Instant::now(),
        }
    }

    async fn run(mut self, open_max: usize) {
        let mut submitted = 0;
        while submitted < WALKS || !self.open.is_empty() {
            assert!(self.started.elapsed() < END_MAX, "open: {:?}", self.open);
            while let Ok(event) = self.agent.events.try_recv() {
                self.hear(event).await;
            }
            if submitted < WALKS && self.open.len() < open_max && self.random.below(2) == 0 {
                submitted += 1;
                self.open.insert(walk(self.session, submitted), None);
                self.submit(walk(self.session, submitted), Attempt(0)).await;
                continue;
            }
            let granted: Vec<Grant> = self.open.values().flatten().cloned().collect();
            if granted.is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let choice = self.random.below(granted.len() as u64);
            self.act(granted[usize::try_from(choice).expect("small")].clone()).await;
        }
        assert_eq!(self.ended, WALKS);
        let session = SessionId(self.session);
        while let Err(error) = self.agent.broker.cancel_session(session).await {
            assert!(self.doubtful, "{error}");
        }
    }

    async fn act(&mut self, grant: Grant) {
        let broker = self.agent.broker.clone();
        match self.random.below(20) {
            0 => {
                let avoid = (self.random.below(2) == 0).then_some(&grant.node);
                self.open.insert(grant.walk, None);
                match broker.retry(grant.walk, grant.attempt, avoid).await {
                    Ok(Retried::Submitted(submitted)) => self.placed(grant.walk, submitted),
                    Ok(Retried::NotNeeded) => self.end_doubtful(grant.walk, "retry"),
                    Err(_) => self.submit(grant.walk, grant.attempt).await,
                }
            }
            1 => match until_answered(async || broker.cancel(grant.walk).await).await {
                true => self.end(grant.walk),
                false => self.end_doubtful(grant.walk, "cancel"),
            },
            2 => drop(broker.reap_node(&grant.node).await),
            3 if grant.attempt.0 > 1 => {
                let old = Attempt(grant.attempt.0 - 1);
                let stale = broker.finish(grant.walk, &grant.node, old).await;
                assert!(!matches!(stale, Ok(Finished::Done { .. })), "a stale attempt ended");
            }
            _ => {
                let finish = async || broker.finish(grant.walk, &grant.node, grant.attempt).await;
                self.finished(&grant, until_answered(finish).await);
            }
        }
    }

    fn finished(&mut self, grant: &Grant, finished: Finished) {
        match finished {
            Finished::Done { next } => {
                self.end(grant.walk);
                if let Some(next) = next {
                    self.granted(next);
                }
            }
            // A newer grant is on its way, or was lost with a connection.
            Finished::Fenced(newest) => {
                assert!(newest >= grant.attempt);
                self.open.insert(grant.walk, None);
            }
            Finished::Unknown => self.end_doubtful(grant.walk, "finish"),
        }
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Granted(grant) => self.granted(grant),
            Event::Exhausted(walk) => self.end(walk),
            // This node was the runner; it cancels its own walks only in calls.
            Event::Cancelled(walk) => assert_ne!(walk.session.0, self.session),
            Event::Lost => {}
            Event::Back => {
                let open: Vec<_> = self.open.keys().copied().collect();
                for walk in open {
                    self.submit(walk, Attempt(0)).await;
                }
            }
        }
    }

    async fn submit(&mut self, walk: WalkId, after: Attempt) {
        let submit = Submit { after, ..plain(walk) };
        loop {
            match self.agent.broker.submit(&submit).await {
                Ok(submitted) => return self.placed(walk, submitted),
                Err(error) => assert!(self.doubtful, "{error}"),
            }
        }
    }

    fn placed(&mut self, walk: WalkId, submitted: Submitted) {
        match submitted {
            Submitted::Granted(grant) => self.granted(grant),
            Submitted::Queued(_) => {}
            Submitted::Exhausted => self.end(walk),
            Submitted::Busy => panic!("the queue is short"),
        }
    }

    fn granted(&mut self, grant: Grant) {
        let Some(known) = self.open.get_mut(&grant.walk) else {
            // Granted before the end that was already reported.
            return;
        };
        if known.as_ref().is_none_or(|known| known.attempt < grant.attempt) {
            *known = Some(grant);
        }
    }

    #[track_caller]
    fn end(&mut self, walk: WalkId) {
        if self.open.remove(&walk).is_some() {
            self.ended += 1;
        } else {
            assert!(self.doubtful, "{walk} ended twice");
        }
    }

    /// The broker does not know an open walk: allowed only if a reply was lost.
    fn end_doubtful(&mut self, walk: WalkId, call: &str) {
        // Its end may be among the events that were not heard yet.
        if self.doubtful {
            self.end(walk);
        } else {
            while let Ok(event) = self.agent.events.try_recv() {
                match event {
                    Event::Granted(grant) => self.granted(grant),
                    Event::Exhausted(walk) => self.end(walk),
                    Event::Cancelled(walk) => assert_ne!(walk.session.0, self.session),
                    Event::Lost | Event::Back => panic!("nobody killed redis"),
                }
            }
            assert!(!self.open.contains_key(&walk), "{call}: the broker forgot {walk}");
        }
    }
}

/// All that is left are nodes, those that ended a lease before the last included, and counters.
async fn assert_nothing_left(cell: &RedisCell, seed: u64) {
    let keys = cell.redis_cli().args(["KEYS", "*"]).output();
    let keys = keys.expect("redis-cli runs").stdout;
    for key in String::from_utf8_lossy(&keys).lines() {
        let kind = key.split(':').nth(1).unwrap_or_default();
        assert!(
            matches!(kind, "lease" | "load" | "node" | "up" | "past" | "queued" | "count" | "tag"),
            "SEED={seed}: {key}"
        );
    }
}

/// Makes a call until it is answered, as agents do.
async fn until_answered<T>(call: impl AsyncFn() -> Result<T, BrokerError>) -> T {
    loop {
        if let Ok(answer) = call().await {
            return answer;
        }
    }
}
