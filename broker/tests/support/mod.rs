//! Cells to test matchmakers in: a real Redis in a temporary directory, or one in memory; and the agents
//! that talk to it.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "shared by the test programs")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use broker::{
    Broker, Event, Grant, LEASE, Matchmaker, Memory, MemoryCell, NodeInfo, NodeState,
    PrivateServer, Submit, Submitted,
};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

/// What the nodes of a test share.
pub trait Cell {
    type M: Matchmaker + Clone + 'static;

    async fn connect(&self, name: &NodeId) -> (Self::M, UnboundedReceiver<Event>);

    /// Lets a node's heart beat.
    fn start_heart(broker: Self::M) -> AbortHandle;

    async fn agent(&self, name: &str) -> Agent<Self::M> {
        let name = node(name);
        let (broker, events) = self.connect(&name).await;
        Agent { name, broker, events, heart: None }
    }

    /// An agent whose node has `slots`, and whose heart beats.
    async fn node(&self, name: &str, slots: u32) -> Agent<Self::M> {
        let mut agent = self.agent(name).await;
        agent.register(slots).await;
        agent.heart = Some(Self::start_heart(agent.broker.clone()));
        agent
    }
}

pub struct RedisCell {
    pub server: PrivateServer,
    pub dir: TempDir,
}

impl RedisCell {
    /// Returns `redis-cli`, as the server's administrator.
    pub fn redis_cli(&self) -> Command {
        let (_, password) = self.server.url().split_once("?pass=").expect("it has a password");
        let mut redis = Command::new("redis-cli");
        redis.arg("-s").arg(self.dir.path().join("redis/redis.sock"));
        redis.env("REDISCLI_AUTH", password);
        redis
    }
}

/// Starts a Redis.
pub async fn cell() -> RedisCell {
    let dir = TempDir::new().expect("a temporary directory");
    let server = PrivateServer::start(&dir.path().join("redis")).await.expect("redis starts");
    RedisCell { server, dir }
}

impl Cell for RedisCell {
    type M = Broker;

    async fn connect(&self, name: &NodeId) -> (Broker, UnboundedReceiver<Event>) {
        Broker::connect(self.server.url(), "w", name).await.expect("the broker answers")
    }

    fn start_heart(broker: Broker) -> AbortHandle {
        tokio::spawn(beat(broker)).abort_handle()
    }
}

impl Cell for MemoryCell {
    type M = Memory;

    async fn connect(&self, name: &NodeId) -> (Memory, UnboundedReceiver<Event>) {
        Memory::connect(self, name)
    }

    fn start_heart(broker: Memory) -> AbortHandle {
        tokio::spawn(beat(broker)).abort_handle()
    }
}

pub async fn beat(broker: impl Matchmaker) {
    loop {
        tokio::time::sleep(LEASE / 4).await;
        let _ = broker.heartbeat().await;
    }
}

/// An agent: a name, its connection and its events.
pub struct Agent<M = Broker> {
    pub name: NodeId,
    pub broker: M,
    pub events: UnboundedReceiver<Event>,
    heart: Option<AbortHandle>,
}

impl<M> Drop for Agent<M> {
    fn drop(&mut self) {
        self.fall_silent();
    }
}

impl<M> Agent<M> {
    pub fn fall_silent(&mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
    }
}

impl<M: Matchmaker> Agent<M> {
    pub async fn register(&self, slots: u32) {
        self.broker.register(&info(self.name.as_str(), slots)).await.expect("registers");
    }

    pub async fn submit(&self, walk: WalkId) -> Submitted {
        self.broker.submit(&plain(walk)).await.expect("submits")
    }

    pub async fn granted(&self, walk: WalkId) -> Grant {
        match self.submit(walk).await {
            Submitted::Granted(grant) => grant,
            other => panic!("{walk} was not granted: {other:?}"),
        }
    }

    pub async fn event(&mut self) -> Event {
        tokio::time::timeout(Duration::from_secs(5), self.events.recv())
            .await
            .expect("an event within 5 s")
            .expect("the broker lives")
    }

    pub async fn next_grant(&mut self) -> Grant {
        match self.event().await {
            Event::Granted(grant) => grant,
            other => panic!("no grant: {other:?}"),
        }
    }

    pub async fn nodes(&self) -> Vec<NodeState> {
        self.broker.list().await.expect("lists").0
    }

    pub async fn running(&self) -> u32 {
        self.nodes().await.iter().map(|node| node.running).sum()
    }
}

pub fn node(name: &str) -> NodeId {
    name.parse().expect("a sound name")
}

pub fn walk(session: u64, number: u32) -> WalkId {
    WalkId { session: SessionId(session), number }
}

/// Returns where the agent of that name listens.
pub fn address(name: &str) -> SocketAddr {
    let port =
        name.bytes().fold(7, |sum: u16, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    ([10, 0, 0, 1], port).into()
}

pub fn info(name: &str, slots: u32) -> NodeInfo {
    NodeInfo {
        node: node(name),
        address: address(name),
        version: "1".into(),
        slots,
        cpu: "a cpu".into(),
        trouble: None,
        takes: broker::Takes::All,
    }
}

pub fn plain(walk: WalkId) -> Submit {
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

/// Returns the seed in the environment variable `SEED`, or a new one.
pub fn seed() -> u64 {
    std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.expect("after 1970").subsec_nanos().into()
    })
}

/// Pseudo-random numbers (xorshift64*).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 |= 1 << 63;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }
}
