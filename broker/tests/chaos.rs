//! Many agents at once, with everything going wrong that may: every walk ends once, no slot leaks.

#![expect(clippy::print_stdout, reason = "a failing run shows its seed")]

mod support;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use broker::{Event, Finished, Grant, LEASE, Registered, Retried, Submit, Submitted};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Agent, Cell, cell, plain, walk};
use worknode::id::{Attempt, SessionId, WalkId};

const ORIGINS: u64 = 5;
const RUNNERS: u64 = 4;
const WALKS: u32 = 400;
/// All must have ended by then.
const END_MAX: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_walk_ends_once() {
    run(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_walk_ends_once_though_redis_is_killed() {
    run(true).await;
}

async fn run(kill_redis: bool) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").subsec_nanos().into()
    });
    println!("SEED={seed}");
    let cell = cell().await;
    let over = Arc::new(AtomicBool::new(false));
    let deaths = Arc::new(AtomicU32::new(0));
    let mut runners = Vec::new();
    for index in 0..RUNNERS {
        let agent = cell.agent(&format!("r{index}")).await;
        let random = Random(seed ^ (index + 100));
        let (over, deaths) = (Arc::clone(&over), Arc::clone(&deaths));
        runners.push(tokio::spawn(runner(agent, random, over, deaths)));
    }
    let mut origins = Vec::new();
    for index in 0..ORIGINS {
        let agent = cell.node(&format!("o{index}"), u32::from(index == 0)).await;
        origins.push(tokio::spawn(Origin::new(agent, index, seed, kill_redis).run()));
    }
    if kill_redis {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            if let Some(pid) = cell.server.pid() {
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the server runs");
            }
        }
    }
    for origin in origins {
        origin.await.unwrap_or_else(|error| panic!("SEED={seed}: {error}"));
    }
    over.store(true, Ordering::Relaxed);
    for runner in runners {
        runner.await.expect("a runner ends");
    }
    println!("{} nodes died", deaths.load(Ordering::Relaxed));
    assert_nothing_left(&cell, seed).await;
}

/// A node that now and then is silent for longer than its lease.
async fn runner(agent: Agent, mut random: Random, over: Arc<AtomicBool>, deaths: Arc<AtomicU32>) {
    let slots = 2 + u32::try_from(random.below(4)).expect("small");
    agent.register(slots).await;
    while !over.load(Ordering::Relaxed) {
        if random.below(30) == 0 {
            tokio::time::sleep(LEASE + LEASE / 2).await;
        }
        tokio::time::sleep(LEASE / 10).await;
        if let Ok(Registered::No) = agent.broker.heartbeat().await {
            deaths.fetch_add(1, Ordering::Relaxed);
            agent.register(slots).await;
        }
    }
}

struct Origin {
    agent: Agent,
    random: Random,
    session: u64,
    /// The walks that have not ended, each with the newest grant.
    open: HashMap<WalkId, Option<Grant>>,
    /// A reply may have been lost.
    doubtful: bool,
    ended: u32,
    started: Instant,
}

impl Origin {
    fn new(agent: Agent, index: u64, seed: u64, doubtful: bool) -> Self {
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

    async fn run(mut self) {
        let mut submitted = 0;
        while submitted < WALKS || !self.open.is_empty() {
            assert!(self.started.elapsed() < END_MAX, "open: {:?}", self.open);
            while let Ok(event) = self.agent.events.try_recv() {
                self.hear(event).await;
            }
            if submitted < WALKS && self.random.below(2) == 0 {
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
        self.agent.broker.cancel_session(session).await.expect("the session closes");
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
            1 => match broker.cancel(grant.walk).await {
                Ok(true) => self.end(grant.walk),
                Ok(false) => self.end_doubtful(grant.walk, "cancel"),
                Err(_) => {}
            },
            2 => drop(broker.reap_node(&grant.node).await),
            3 if grant.attempt.0 > 1 => {
                let old = Attempt(grant.attempt.0 - 1);
                let stale = broker.finish(grant.walk, &grant.node, old).await;
                assert!(!matches!(stale, Ok(Finished::Done { .. })), "a stale attempt ended");
            }
            _ => match broker.finish(grant.walk, &grant.node, grant.attempt).await {
                Ok(Finished::Done { next }) => {
                    self.end(grant.walk);
                    if let Some(next) = next {
                        self.granted(next);
                    }
                }
                // A newer grant is on its way, or was lost with a connection.
                Ok(Finished::Fenced(newest)) => {
                    assert!(newest >= grant.attempt);
                    self.open.insert(grant.walk, None);
                }
                Ok(Finished::Unknown) => self.end_doubtful(grant.walk, "finish"),
                Err(_) => {}
            },
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

/// All that is left are nodes and counters.
async fn assert_nothing_left(cell: &Cell, seed: u64) {
    let observer = cell.agent("observer").await;
    for node in observer.broker.nodes().await.expect("nodes") {
        assert_eq!(node.running, 0, "SEED={seed}: {node:?}");
    }
    let socket = cell.dir.path().join("redis/redis.sock");
    let mut redis = std::process::Command::new("redis-cli");
    let keys = redis.arg("-s").arg(socket).args(["KEYS", "*"]).output();
    let keys = keys.expect("redis-cli runs").stdout;
    for key in String::from_utf8_lossy(&keys).lines() {
        let kind = key.split(':').nth(1).unwrap_or_default();
        assert!(
            matches!(kind, "lease" | "load" | "node" | "up" | "queued" | "count" | "tag"),
            "SEED={seed}: {key}"
        );
    }
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 |= 1 << 63;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
