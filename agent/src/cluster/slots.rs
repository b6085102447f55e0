//! The slots that this origin holds, and the walks that wait for one. When a walk is done with its slot, the slot goes
//! to the next walk of the session without asking the broker, unless others wait.
//!
//! To the broker, the walk that was granted the slot appears to run until the slot is given back.

use std::cell::{Cell, RefCell};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::{Broker, Grant};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use worknode::id::{NodeId, SessionId, WalkId};

use super::ends::Ends;

/// How long a free slot is kept for the next walk: the time that a build tool needs to start another compile.
const KEPT_MAX: Duration = Duration::from_millis(10);
/// How long a slot is passed on before the broker chooses again, because it may know a better node by then.
const HELD_MAX: Duration = Duration::from_secs(5);

/// A message to a waiting walk.
#[derive(Debug)]
pub(crate) enum Turn {
    /// The broker has granted it a slot.
    Granted(Grant),
    /// Another walk passes on its slot.
    Passed(Slot),
    /// It must ask the broker again to get a slot.
    Dropped,
}

/// The held slots and the waiting walks.
#[derive(Debug)]
pub(crate) struct Slots {
    ends: Rc<Ends>,
    /// All walks that wait for a slot. The channels are unbounded, but a walk gets one turn for each of its attempts, which
    /// are three at most, and one for the end of its session.
    waiting: RefCell<HashMap<WalkId, mpsc::UnboundedSender<Turn>>>,
    held: Cell<u32>,
    /// Number of slots of all nodes that take walks of this origin.
    all: Cell<u32>,
    kept: RefCell<Vec<Kept>>,
    /// Nodes that get no more walks of this origin: their slots are not passed on.
    shut: RefCell<Vec<NodeId>>,
    /// The task that gives back expired slots. It runs only while slots are kept.
    watcher: RefCell<Option<JoinHandle<()>>>,
    /// Walks that wait for one of the held slots, unknown to the broker.
    line: RefCell<VecDeque<InLine>>,
    /// The users who have walks in the broker's queue, and how many.
    queued: RefCell<BTreeMap<u32, u32>>,
    /// Whether walks of other origins are in the broker's queue, by its last message.
    others_wait: Cell<bool>,
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
    uid: u32,
    turn_tx: mpsc::UnboundedSender<Turn>,
}

/// A slot that was granted to a walk of this origin. Dropping it gives it back to the broker.
#[derive(Debug)]
pub(crate) struct Slot {
    slots: Rc<Slots>,
    grant: Grant,
    since: Instant,
    is_given_back: Cell<bool>,
}

impl Slot {
    /// Returns the grant of the slot, to this walk or to an earlier one.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Marks the slot as already returned at the broker, so that it is neither given back nor passed on.
    pub(crate) fn forget(&self) {
        self.is_given_back.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let slots = &self.slots;
        slots.held.set(slots.held.get() - 1);
        if !self.is_given_back.get() {
            slots.finish(&self.grant);
        }
        // Walks in the broker's queue came before those in line.
        if slots.queued.borrow().is_empty() {
            slots.send_to_broker();
        }
    }
}

/// Counts a walk in the broker's queue until it is dropped.
pub(crate) struct Queued<'a> {
    slots: &'a Slots,
    uid: u32,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.slots.queued.borrow_mut().entry(self.uid) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

impl Slots {
    pub(crate) fn new(broker: Broker) -> Self {
        Self {
            ends: Rc::new(Ends::new(broker)),
            waiting: RefCell::default(),
            held: Cell::default(),
            all: Cell::default(),
            kept: RefCell::default(),
            shut: RefCell::default(),
            watcher: RefCell::default(),
            line: RefCell::default(),
            queued: RefCell::default(),
            others_wait: Cell::default(),
        }
    }

    /// Takes the slot of a grant.
    pub(crate) fn hold(self: &Rc<Self>, grant: Grant) -> Slot {
        self.held.set(self.held.get() + 1);
        let (slots, since) = (Rc::clone(self), Instant::now());
        Slot { slots, grant, since, is_given_back: Cell::new(false) }
    }

    /// Registers a waiting walk, and returns the receiver of its turns.
    pub(crate) fn wait_for(&self, walk: WalkId) -> mpsc::UnboundedReceiver<Turn> {
        let (tx, rx) = mpsc::unbounded_channel();
        self.waiting.borrow_mut().insert(walk, tx);
        rx
    }

    /// Unregisters a walk.
    pub(crate) fn forget(&self, walk: WalkId) {
        self.waiting.borrow_mut().remove(&walk);
    }

    /// Passes a grant to its walk. A grant for which no walk waits is given back.
    pub(crate) fn take_grant(self: &Rc<Self>, grant: Grant) {
        let waiting = self.waiting.borrow().get(&grant.walk).cloned();
        let refused = match waiting {
            Some(tx) => tx.send(Turn::Granted(grant)).err().and_then(|error| match error.0 {
                Turn::Granted(grant) => Some(grant),
                Turn::Passed(_) | Turn::Dropped => None,
            }),
            None => Some(grant),
        };
        match refused {
            Some(grant) if self.ends.has_room() => self.finish(&grant),
            Some(grant) => {
                tracing::warn!(walk = %grant.walk, "ignored an unexpected grant: too many are being given back");
            }
            None => {}
        }
    }

    /// Reports the end of a walk's attempt to the broker, without waiting for the answer.
    pub(crate) fn finish(self: &Rc<Self>, grant: &Grant) {
        let slots = Rc::clone(self);
        self.ends.finish(grant, move |next| slots.take_grant(next));
    }

    /// Cancels a walk at the broker, without waiting for the answer.
    pub(crate) fn cancel(&self, walk: WalkId) {
        self.ends.cancel(walk);
    }

    /// Ends the wait of all walks of a session, and gives back its kept slots.
    pub(crate) fn drop_session(&self, session: SessionId) {
        self.give_back(session);
        for (_, tx) in self.waiting.borrow().iter().filter(|(walk, _)| walk.session == session) {
            let _ = tx.send(Turn::Dropped);
        }
    }

    /// Ends the wait of a walk.
    pub(crate) fn drop_walk(&self, walk: WalkId) {
        if let Some(tx) = self.waiting.borrow().get(&walk) {
            let _ = tx.send(Turn::Dropped);
        }
    }

    /// Ends the wait of all walks; they ask the broker again.
    pub(crate) fn drop_all(&self) {
        let waiting: Vec<WalkId> = self.waiting.borrow().keys().copied().collect();
        waiting.into_iter().for_each(|walk| self.drop_walk(walk));
    }

    /// Records whether walks of other origins wait at the broker.
    pub(crate) fn note_others(&self, wait: bool) {
        self.others_wait.set(wait);
        self.look_at_line();
    }

    /// Records the number of slots of all nodes that take walks of this origin.
    pub(crate) fn note_all(&self, all: u32) {
        self.all.set(all);
        self.look_at_line();
    }

    /// Records which nodes get no more walks of this origin, and gives back their kept slots.
    pub(crate) fn note_shut(&self, shut: Vec<NodeId>) {
        let is_shut = |kept: &mut Kept| shut.contains(&kept.slot.grant.node);
        let given: Vec<_> = self.kept.borrow_mut().extract_if(.., is_shut).collect();
        self.shut.replace(shut);
        self.rest();
        drop(given);
    }

    /// Sends the walks in line to the broker if this origin no longer holds all slots, or others wait.
    fn look_at_line(&self) {
        if self.others_wait.get() || !self.holds_all() {
            self.send_to_broker();
        }
    }

    /// Makes all walks in line ask the broker.
    fn send_to_broker(&self) {
        for InLine { turn_tx, .. } in self.line.take() {
            let _ = turn_tx.send(Turn::Dropped);
        }
    }

    fn give_back(&self, session: SessionId) {
        let of = |kept: &mut Kept| kept.session == session;
        let given: Vec<_> = self.kept.borrow_mut().extract_if(.., of).collect();
        self.rest();
        drop(given);
    }

    /// Stops the watcher if no slot is kept, to avoid a useless wake-up.
    fn rest(&self) {
        if self.kept.borrow().is_empty()
            && let Some(watcher) = self.watcher.take()
        {
            watcher.abort();
        }
    }

    /// Takes a slot that is kept for a session, on a node that suits.
    pub(crate) fn kept_slot(
        &self,
        session: SessionId,
        suits: impl Fn(&NodeId) -> bool,
    ) -> Option<Slot> {
        let mut kept = self.kept.borrow_mut();
        let suits = |kept: &Kept| kept.session == session && suits(&kept.slot.grant.node);
        let found = kept.iter().position(suits)?;
        let slot = kept.remove(found).slot;
        drop(kept);
        self.rest();
        Some(slot)
    }

    /// Makes a walk wait for one of the held slots if this origin holds all slots. Returns false if the broker
    /// has to be asked: it shares slots between users, so only walks of one user wait here.
    pub(crate) fn wait_in_line(&self, walk: WalkId, uid: u32) -> bool {
        if self.others_wait.get() || !self.holds_all() {
            return false;
        }
        let in_line = self.line.borrow().front().map(|waiting| waiting.uid);
        if !is_alone(uid, in_line, &self.queued.borrow()) {
            self.send_to_broker();
            return false;
        }
        let waiting = self.waiting.borrow();
        let Some(turn_tx) = waiting.get(&walk).cloned() else { return false };
        self.line.borrow_mut().push_back(InLine { walk, uid, turn_tx });
        true
    }

    /// Removes a walk from the line.
    pub(crate) fn leave_line(&self, walk: WalkId) {
        self.line.borrow_mut().retain(|waiting| waiting.walk != walk);
    }

    /// Counts a walk in the broker's queue.
    pub(crate) fn note_queued(&self, uid: u32) -> Queued<'_> {
        *self.queued.borrow_mut().entry(uid).or_default() += 1;
        Queued { slots: self, uid }
    }

    /// Tells whether a slot may be passed on: no walk in the broker's queue has a prior claim.
    pub(crate) fn may_pass_on(&self) -> bool {
        self.queued.borrow().is_empty() && !self.others_wait.get()
    }

    /// Passes a slot on to the session's next walk, keeps it for one, or gives it back by dropping it.
    pub(crate) fn pass_on(self: &Rc<Self>, slot: Slot, session: SessionId) {
        let is_shut = self.shut.borrow().contains(&slot.grant.node);
        if is_shut || !self.may_pass_on() || slot.is_given_back.get() {
            return;
        }
        let next = self.line.borrow_mut().pop_front();
        match next {
            Some(InLine { walk, turn_tx, .. }) if walk.session == session => {
                // If the walk is gone, the slot is dropped and so given back.
                let _ = turn_tx.send(Turn::Passed(slot));
            }
            Some(other) => self.line.borrow_mut().push_front(other),
            None if slot.since.elapsed() > HELD_MAX => {}
            None => {
                let since = Instant::now();
                self.kept.borrow_mut().push(Kept { slot, session, since });
                self.watch_kept();
            }
        }
    }

    /// Directs messages about a slot that was granted to an earlier walk to `walk`.
    pub(crate) fn adopt(&self, slot: &Slot, walk: WalkId) {
        let mut waiting = self.waiting.borrow_mut();
        if let Some(turn_tx) = waiting.get(&walk).cloned() {
            waiting.insert(slot.grant.walk, turn_tx);
        }
    }

    /// Undoes [`Self::adopt`].
    pub(crate) fn disown(&self, slot: &Slot, walk: WalkId) {
        if slot.grant.walk != walk {
            self.forget(slot.grant.walk);
        }
    }

    fn holds_all(&self) -> bool {
        let all = self.all.get();
        all > 0 && self.held.get() >= all
    }

    /// Starts the watcher, which gives back expired slots.
    fn watch_kept(self: &Rc<Self>) {
        let mut watcher = self.watcher.borrow_mut();
        if watcher.is_some() {
            return;
        }
        let slots = Rc::clone(self);
        *watcher = Some(tokio::task::spawn_local(async move {
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

/// Tells whether no other user waits: neither in line, where all are of one user, nor at the broker.
fn is_alone(uid: u32, in_line: Option<u32>, queued: &BTreeMap<u32, u32>) -> bool {
    in_line.is_none_or(|other| other == uid) && queued.keys().all(|&other| other == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_user_waits_in_line() {
        let [none, mine, both] = [&[][..], &[(7, 3)], &[(7, 3), (8, 1)]];
        for (in_line, queued, expected) in [
            (None, none, true),
            (Some(7), mine, true),
            (Some(8), none, false),
            (None, both, false),
            (Some(7), both, false),
        ] {
            let queued = queued.iter().copied().collect();
            assert_eq!(is_alone(7, in_line, &queued), expected, "{in_line:?}, {queued:?}");
        }
    }
}
