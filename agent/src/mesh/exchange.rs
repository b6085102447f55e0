//! The thread that exchanges events.
//!
//! A node pushes its own events to all whose volumes it is linked with, as soon as they are durable. Events of nodes that it is
//! not linked with it asks of the others. Each message of events is answered with what is here afterwards, and every few seconds
//! all say what they have.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::log::Unfit;
use packetfs::packet::{Packed, PacketRef};
use packetfs::volume::{Batch, Refused, Unsound, Volume, small_packets};
use tokio::sync::mpsc::UnboundedSender;
use worknode::history::{Author, Summary};
use worknode::id::NodeId;
use worknode::key::Key;

use super::asking::Asking;
use super::heard::{Heard, Liar, Waiting};
use super::linked::{Judged, Linked};
use super::met::Met;
use crate::wire::feed::{Events, Has, Want};
use crate::wire::frame::Kind;
use crate::wire::limits::{CARRIED_BYTES_MAX, EVENTS_BYTES};
use crate::wire::message::encode;

/// How often it is looked whether there is something to say or to ask.
const TICK: Duration = Duration::from_secs(1);
/// Ticks after which all is said again, even if nothing has changed.
const REPEATED_AFTER: u32 = 5;
/// The state of the exchange.
pub(super) struct Exchange {
    heard_tx: mpsc::Sender<Heard>,
    waiting: Arc<Waiting>,
    liar_tx: UnboundedSender<Liar>,
    /// Whose volumes are linked.
    met: Arc<Met>,
    volume: Option<Arc<Volume>>,
    /// The nodes that are or were members, by their keys.
    members: HashMap<Key, NodeId>,
    links: BTreeMap<u32, Linked>,
    /// How many links there are; changes are made durable at once while there are any.
    linked: Arc<AtomicUsize>,
    asking: Asking,
    /// What was last said to all.
    said: Summary,
    ticks: u32,
    is_own_lost: bool,
}

impl Exchange {
    pub(super) fn new(
        (heard_tx, waiting): (mpsc::Sender<Heard>, Arc<Waiting>),
        liar_tx: UnboundedSender<Liar>,
        met: Arc<Met>,
    ) -> Self {
        Self {
            heard_tx,
            waiting,
            liar_tx,
            met,
            volume: None,
            members: HashMap::new(),
            links: BTreeMap::new(),
            linked: Arc::default(),
            asking: Asking::default(),
            said: Summary::default(),
            ticks: 0,
            is_own_lost: false,
        }
    }

    /// Works until the agent ends.
    pub(super) fn run(mut self, heard_rx: &mpsc::Receiver<Heard>) {
        let mut due = Instant::now() + TICK;
        loop {
            match heard_rx.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Ok(heard) => self.hear(heard),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            if Instant::now() >= due {
                self.tick();
                due = Instant::now() + TICK;
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Volume(volume) => {
                self.volume = Some(volume);
                self.listen();
                self.say_all();
            }
            Heard::Members(members) => self.members = members,
            Heard::Begun(number, node, out, knows_locks) => {
                self.links.insert(number, Linked::new(node, out, knows_locks));
                self.count_links();
                self.say(number);
            }
            Heard::Ended(number) => {
                let ended = self.links.remove(&number);
                self.met.end(number, Instant::now());
                self.end_locks(ended);
                self.count_links();
                self.asking.end(number);
            }
            Heard::Frame(number, kind, payload) => {
                self.waiting.taken(number, payload.len());
                self.take(number, kind, &payload);
            }
            Heard::Grown => self.push_all(),
        }
    }

    fn count_links(&self) {
        let before = self.linked.swap(self.links.len(), Ordering::Relaxed);
        if before == 0 && !self.links.is_empty() {
            self.listen();
        }
    }

    /// Has changes made durable at once, as long as there are links.
    fn listen(&self) {
        let Some(volume) = self.volume.as_ref().filter(|_| !self.links.is_empty()) else { return };
        let (heard_tx, linked) = (self.heard_tx.clone(), Arc::clone(&self.linked));
        volume.grown(move || {
            let is_linked = linked.load(Ordering::Relaxed) > 0;
            if is_linked {
                // The thread ends with the agent.
                let _ = heard_tx.send(Heard::Grown);
            }
            is_linked
        });
    }

    fn take(&mut self, number: u32, kind: Kind, payload: &[u8]) {
        let taken = match kind {
            Kind::Has => Has::decode(payload).map(|has| self.take_has(number, has)),
            Kind::Events => {
                let events = postcard::from_bytes(payload).ok();
                events.map(|events: Events| self.take_events(number, events))
            }
            Kind::Locks => self.hear_locks(number, payload),
            Kind::Want => postcard::from_bytes(payload).ok().map(|want| self.give(number, want)),
            _ => None,
        };
        if taken.is_none()
            && let Some(link) = self.links.get(&number)
        {
            tracing::warn!(peer = %link.node, ?kind, "a message between volumes does not decode");
        }
    }

    fn take_has(&mut self, number: u32, has: Has) {
        let Some(volume) = self.volume.clone() else { return };
        let Some(link) = self.links.get_mut(&number) else { return };
        let is_all = has.is_all;
        link.peer.hear(has, volume.author(), link.out.events_sent());
        if is_all {
            self.judge(number, &volume);
        }
        let Some(link) = self.links.get(&number) else { return };
        if let Some(author) = link.met.filter(|_| is_all) {
            volume.note_has(author, link.peer.has.of(author));
        }
        let (has, own) = (link.peer.has.of(volume.author()), volume.summary().of(volume.author()));
        if has > own {
            self.tell_own_lost(number, has, own);
        }
        self.push(&volume, number, &mut None);
        self.ask(&volume);
    }

    /// Looks again whose volume a link leads to.
    fn judge(&mut self, number: u32, volume: &Volume) {
        let Some(link) = self.links.get_mut(&number) else { return };
        match link.judge(&self.members, volume) {
            Judged::Same => {}
            Judged::Met(author) => {
                self.met.begin(number, author);
                link.begin_locks(volume);
            }
            Judged::Exposed(author) => {
                self.met.retract(number);
                volume.end_locks(author);
                // A link that does lead there may be older.
                let others = self.links.values().filter(|link| link.met == Some(author));
                others.for_each(|link| link.begin_locks(volume));
            }
        }
    }

    /// Looks again which links lead to an author's volume, of whom there may be a new statement.
    fn judge_all(&mut self, author: Author, volume: &Volume) {
        let doubtful = self.links.iter().filter(|(_, link)| link.depends_on(author));
        let doubtful: Vec<_> = doubtful.map(|(&number, _)| number).collect();
        doubtful.into_iter().for_each(|number| self.judge(number, volume));
    }

    /// Takes a message about locks. Returns `None` if it is damaged.
    fn hear_locks(&self, number: u32, payload: &[u8]) -> Option<()> {
        let author = self.links.get(&number).and_then(|link| link.met);
        // What comes too early is said again.
        let Some((author, volume)) = author.zip(self.volume.as_ref()) else { return Some(()) };
        match volume.hear_locks(author, payload) {
            Ok(()) => Some(()),
            Err(Unsound::Damaged) => None,
            Err(lie @ Unsound::Untrue) => {
                let link = self.links.get(&number)?;
                tracing::error!(peer = %link.node, %lie, "dropping the link: what it says of locks is not sound");
                // The main thread may be gone.
                let _ = self.liar_tx.send((link.node.clone(), format!("locks: {lie}")));
                Some(())
            }
        }
    }

    /// Handles the end of a link, unless there is a newer one with the same node.
    fn end_locks(&self, ended: Option<Linked>) {
        let ended = ended.and_then(|link| link.met);
        let Some((author, volume)) = ended.zip(self.volume.as_ref()) else { return };
        if !self.links.values().any(|link| link.met == Some(author)) {
            volume.end_locks(author);
        }
    }

    fn take_events(&mut self, number: u32, events: Events) {
        let (Some(volume), Some(link)) = (self.volume.clone(), self.links.get(&number)) else {
            return;
        };
        let Events { batch, packets } = events;
        let author = batch.author();
        if self.members.contains_key(&batch.statement.node) {
            if let Err(lie) = learn(&volume, &batch, &packets) {
                tracing::error!(peer = %link.node, lie, "dropping the link: its events are not sound");
                // The main thread may be gone.
                let _ = self.liar_tx.send((link.node.clone(), lie));
                return;
            }
            self.judge_all(author, &volume);
        } else {
            tracing::debug!(peer = %link.node, node = %batch.statement.node, "events of a node that is no member");
        }
        let summary = volume.summary();
        let known = Summary([(author, summary.of(author))].into());
        let has = Has { author: Some(volume.author()), summary: known, is_all: false };
        if let Some(link) = self.links.get(&number) {
            link.out.send(Kind::Has, encode(&has).into());
        }
        if self.asking.note_answer(number, author) {
            self.ask(&volume);
        }
    }

    /// Asks for events of nodes that are not linked with this one. A node that says that it is an author, and has not stated it, is
    /// only one of those that may be asked for that author's events.
    fn ask(&mut self, volume: &Volume) {
        let direct: HashSet<_> = self.links.values().filter_map(Linked::stated).collect();
        let own = volume.author();
        // Who reads nothing is not asked.
        let ready = self.links.iter().filter(|(_, link)| !link.out.is_busy());
        let claims = ready.flat_map(|(&number, link)| {
            link.peer.has.0.iter().map(move |(&author, &last)| (number, author, last))
        });
        let claims = claims.filter(|(_, author, _)| *author != own && !direct.contains(author));
        for (number, author, after) in self.asking.next(claims, &volume.summary(), Instant::now()) {
            if let Some(link) = self.links.get(&number) {
                link.out.send(Kind::Want, encode(&Want { author, after }).into());
            }
        }
    }

    /// Gives events that were asked for.
    fn give(&mut self, number: u32, want: Want) {
        let Some(volume) = self.volume.clone() else { return };
        // Whoever asks for more than it takes asks again.
        let Some(_) = self.links.get(&number).filter(|link| link.peer.may_be_given()) else {
            return;
        };
        let Some((payload, _)) = message(&volume, want.author, want.after) else { return };
        let Some(link) = self.links.get_mut(&number) else { return };
        link.peer.note_given(payload.len());
        link.out.send_events(payload);
    }

    fn push_all(&mut self) {
        let Some(volume) = self.volume.clone() else { return };
        let numbers: Vec<_> = self.links.keys().copied().collect();
        let mut same = None;
        numbers.into_iter().for_each(|number| self.push(&volume, number, &mut same));
    }

    /// Sends own events that a node does not have. `same` is what the node before was sent.
    fn push(&mut self, volume: &Volume, number: u32, same: &mut Option<(u64, Bytes, u64)>) {
        let Some(link) = self.links.get_mut(&number) else { return };
        while let Some(after) = link.peer.next() {
            if same.as_ref().is_none_or(|(from, ..)| *from != after) {
                let new = message(volume, volume.author(), after);
                let Some((payload, covers)) = new else { return };
                *same = Some((after, payload, covers));
            }
            let Some((_, payload, covers)) = same else { return };
            link.peer.note_sent(*covers, payload.len());
            link.out.send_events(payload.clone());
        }
    }

    /// Says to all what is here, if that has changed or was not said for long.
    fn tick(&mut self) {
        let Some(volume) = self.volume.clone() else { return };
        self.ticks += 1;
        let summary = volume.summary();
        if summary != self.said || self.ticks.is_multiple_of(REPEATED_AFTER) {
            self.said = summary;
            self.say_all();
        }
        self.ask(&volume);
        self.push_all();
    }

    fn say_all(&self) {
        self.links.keys().for_each(|number| self.say(*number));
    }

    fn say(&self, number: u32) {
        let Some(volume) = &self.volume else { return };
        let has = Has { author: Some(volume.author()), summary: volume.summary(), is_all: true };
        // What is not said now is said again.
        if let Some(link) = self.links.get(&number).filter(|link| !link.out.is_busy()) {
            link.out.send(Kind::Has, encode(&has).into());
        }
    }

    fn tell_own_lost(&mut self, number: u32, has: u64, own: u64) {
        let Some(link) = self.links.get(&number).filter(|_| !self.is_own_lost) else { return };
        tracing::error!(
            peer = %link.node, has, own,
            "another node has changes of this node that are not here: was its state directory restored from a copy? \
             New changes would be a second history, which others refuse. Remove this node from the cluster, and join it \
             again with a new state directory"
        );
        self.is_own_lost = true;
    }
}

/// Takes in events with their small contents. Returns what is wrong with them if their sender is to blame.
fn learn(volume: &Volume, batch: &Batch, packets: &[(PacketRef, Packed)]) -> Result<(), String> {
    match volume.keep(packets) {
        Ok(true) => {}
        Ok(false) => return Err("a packet of its volume does not match its digest".into()),
        // They are fetched when they are read.
        Err(error) => tracing::warn!(%error, "failed to store contents of another node"),
    }
    match volume.learn(batch) {
        Ok(_) | Err(Refused::Unfit(Unfit::Known | Unfit::Gap | Unfit::Fork)) => {}
        Err(Refused::Quarantined | Refused::Own | Refused::Crowd) => {}
        Err(error @ (Refused::Stranger | Refused::Unfit(Unfit::Forged | Unfit::Senseless))) => {
            return Err(format!("events of its volume are refused: {error}"));
        }
        Err(Refused::Volume(error)) => {
            tracing::error!(%error, "failed to take in changes of another node");
        }
    }
    Ok(())
}

/// Returns an encoded message of events after a number, with small contents, and the last event in it.
fn message(volume: &Volume, author: Author, after: u64) -> Option<(Bytes, u64)> {
    let batch = match volume.events_after(author, after, EVENTS_BYTES) {
        Ok(batch) => batch?,
        Err(error) => {
            tracing::error!(%error, "failed to read changes for another node");
            return None;
        }
    };
    let mut bytes = 0;
    let small = small_packets(&batch.feed).take_while(|packet| {
        bytes += packet.bytes as usize;
        bytes <= CARRIED_BYTES_MAX
    });
    let packets = volume.packets(&small.collect::<Vec<_>>());
    let covers = batch.feed.covers();
    Some((encode(&Events { batch, packets }).into(), covers))
}

#[cfg(test)]
mod tests;
