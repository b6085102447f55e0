//! The slots of runners that this origin holds. One that its walk needs no more goes to the next walk of
//! the session without a word to the broker, as long as nobody else waits for a slot.
//!
//! For the broker the walk that a slot was granted to goes on until the slot is given back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::Grant;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use worknode::id::{NodeId, SessionId, WalkId};

use super::{Cluster, Turn};

/// A slot waits so long for its next walk: a build tool needs that to start another compile.
const KEPT_MAX: Duration = Duration::from_millis(10);
/// After so long the broker chooses again, which may know a better node by now.
const HELD_MAX: Duration = Duration::from_secs(5);

/// What this origin holds, and who waits for it.
#[derive(Debug, Default)]
pub(super) struct Slots {
    held: Cell<u32>,
    kept: RefCell<Vec<Kept>>,
    /// Gives back what is kept for too long, as long as something is kept.
    watcher: RefCell<Option<JoinHandle<()>>>,
    /// Walks that wait for one of the held slots; the broker does not know them.
    line: RefCell<VecDeque<InLine>>,
    /// Walks of this origin that wait at the broker.
    queued: Cell<u32>,
}

#[derive(Debug)]
struct Kept {
    slot: Slot,
    session: SessionId,
    since: Instant,
}

#[derive(Debug)]
struct InLine {
    walk: WalkId,
    turn_tx: mpsc::UnboundedSender<Turn>,
}

/// A slot that was granted to a walk of this origin. Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    cluster: Rc<Cluster>,
    grant: Grant,
    since: Instant,
    is_given_back: Cell<bool>,
}

impl Slot {
    pub(crate) fn new(cluster: &Rc<Cluster>, grant: Grant) -> Self {
        let held = &cluster.slots.held;
        held.set(held.get() + 1);
        let (cluster, since) = (Rc::clone(cluster), Instant::now());
        Self { cluster, grant, since, is_given_back: Cell::new(false) }
    }

    /// Returns what the broker said when it granted the slot, to this walk or to an earlier one.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The broker knows already that the walk which it granted the slot to has it no more: nobody
    /// else gets it from this origin.
    pub(crate) fn forget(&self) {
        self.is_given_back.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.cluster.slots;
        slots.held.set(slots.held.get() - 1);
        if !self.is_given_back.get() {
            self.cluster.finish(&self.grant);
        }
        // Walks of this origin that wait at the broker came before those.
        if slots.queued.get() == 0 {
            slots.send_to_broker();
        }
    }
}

/// Counts a walk that waits at the broker, until it is dropped.
pub(crate) struct Queued<'a>(&'a Slots);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued.set(self.0.queued.get() - 1);
    }
}

impl Slots {
    /// All that wait in line ask the broker.
    pub(super) fn send_to_broker(&self) {
        for InLine { turn_tx, .. } in self.line.take() {
            let _ = turn_tx.send(Turn::Dropped);
        }
    }

    /// Gives back what is kept for a session.
    pub(super) fn give_back(&self, session: SessionId) {
        let of = |kept: &mut Kept| kept.session == session;
        let given: Vec<_> = self.kept.borrow_mut().extract_if(.., of).collect();
        self.rest();
        drop(given);
    }

    /// Nothing wakes the agent for what was taken in time.
    fn rest(&self) {
        if self.kept.borrow().is_empty()
            && let Some(watcher) = self.watcher.take()
        {
            watcher.abort();
        }
    }
}

impl Cluster {
    /// Returns a slot that was kept for a session, on the node `on` if one is named.
    pub(crate) fn kept_slot(&self, session: SessionId, on: Option<&NodeId>) -> Option<Slot> {
        let mut kept = self.slots.kept.borrow_mut();
        let suits = |kept: &Kept| {
            kept.session == session && on.is_none_or(|on| *on == kept.slot.grant.node)
        };
        let found = kept.iter().position(suits)?;
        let slot = kept.remove(found).slot;
        drop(kept);
        self.slots.rest();
        Some(slot)
    }

    /// Lets a walk wait for one of this origin's slots, if it has all that there are; otherwise the
    /// broker is to be asked.
    pub(crate) fn wait_in_line(&self, walk: WalkId) -> bool {
        if self.others_wait.get() || !self.holds_all() {
            return false;
        }
        let waiting = self.waiting.borrow();
        let Some(turn_tx) = waiting.get(&walk).cloned() else { return false };
        self.slots.line.borrow_mut().push_back(InLine { walk, turn_tx });
        true
    }

    /// The walk waits in line no more.
    pub(crate) fn leave_line(&self, walk: WalkId) {
        self.slots.line.borrow_mut().retain(|waiting| waiting.walk != walk);
    }

    /// Counts a walk that waits at the broker.
    pub(crate) fn note_queued(&self) -> Queued<'_> {
        let queued = &self.slots.queued;
        queued.set(queued.get() + 1);
        Queued(&self.slots)
    }

    /// Tells whether a slot can go to another walk of this origin: nobody waits for it who came before.
    pub(crate) fn may_pass_on(&self) -> bool {
        self.slots.queued.get() == 0 && !self.others_wait.get()
    }

    /// Passes a slot on to the session's next walk, or gives it back: whatever lets it drop does that.
    pub(crate) fn pass_on(self: &Rc<Self>, slot: Slot, session: SessionId) {
        if !self.may_pass_on() || slot.is_given_back.get() {
            return;
        }
        let next = self.slots.line.borrow_mut().pop_front();
        match next {
            Some(InLine { walk, turn_tx }) if walk.session == session => {
                // One that is gone gives it back.
                let _ = turn_tx.send(Turn::Passed(slot));
            }
            Some(other) => self.slots.line.borrow_mut().push_front(other),
            None if slot.since.elapsed() > HELD_MAX => {}
            None => {
                let since = Instant::now();
                self.slots.kept.borrow_mut().push(Kept { slot, session, since });
                self.watch_kept();
            }
        }
    }

    /// Has a walk hear of a slot that was granted to an earlier one.
    pub(crate) fn adopt(&self, slot: &Slot, walk: WalkId) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(turn_tx) = waiting.get(&walk).cloned() {
            waiting.insert(slot.grant.walk, turn_tx);
        }
    }

    /// The walk needs to hear no more of a slot that was granted to an earlier one.
    pub(crate) fn disown(&self, slot: &Slot, walk: WalkId) {
        if slot.grant.walk != walk {
            self.forget(slot.grant.walk);
        }
    }

    fn holds_all(&self) -> bool {
        let nodes = self.nodes.borrow();
        let slots = nodes
            .iter()
            .filter(|state| self.members.is_usable(state))
            .map(|state| state.info.slots);
        let slots = slots.fold(0_u32, u32::saturating_add);
        slots > 0 && self.slots.held.get() >= slots
    }

    /// Who waits in line asks the broker if this origin has not all slots any more.
    pub(super) fn look_at_line(&self) {
        if self.others_wait.get() || !self.holds_all() {
            self.slots.send_to_broker();
        }
    }

    /// Gives kept slots back in time.
    fn watch_kept(self: &Rc<Self>) {
        let mut watcher = self.slots.watcher.borrow_mut();
        if watcher.is_some() {
            return;
        }
        let cluster = Rc::clone(self);
        *watcher = Some(tokio::task::spawn_local(async move {
            let slots = &cluster.slots;
            loop {
                let oldest = slots.kept.borrow().first().map(|kept| kept.since);
                let Some(oldest) = oldest else { break };
                tokio::time::sleep_until((oldest + KEPT_MAX).into()).await;
                let is_old = |kept: &mut Kept| kept.since.elapsed() >= KEPT_MAX;
                let old: Vec<_> = slots.kept.borrow_mut().extract_if(.., is_old).collect();
                drop(old);
            }
            slots.watcher.take();
        }));
    }
}
