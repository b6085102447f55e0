//! Fetches packets from other nodes while a program waits for them: from several at once, each checked by its digest.

pub(super) mod probe;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::packet::{Digest, Packed, PacketRef};
use packetfs::volume::Source;
use tokio::sync::mpsc::UnboundedSender;
use worknode::id::NodeId;

use super::heard::Liar;
use crate::wire::feed::Fetch;
use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::{FETCHED_MAX, FETCHES_AT_ONCE};
use crate::wire::message::{Packets, encode};

/// Time after which a node that does not answer is passed over.
pub(crate) const ANSWER_MAX: Duration =
    if cfg!(test) { Duration::from_millis(50) } else { Duration::from_secs(5) };
/// Time after which what a node has been asked for is asked of others, too.
const PATIENCE: Duration =
    if cfg!(test) { Duration::from_millis(5) } else { Duration::from_millis(500) };
/// Time that a program waits in all. Then it gets an error.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Fetches packets over all links.
#[derive(Debug)]
pub(super) struct Fetcher {
    state: Mutex<State>,
    changed: Condvar,
    liar_tx: UnboundedSender<Liar>,
}

#[derive(Debug, Default)]
struct State {
    links: BTreeMap<u32, Holder>,
    /// Answers to requests by number; none until they come.
    open: HashMap<u32, Open>,
    last: u32,
}

/// A node that may have packets.
#[derive(Debug)]
struct Holder {
    node: NodeId,
    out_tx: UnboundedSender<Frame>,
    /// Requests that it has not answered.
    open: usize,
    /// Those of them for which nobody waits any more.
    given_up: HashSet<u32>,
    /// It has not answered one in time, nor any since. It is asked last, and nobody waits for another turn with it.
    is_late: bool,
}

#[derive(Debug)]
struct Open {
    link: u32,
    answer: Option<Bytes>,
}

impl Fetcher {
    pub(super) fn new(liar_tx: UnboundedSender<Liar>) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), liar_tx }
    }

    /// Asks a node from now on.
    pub(super) fn begin(&self, link: u32, node: NodeId, out_tx: UnboundedSender<Frame>) {
        self.lock().links.insert(
            link,
            Holder { node, out_tx, open: 0, given_up: HashSet::new(), is_late: false },
        );
        self.changed.notify_all();
    }

    /// Asks it no longer.
    pub(super) fn end(&self, link: u32) {
        let mut state = self.lock();
        state.links.remove(&link);
        state.open.values_mut().filter(|open| open.link == link).for_each(|open| {
            open.answer.get_or_insert_default();
        });
        self.changed.notify_all();
    }

    /// Takes an answer.
    pub(super) fn take(&self, link: u32, number: u32, payload: Bytes) {
        let mut state = self.lock();
        let open = state.open.get_mut(&number);
        if let Some(open) = open.filter(|it| it.link == link && it.answer.is_none()) {
            open.answer = Some(payload);
        } else if let Some(late) = state.links.get_mut(&link)
            && !late.given_up.remove(&number)
        {
            // Nobody has asked it that.
            return;
        }
        if let Some(holder) = state.links.get_mut(&link) {
            holder.open = holder.open.saturating_sub(1);
            holder.is_late = false;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Fetcher {
    fn fetch(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        let mut order = Order::new(wanted);
        let until = Instant::now() + WAIT_MAX;
        while !order.is_done() && Instant::now() < until {
            let is_busy = self.ask(&mut order);
            if !order.open.is_empty() {
                self.await_answer(&mut order);
            } else if is_busy {
                self.await_room();
            } else {
                break;
            }
        }
        self.abandon(&order);
        order.found
    }
}

impl Fetcher {
    /// Asks nodes for what is missing, as far as they may be asked. Returns whether others wait for one that could be asked.
    fn ask(&self, order: &mut Order) -> bool {
        let mut state = self.lock();
        loop {
            let free = state.links.iter().filter(|(_, it)| it.open < FETCHES_AT_ONCE);
            let mut free: Vec<_> = free.map(|(&link, it)| (it.is_late, it.open, link)).collect();
            free.sort_unstable();
            let part = free.iter().find_map(|&(_, _, link)| Some((link, order.part_for(link)?)));
            let Some((link, packets)) = part else {
                let mut in_time = state.links.iter().filter(|(_, it)| !it.is_late);
                return in_time.any(|(link, _)| order.may_have(*link));
            };
            state.last = state.last.wrapping_add(1);
            let number = state.last;
            state.open.insert(number, Open { link, answer: None });
            let due = Instant::now() + ANSWER_MAX;
            order.open.insert(number, Part { link, packets: packets.clone(), due, is_slow: false });
            let payload = encode(&Fetch { packets }).into();
            let Some(holder) = state.links.get_mut(&link) else { return false };
            holder.open += 1;
            // If the link has ended, so does the request.
            let _ = holder.out_tx.send(Frame { kind: Kind::Fetch, stream: number, payload });
        }
    }

    /// Waits until a request is answered or given up, or others may be asked.
    fn await_answer(&self, order: &mut Order) {
        let mut state = self.lock();
        loop {
            let answered = order
                .open
                .keys()
                .find(|number| state.open.get(number).is_some_and(|open| open.answer.is_some()));
            if let Some(&number) = answered {
                let answer = state.open.remove(&number).and_then(|open| open.answer);
                let node = order.open.get(&number).and_then(|part| state.links.get(&part.link));
                let node = node.map(|holder| holder.node.clone());
                drop(state);
                if !order.take(number, &answer.unwrap_or_default())
                    && let Some(node) = node
                {
                    let lie = "a packet of its volume does not match its digest".to_owned();
                    // The main thread may be gone.
                    let _ = self.liar_tx.send((node, lie));
                }
                return;
            }
            let now = Instant::now();
            let due = order.open.iter().map(|(number, part)| (part.next(), *number)).min();
            let Some((due, number)) = due else { return };
            if due <= now && order.ask_others(number, now) {
                return;
            }
            if due <= now {
                let open = state.open.remove(&number);
                if let Some(late) = open.and_then(|open| state.links.get_mut(&open.link)) {
                    late.is_late = true;
                    late.given_up.insert(number);
                }
                order.give_up(number);
                return;
            }
            let waited = self.changed.wait_timeout(state, due - now);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let is_free = |(_, it): &(&u32, &Holder)| it.open < FETCHES_AT_ONCE;
            if state.links.iter().filter(is_free).any(|(link, _)| order.may_have(*link)) {
                return;
            }
        }
    }

    /// Waits until a node may be asked again, perhaps.
    fn await_room(&self) {
        let waited = self.changed.wait_timeout(self.lock(), ANSWER_MAX);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn abandon(&self, order: &Order) {
        let mut state = self.lock();
        for number in order.open.keys() {
            let open = state.open.remove(number).filter(|open| open.answer.is_none());
            if let Some(holder) = open.and_then(|open| state.links.get_mut(&open.link)) {
                holder.given_up.insert(*number);
            }
        }
    }
}

/// A request.
struct Part {
    link: u32,
    packets: Vec<PacketRef>,
    /// When it is given up.
    due: Instant,
    /// Others are asked for its packets, too.
    is_slow: bool,
}

impl Part {
    /// Returns when something is to be done about it.
    fn next(&self) -> Instant {
        if self.is_slow { self.due } else { self.due - (ANSWER_MAX - PATIENCE) }
    }
}

/// What one program waits for.
struct Order {
    /// Packets that are to be asked for, with the links over which that was done in vain.
    missing: Vec<(PacketRef, Vec<u32>)>,
    open: HashMap<u32, Part>,
    tried: HashMap<Digest, Vec<u32>>,
    found: Vec<(PacketRef, Packed)>,
}

impl Order {
    fn new(wanted: &[PacketRef]) -> Self {
        Self {
            missing: wanted.iter().map(|packet| (*packet, Vec::new())).collect(),
            open: HashMap::new(),
            tried: HashMap::new(),
            found: Vec::new(),
        }
    }

    fn is_done(&self) -> bool {
        self.missing.is_empty() && self.open.values().all(|part| part.packets.is_empty())
    }

    /// Has the packets of a slow request asked of others. Returns false if that was done.
    fn ask_others(&mut self, number: u32, now: Instant) -> bool {
        let part = self.open.get_mut(&number).filter(|part| !part.is_slow && part.due > now);
        let Some(part) = part else { return false };
        part.is_slow = true;
        let packets = part.packets.clone();
        self.miss(&packets);
        true
    }

    /// Tells whether a node was not asked for all that is missing.
    fn may_have(&self, link: u32) -> bool {
        self.missing.iter().any(|(_, over)| !over.contains(&link))
    }

    /// Takes what a node is asked for next.
    fn part_for(&mut self, link: u32) -> Option<Vec<PacketRef>> {
        let mut part = Vec::new();
        let tried = &mut self.tried;
        self.missing.retain(|(packet, over)| {
            let takes = part.len() < FETCHED_MAX && !over.contains(&link);
            if takes {
                part.push(*packet);
                tried.entry(packet.digest).or_default().push(link);
            }
            !takes
        });
        (!part.is_empty()).then_some(part)
    }

    /// Takes an answer. Returns false if it has something else than was asked for.
    fn take(&mut self, number: u32, answer: &[u8]) -> bool {
        let Some(Part { packets: asked, is_slow, .. }) = self.open.remove(&number) else {
            return true;
        };
        let packets = if answer.is_empty() {
            Ok(Packets { packets: Vec::new() })
        } else {
            postcard::from_bytes(answer)
        };
        let Ok(Packets { packets }) = packets else {
            if !is_slow {
                self.miss(&asked);
            }
            return false;
        };
        let mut rest = asked;
        let mut is_honest = true;
        for (packet, packed) in packets {
            let at = rest.iter().position(|it| *it == packet);
            // Another node may have given it meanwhile.
            let Some(at) = at else {
                is_honest &= is_slow;
                continue;
            };
            rest.swap_remove(at);
            if packed.may_be(packet) && packed.unpack(packet).is_ok() {
                self.come(packet, packed);
            } else {
                is_honest = false;
                self.miss(&[packet]);
            }
        }
        if !is_slow {
            self.miss(&rest);
        }
        is_honest
    }

    /// Notes a packet, for which nobody else is asked any more.
    fn come(&mut self, packet: PacketRef, packed: Packed) {
        self.missing.retain(|(it, _)| *it != packet);
        self.open.values_mut().for_each(|part| part.packets.retain(|it| *it != packet));
        self.found.push((packet, packed));
    }

    fn give_up(&mut self, number: u32) {
        if let Some(part) = self.open.remove(&number).filter(|part| !part.is_slow) {
            self.miss(&part.packets);
        }
    }

    fn miss(&mut self, packets: &[PacketRef]) {
        for packet in packets {
            let is_missing = self.missing.iter().any(|(it, _)| it == packet);
            if is_missing {
                continue;
            }
            let tried = self.tried.get(&packet.digest).cloned().unwrap_or_default();
            self.missing.push((*packet, tried));
        }
    }
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    type Asked = UnboundedReceiver<Frame>;

    fn fetcher() -> (std::sync::Arc<Fetcher>, UnboundedReceiver<Liar>) {
        let (liar_tx, liar_rx) = unbounded_channel();
        (std::sync::Arc::new(Fetcher::new(liar_tx)), liar_rx)
    }

    fn link(fetcher: &Fetcher, number: u32) -> Asked {
        let (out_tx, out_rx) = unbounded_channel();
        let node = format!("n{number}").parse().expect("a sound name");
        fetcher.begin(number, node, out_tx);
        out_rx
    }

    /// Answers requests with what a node says of each packet, until the fetcher is gone.
    fn answer(
        fetcher: &std::sync::Arc<Fetcher>,
        number: u32,
        says: impl Fn(PacketRef) -> Option<Packed> + Send + 'static,
    ) {
        let mut asked_rx = link(fetcher, number);
        let fetcher = std::sync::Arc::downgrade(fetcher);
        std::thread::spawn(move || {
            while let Some(frame) = asked_rx.blocking_recv() {
                let wanted = Fetch::decode(&frame.payload).expect("a sound request").packets;
                let packets = wanted.into_iter().filter_map(|it| Some((it, says(it)?))).collect();
                let Some(fetcher) = fetcher.upgrade() else { return };
                fetcher.take(number, frame.stream, encode(&Packets { packets }).into());
            }
        });
    }

    fn contents(count: u32) -> HashMap<PacketRef, Vec<u8>> {
        let contents = (0..count).map(|number| number.to_le_bytes().repeat(9));
        contents.map(|content| (reference(&content), content)).collect()
    }

    #[test]
    fn packets_come_from_whoever_has_them() {
        let (fetcher, mut liars_rx) = fetcher();
        let contents = contents(100);
        for holder in 0..3 {
            let contents = contents.clone();
            answer(&fetcher, holder + 1, move |packet| {
                let content = contents.get(&packet)?;
                (u32::from(content[0]) % 3 == holder).then(|| Packed::plain(content))
            });
        }
        let wanted: Vec<_> = contents.keys().copied().collect();
        let found = fetcher.fetch(&wanted);
        assert_eq!(found.len(), wanted.len());
        let missing = reference(b"nobody has it");
        assert_eq!(fetcher.fetch(&[missing]), []);
        assert!(liars_rx.try_recv().is_err());
    }

    #[test]
    fn a_node_that_lies_is_named_and_others_are_asked() {
        let (fetcher, mut liars_rx) = fetcher();
        let contents = contents(1);
        let wanted: Vec<_> = contents.keys().copied().collect();
        answer(&fetcher, 1, |packet| Some(Packed::plain(&vec![7; packet.bytes as usize])));
        answer(&fetcher, 2, move |packet| contents.get(&packet).map(|it| Packed::plain(it)));
        assert_eq!(fetcher.fetch(&wanted).len(), 1);
        assert_eq!(liars_rx.try_recv().expect("it was told").0.to_string(), "n1");
    }

    #[test]
    fn nobody_waits_for_a_turn_with_a_node_that_does_not_answer() {
        let (fetcher, _liars_rx) = fetcher();
        let asked_rx = link(&fetcher, 1);
        let wanted = reference(b"content");
        // Only as many as may be open wait for an answer, each for a bounded time.
        let begun = Instant::now();
        (0..2 * FETCHES_AT_ONCE).for_each(|_| assert_eq!(fetcher.fetch(&[wanted]), []));
        assert!(begun.elapsed() < WAIT_MAX, "nobody waited for all that may be");
        assert_eq!(asked_rx.len(), FETCHES_AT_ONCE);
        answer(&fetcher, 2, |_| Some(Packed::plain(b"content")));
        assert_eq!(fetcher.fetch(&[wanted]).len(), 1);
    }

    #[test]
    fn others_are_asked_soon_if_a_node_is_slow_and_the_first_answer_counts() {
        let (fetcher, mut liars_rx) = fetcher();
        let mut asked_rx = link(&fetcher, 1);
        let wanted = reference(b"content");
        let asking = std::sync::Arc::clone(&fetcher);
        let slow = std::thread::spawn(move || {
            let frame = asked_rx.blocking_recv().expect("it is asked");
            answer(&asking, 2, |_| Some(Packed::plain(b"content")));
            frame.stream
        });
        assert_eq!(fetcher.fetch(&[wanted]).len(), 1, "the other has given it");
        let stream = slow.join().expect("no panic");
        let late = Packets { packets: vec![(wanted, Packed::plain(b"content"))] };
        fetcher.take(1, stream, encode(&late).into());
        assert!(liars_rx.try_recv().is_err());
        assert!(fetcher.lock().open.is_empty());
    }

    #[test]
    fn the_end_of_a_link_ends_its_requests() {
        let (fetcher, _liars_rx) = fetcher();
        let mut asked_rx = link(&fetcher, 1);
        let ending = std::sync::Arc::clone(&fetcher);
        let ended = std::thread::spawn(move || {
            asked_rx.blocking_recv().expect("it is asked");
            ending.end(1);
        });
        assert_eq!(fetcher.fetch(&[reference(b"content")]), []);
        ended.join().expect("no panic");
    }
}
