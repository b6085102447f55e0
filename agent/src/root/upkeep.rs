//! Background work: heartbeats, the broker's events, the gates of sessions, and dropping what is unused.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use broker::Event;
use tokio::sync::mpsc;

use crate::cluster::Cluster;
use crate::links::Links;
use crate::machine;
use crate::membership::Membership;
use crate::mesh::Mesh;
use crate::mirrors::Mirrors;
use crate::reached_at::ReachedAt;
use crate::sessions::Sessions;
use crate::sys::watch::Timer;

/// Just under half the lease.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(450);
/// Heartbeats between two checks of this node's disk space and address.
const CHECK_EVERY: u32 = 5;

/// Tells the mesh whose events it may take.
pub(super) async fn keep_authors(membership: Rc<Membership>, mesh: Mesh) {
    let mut changes = membership.revocations();
    loop {
        mesh.note_members(membership.nodes_ever());
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The parts that background work concerns.
pub(super) struct Upkeep {
    pub(super) membership: Option<Rc<Membership>>,
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
            self.sessions.keep_pages();
            if beats.is_multiple_of(CHECK_EVERY) {
                self.check().await;
                self.links.begin_seeking();
            }
            self.links.begin_greeting(false);
            beats = beats.wrapping_add(1);
        }
    }

    /// Checks this node's disk space and address. If it has moved, it calls all others, which learn its new address.
    async fn check(&self) {
        let address = self.reached_at.now();
        let trouble = machine::trouble(&self.reached_at, address, &self.state);
        if let Some(membership) = &self.membership {
            let has_moved = membership.address() != address;
            membership.set_address(address);
            for (node, address) in self.cluster.members.alive() {
                membership.hear_address(&node, address);
            }
            membership.save_addresses().await;
            if has_moved {
                self.links.begin_telling();
            }
        }
        self.cluster.note_own(trouble, address).await;
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

    /// Ends what is done with tokens that are revoked.
    pub(super) async fn keep_to_tokens(self: Rc<Self>, membership: Rc<Membership>) {
        let mut revocations = membership.revocations();
        // The sender lives as long as the agent.
        while revocations.changed().await.is_ok() {
            self.sessions.end_revoked(|pass| membership.revoked_pass(pass));
            self.links.end_revoked();
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
