//! Finds a slot for a walk: one that this origin holds, or one that the broker grants, at once or after a wait.

use std::time::{Duration, Instant};

use broker::{BrokerError, Grant, Matchmaker, Retried, Submit, Submitted};
use tokio::sync::mpsc;
use worknode::door::Kind;
use worknode::id::{Attempt, NodeId};
use worknode::reason::Reason;
use worknode::spec::WalkSpec;

use super::pipes::{self, reads_a_stream};
use super::shared::Shared;
use super::stub::{Said, Stub, is_deadly, signal};
use crate::cluster::{Queued, Slot, Turn};
use crate::session::Session;

/// Longest wait for a slot of a program whose standard input is a pipe, or whose output another walk reads that has a slot. Whoever
/// is at the other end cannot go on before this program does: if all slots were held by such walks, everybody would wait for ever.
/// A walk that is repeated waits as long as it takes, because it may have shown output and then cannot run here.
const PIPE_PATIENCE: Duration = Duration::from_secs(5);

/// The result of the search.
pub(super) enum Placed {
    Granted(Slot),
    Not(Reason),
    /// The stub is gone.
    Gone,
}

/// A walk that looks for a slot.
pub(super) struct Place<'a> {
    pub(super) shared: &'a Shared,
    pub(super) session: &'a Session,
    pub(super) spec: &'a WalkSpec,
    /// Nodes on which it has failed.
    pub(super) failed_nodes: &'a [NodeId],
    /// The last failed attempt, if the broker should replace it.
    pub(super) failed: Option<&'a Grant>,
}

impl Place<'_> {
    /// Finds a slot, or waits for one.
    pub(super) async fn find(
        &self,
        stub: &mut Stub,
        turns: &mut mpsc::UnboundedReceiver<Turn>,
    ) -> Placed {
        let (slots, walk) = (&self.shared.cluster.slots, self.spec.walk);
        let uid = self.spec.principal.uid;
        let is_first = self.failed_nodes.is_empty();
        let unsuitable = self.unsuitable();
        if self.session.on.as_ref().is_some_and(|on| unsuitable.contains(on)) {
            return Placed::Not(Reason::NoSlot);
        }
        let near = if is_first && self.session.on.is_none() {
            self.shared.near.of(self.spec).await
        } else {
            Vec::new()
        };
        let suits = |node: &NodeId| {
            self.session.on.as_ref().is_none_or(|on| on == node)
                && !unsuitable.contains(node)
                && (near.is_empty() || near.contains(node))
        };
        if is_first && let Some(slot) = slots.kept_slot(self.session.id, suits) {
            return Placed::Granted(slot);
        }
        let mut queued = None;
        if !(is_first && self.session.on.is_none() && slots.wait_in_line(walk, uid)) {
            match self.ask(near).await {
                Ok(Submitted::Granted(grant)) => return Placed::Granted(slots.hold(grant)),
                Ok(Submitted::Queued(_)) => queued = Some(slots.note_queued(uid)),
                Ok(Submitted::Busy) => return Placed::Not(Reason::NoSlot),
                Ok(Submitted::Exhausted) => return Placed::Not(Reason::RunnerLost),
                Err(error) => {
                    tracing::warn!(%error, %walk, "failed to submit");
                    // The broker may have received it nevertheless.
                    slots.cancel(walk);
                    return Placed::Not(Reason::NoBroker);
                }
            }
        }
        let placed = self.wait(stub, turns, queued).await;
        slots.leave_line(walk);
        placed
    }

    /// Asks the broker for a slot, or for another one.
    async fn ask(&self, near: Vec<NodeId>) -> Result<Submitted, BrokerError> {
        let broker = &self.shared.cluster.broker;
        if let Some(grant) = self.failed {
            let retried = broker.retry(self.spec.walk, grant.attempt, Some(&grant.node)).await?;
            if let Retried::Submitted(submitted) = retried {
                return Ok(submitted);
            }
        }
        broker.submit(&self.submit(near)).await
    }

    fn submit(&self, near: Vec<NodeId>) -> Submit {
        Submit {
            walk: self.spec.walk,
            after: self.after(),
            uid: self.spec.principal.uid,
            only: self.session.on.clone(),
            avoid: [self.unsuitable(), self.shared.cluster.to_avoid()].concat(),
            near,
            prefer: self.shared.links.warm_nodes(),
        }
    }

    /// Returns the nodes on which it has failed, those that do not take walks of its kind, and those that the session's
    /// token does not allow.
    fn unsuitable(&self) -> Vec<NodeId> {
        let mut nodes = self.failed_nodes.to_vec();
        if !self.spec.compiles {
            nodes.extend(self.shared.cluster.of_compile_steps());
        }
        if self.session.granted.names_nodes() {
            let is_allowed = |node: &NodeId| self.session.granted.allows_node(node);
            nodes.extend(self.shared.cluster.names().into_iter().filter(|it| !is_allowed(it)));
        }
        nodes
    }

    /// Returns the last failed attempt: only a newer one counts.
    fn after(&self) -> Attempt {
        self.failed.map_or(Attempt(0), |grant| grant.attempt)
    }

    /// Waits for a turn, as long as the stub lives and there is a node to walk to.
    async fn wait<'s>(
        &'s self,
        stub: &mut Stub,
        turns: &mut mpsc::UnboundedReceiver<Turn>,
        mut queued: Option<Queued<'s>>,
    ) -> Placed {
        let cluster = &self.shared.cluster;
        let mut changes = cluster.changes();
        let may_give_up = self.failed_nodes.is_empty();
        let (reads, writes) = (reads_a_stream(self.spec), pipes::written(stub.pid, self.spec));
        let mut patience = tokio::time::interval(PIPE_PATIENCE);
        patience.reset();
        loop {
            if !cluster.has_runner_for(self.session.on.as_ref(), &self.unsuitable()) {
                cluster.slots.cancel(self.spec.walk);
                return Placed::Not(Reason::NoCluster);
            }
            tokio::select! {
                turn = turns.recv() => {
                    if let Some(placed) = self.take_turn(turn, &mut queued).await {
                        return placed;
                    }
                }
                frame = stub.frames.recv() => {
                    if self.ends_wait(stub, frame) {
                        return Placed::Gone;
                    }
                }
                _ = changes.changed() => {}
                _ = patience.tick(), if may_give_up => {
                    let now = Instant::now();
                    if reads || self.shared.pipes.leaves(&writes, now, PIPE_PATIENCE) {
                        cluster.slots.cancel(self.spec.walk);
                        return Placed::Not(Reason::NoSlot);
                    }
                }
            }
        }
    }

    /// Handles a turn. Returns `None` if the wait continues.
    async fn take_turn<'s>(
        &'s self,
        turn: Option<Turn>,
        queued: &mut Option<Queued<'s>>,
    ) -> Option<Placed> {
        let slots = &self.shared.cluster.slots;
        match turn {
            Some(Turn::Granted(grant)) if grant.attempt > self.after() => {
                Some(Placed::Granted(slots.hold(grant)))
            }
            Some(Turn::Granted(_)) => None,
            Some(Turn::Passed(slot)) if !self.unsuitable().contains(&slot.grant().node) => {
                Some(Placed::Granted(slot))
            }
            // A slot that it cannot use goes back.
            Some(Turn::Passed(_) | Turn::Dropped) | None => {
                if self.shared.sessions.get(self.session.id).is_none() {
                    return Some(Placed::Not(Reason::NoAgent));
                }
                slots.leave_line(self.spec.walk);
                match self.shared.cluster.broker.submit(&self.submit(Vec::new())).await {
                    Ok(Submitted::Granted(grant)) => Some(Placed::Granted(slots.hold(grant))),
                    Ok(Submitted::Queued(_)) => {
                        queued.get_or_insert_with(|| slots.note_queued(self.spec.principal.uid));
                        None
                    }
                    _ => Some(Placed::Not(Reason::NoBroker)),
                }
            }
        }
    }

    /// Handles a frame of the stub during the wait. Signals concern the stub itself, because nothing runs yet. Returns
    /// whether the walk is not wanted any more.
    fn ends_wait(&self, stub: &Stub, frame: Option<Said>) -> bool {
        let Some(Said { header, payload, .. }) = frame else { return true };
        let deadly = signal(&header, &payload).filter(|&signal| is_deadly(signal, self.spec));
        let Some(status) = deadly else { return false };
        stub.output.send(Kind::Exit, 0, status.to_le_bytes().to_vec());
        true
    }
}
