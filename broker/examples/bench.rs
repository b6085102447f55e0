//! Measures the broker: `cargo run --release -p broker --example bench [--json] [URL]`. Without a
//! URL it starts a private server, and tells what processor time a job costs it. `--json` prints
//! one line, and measures no queue.

#![expect(clippy::print_stdout, reason = "a measuring program prints its results")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use broker::{
    Broker, Event, Finished, Grant, LEASE, Matchmaker, NodeInfo, PrivateServer, Submit, Submitted,
};
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

const NODES: u32 = 16;
const SLOTS: u32 = 8;
const SERIAL: u32 = 20_000;
const PARALLEL: u32 = 200_000;
const TASKS: u32 = 64;

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let dir = tempfile::tempdir()?;
    let (json, url): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|word| word == "--json");
    let (url, server) = match url.into_iter().next() {
        Some(url) => (url, None),
        None => {
            let server = PrivateServer::start(dir.path()).await?;
            (server.url().to_owned(), Some(server))
        }
    };
    let cell = format!("bench-{}", std::process::id());
    let origin: NodeId = "origin".parse()?;
    let (broker, mut events) = Broker::connect(&url, &cell, &origin).await?;
    for index in 0..NODES {
        let node: NodeId = format!("n{index}").parse()?;
        let (broker, mut events) = Broker::connect(&url, &cell, &node).await?;
        register(&broker, &node).await?;
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LEASE / 4).await;
                let _ = broker.heartbeat().await;
            }
        });
    }
    let redis = server.as_ref().and_then(PrivateServer::pid);
    let begun = Cpu::now(redis);
    let (submits, finishes) = serial(&broker).await?;
    let alone = begun.per_job(redis, SERIAL);
    let begun = Cpu::now(redis);
    let rate = parallel(&broker).await?;
    let together = begun.per_job(redis, PARALLEL);
    if !json.is_empty() {
        let micros = |percent| submits.at(percent).as_secs_f64() * 1e6;
        println!(
            r#"{{"jobs_per_second":{rate:.0},"submit_grant_p50_us":{:.1},"submit_grant_p99_us":{:.1},"redis_us":{:.1},"client_us":{:.1},"redis_alone_us":{:.1},"client_alone_us":{:.1}}}"#,
            micros(50),
            micros(99),
            together.redis_us,
            together.client_us,
            alone.redis_us,
            alone.client_us,
        );
        return Ok(());
    }
    submits.print("submit -> grant, one at a time");
    finishes.print("finish -> idle, one at a time");
    alone.print("one at a time");
    println!("submit + finish, {TASKS} at once: {rate:.0} jobs/s");
    together.print("many at once");
    queued(&broker, &mut events).await?.print("finish -> next grant of a queue");
    Ok(())
}

async fn register(broker: &Broker, node: &NodeId) -> Result<(), Failure> {
    let info = NodeInfo {
        node: node.clone(),
        address: ([10, 0, 0, 1], 7).into(),
        version: "1".into(),
        slots: SLOTS,
        cpu: "any".into(),
        trouble: None,
        takes: broker::Takes::All,
    };
    Ok(broker.register(&info).await?)
}

/// One walk after the other, all slots free.
async fn serial(broker: &Broker) -> Result<(Times, Times), Failure> {
    let (mut submits, mut finishes) = (Vec::new(), Vec::new());
    for number in 1..=SERIAL {
        let begun = Instant::now();
        let Submitted::Granted(grant) = broker.submit(&walk(1, number)).await? else {
            return Err("no slot".into());
        };
        submits.push(begun.elapsed());
        let begun = Instant::now();
        finish(broker, &grant).await?;
        finishes.push(begun.elapsed());
    }
    Ok((Times::new(submits), Times::new(finishes)))
}

/// Many at once, never more than there are slots. Returns jobs a second.
async fn parallel(broker: &Broker) -> Result<f64, Failure> {
    let next = Arc::new(AtomicU32::new(1));
    let begun = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (broker, next) = (broker.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number > PARALLEL {
                        return Ok::<(), Failure>(());
                    }
                    match broker.submit(&walk(2, number)).await? {
                        Submitted::Granted(grant) => finish(&broker, &grant).await?,
                        other => return Err(format!("{other:?}").into()),
                    };
                }
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(f64::from(PARALLEL) / begun.elapsed().as_secs_f64())
}

/// All slots taken, a queue of five sessions: each finish grants the next.
async fn queued(
    broker: &Broker,
    events: &mut tokio::sync::mpsc::UnboundedReceiver<Event>,
) -> Result<Times, Failure> {
    let mut running = Vec::new();
    for number in 1..=SERIAL {
        match broker.submit(&walk(3 + u64::from(number % 5), number)).await? {
            Submitted::Granted(grant) => running.push(grant),
            Submitted::Queued(_) => {}
            other => return Err(format!("{other:?}").into()),
        }
    }
    let mut times = Vec::new();
    while let Some(grant) = running.pop() {
        let begun = Instant::now();
        if let Some(next) = finish(broker, &grant).await? {
            times.push(begun.elapsed());
            running.push(next);
        }
        while let Ok(Event::Granted(grant)) = events.try_recv() {
            running.push(grant);
        }
    }
    Ok(Times::new(times))
}

async fn finish(broker: &Broker, grant: &Grant) -> Result<Option<Grant>, Failure> {
    match broker.finish(grant.walk, &grant.node, grant.attempt).await? {
        Finished::Done { next } => Ok(next),
        other => Err(format!("{other:?}").into()),
    }
}

fn walk(session: u64, number: u32) -> Submit {
    Submit {
        uid: 0,
        walk: WalkId { session: SessionId(session), number },
        after: Attempt(0),
        only: None,
        avoid: Vec::new(),
        near: Vec::new(),
        prefer: Vec::new(),
    }
}

/// Processor time, of which there is no more when others use the machine too.
#[derive(Clone, Copy)]
struct Cpu {
    redis_us: f64,
    client_us: f64,
}

impl Cpu {
    fn now(redis: Option<u32>) -> Self {
        let of = |pid: &str| {
            // Time on a processor in ns, of each thread.
            let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten();
            let times = threads.flatten().filter_map(|thread| {
                let stat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
                stat.split(' ').next()?.parse::<f64>().ok()
            });
            times.sum::<f64>() / 1e3
        };
        let redis_us = redis.map_or(f64::NAN, |pid| of(&pid.to_string()));
        Self { redis_us, client_us: of("self") }
    }

    fn per_job(self, redis: Option<u32>, jobs: u32) -> Self {
        let (now, jobs) = (Self::now(redis), f64::from(jobs));
        Self {
            redis_us: (now.redis_us - self.redis_us) / jobs,
            client_us: (now.client_us - self.client_us) / jobs,
        }
    }

    fn print(self, when: &str) {
        let Self { redis_us, client_us } = self;
        println!(
            "processor time of a job, {when}: Redis {redis_us:.1} us, client {client_us:.1} us"
        );
    }
}

/// Sorted.
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> Duration {
        self.0[(self.0.len() - 1) * percent / 100]
    }

    fn print(&self, what: &str) {
        println!("{what}: p50 {:?}, p99 {:?}, n {}", self.at(50), self.at(99), self.0.len());
    }
}
