//! A real Redis in a temporary directory, and agents that talk to it.
#![allow(dead_code, reason = "each test program uses its part")]
#![allow(unreachable_pub, reason = "shared by the test programs")]

use std::net::SocketAddr;
use std::time::Duration;

use broker::{Broker, Event, Grant, LEASE, NodeInfo, PrivateServer, Submit, Submitted};
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::AbortHandle;
use worknode::id::{Attempt, NodeId, SessionId, WalkId};

pub struct Cell {
    pub server: PrivateServer,
    pub dir: TempDir,
}

/// An agent: a name, its connection and its events.
pub struct Agent {
    pub name: NodeId,
    pub broker: Broker,
    pub events: UnboundedReceiver<Event>,
    heart: Option<AbortHandle>,
}

pub async fn cell() -> Cell {
    let dir = TempDir::new().expect("a temporary directory");
    let server = PrivateServer::start(&dir.path().join("redis")).await.expect("redis starts");
    Cell { server, dir }
}

impl Cell {
    pub async fn agent(&self, name: &str) -> Agent {
        let name = node(name);
        let (broker, events) =
            Broker::connect(self.server.url(), "w", &name).await.expect("the broker answers");
        Agent { name, broker, events, heart: None }
    }

    /// An agent whose node has `slots`, and whose heart beats.
    pub async fn node(&self, name: &str, slots: u32) -> Agent {
        let mut agent = self.agent(name).await;
        agent.register(slots).await;
        let broker = agent.broker.clone();
        let beat = async move {
            loop {
                tokio::time::sleep(LEASE / 4).await;
                let _ = broker.heartbeat().await;
            }
        };
        agent.heart = Some(tokio::spawn(beat).abort_handle());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.fall_silent();
    }
}

impl Agent {
    pub fn fall_silent(&mut self) {
        if let Some(heart) = self.heart.take() {
            heart.abort();
        }
    }

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

    pub async fn running(&self) -> u32 {
        self.broker.nodes().await.expect("nodes").iter().map(|node| node.running).sum()
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
    }
}

pub fn plain(walk: WalkId) -> Submit {
    Submit { walk, after: Attempt(0), only: None, avoid: Vec::new(), prefer: Vec::new() }
}
