//! Background work: heartbeats, the broker's events, the gates of sessions, and dropping what is unused.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use broker::Event;
use tokio::sync::mpsc;

use crate::cluster::Cluster;
use crate::links::Links;
use crate::machine;
use crate::mirrors::Mirrors;
use crate::reached_at::ReachedAt;
use crate::sessions::Sessions;
use crate::sys::watch::Timer;

/// Just under half the lease.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(450);
/// Heartbeats between two checks of this node's disk space and address.
const CHECK_EVERY: u32 = 5;

/// The parts that background work concerns.
pub(super) struct Upkeep {
    pub(super) cluster: Rc<Cluster>,
    pub(super) links: Rc<Links>,
    pub(super) mirrors: Rc<Mirrors>,
    pub(super) sessions: Rc<Sessions>,
    pub(super) reached_at: ReachedAt,
    pub(super) state: PathBuf,
}

impl Upkeep {
    /// Extends the agent's lease, and detects nodes that have joined or lost theirs.
    pub(super) async fn beat(self: Rc<Self>) {
        let timer = match Timer::new() {
            Ok(timer) => timer,
            Err(error) => {
                return tracing::error!(%error, "failed to create the timer of heartbeats");
            }
        };
        let mut beats: u32 = 0;
        loop {
            timer.wait(HEARTBEAT_EVERY).await;
            self.cluster.beat().await;
            if beats.is_multiple_of(2) {
                self.cluster.note_beaten();
            }
            self.mirrors.rest();
            if beats.is_multiple_of(CHECK_EVERY) {
                let address = self.reached_at.now();
                let trouble = machine::trouble(&self.reached_at, address, &self.state);
                self.cluster.note_own(trouble, address).await;
            }
            self.links.begin_greeting(false);
            beats = beats.wrapping_add(1);
        }
    }

    /// Handles the broker's events.
    pub(super) async fn listen(self: Rc<Self>, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            let concerns_gates = matches!(event, Event::Lost | Event::Back);
            self.cluster.take_event(event).await;
            if concerns_gates {
                self.sessions.set_gates();
            }
        }
    }

    /// Opens and shuts the gates of sessions as nodes come and go.
    pub(super) async fn keep_gates(self: Rc<Self>) {
        let mut changes = self.cluster.changes();
        // The sender lives as long as the agent.
        while changes.changed().await.is_ok() {
            self.sessions.set_gates();
        }
    }
}
