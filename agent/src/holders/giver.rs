//! Gives packets of origins to other runners that have a ticket, on a thread of its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use packetfs::packet::{Packed, PacketRef};
use packetfs::store::{Shelf, Store};
use tokio::sync::mpsc::UnboundedSender;
use worknode::id::NodeId;

use crate::wire::frame::{Frame, Kind};
use crate::wire::holding::{Claim, TicketKey};
use crate::wire::message::{Packets, encode};

/// Time for which a claim waits for packets that the origin has not sent yet: it names a holder as soon as it has begun to
/// send.
const ARRIVAL_MAX: Duration = Duration::from_millis(700);
/// How often it is looked whether they have come.
const LOOK: Duration = Duration::from_millis(4);

/// A claim as it came, and where its answer goes.
struct Asked {
    taker: NodeId,
    out_tx: UnboundedSender<Frame>,
    frame: Frame,
}

/// A sound claim.
struct Waiting {
    asked: Asked,
    shelf: Shelf,
    packets: Vec<PacketRef>,
    due: Instant,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Giver {
    /// main thread --claims--> thread. Bounded by the open claims of each link, until their answers are sent.
    asked_tx: mpsc::Sender<Asked>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<Store>,
    /// The keys of the origins that are linked, and over which link each came.
    keys: Mutex<HashMap<NodeId, (u32, TicketKey)>>,
}

impl Giver {
    pub(super) fn start(store: &Arc<Store>) -> std::io::Result<Self> {
        let (asked_tx, asked_rx) = mpsc::channel();
        let shared = Arc::new(Shared { store: Arc::clone(store), keys: Mutex::default() });
        let giving = Arc::clone(&shared);
        std::thread::Builder::new().name("giver".into()).spawn(move || giving.run(&asked_rx))?;
        Ok(Self { asked_tx, shared })
    }

    /// Takes the key of an origin's tickets.
    pub(super) fn take_key(&self, link: u32, origin: &NodeId, payload: &[u8]) {
        if let Some(key) = TicketKey::decode(payload) {
            locked(&self.shared.keys).insert(origin.clone(), (link, key));
        }
    }

    /// Forgets what came over a link that has ended: the origin has made another key by the time that it is back.
    pub(super) fn end(&self, link: u32) {
        locked(&self.shared.keys).retain(|_, (of, _)| *of != link);
    }

    /// Takes a claim.
    pub(super) fn take(&self, taker: &NodeId, out_tx: UnboundedSender<Frame>, frame: Frame) {
        // The thread lives as long as the agent.
        let _ = self.asked_tx.send(Asked { taker: taker.clone(), out_tx, frame });
    }
}

impl Shared {
    fn run(&self, asked_rx: &mpsc::Receiver<Asked>) {
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            let asked = match waiting.is_empty() {
                true => asked_rx.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                false => asked_rx.recv_timeout(LOOK),
            };
            match asked {
                Ok(asked) => waiting.extend(self.admit(asked)),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            let now = Instant::now();
            let (ready, others) = waiting.into_iter().partition(|it| it.due <= now || it.is_here());
            waiting = others;
            for Waiting { asked, shelf, packets, .. } in ready {
                let packed = |packet: PacketRef| Some((packet, shelf.packed(packet)?));
                let packets = packets.into_iter().filter_map(packed).collect();
                asked.answer(packets);
            }
        }
    }

    /// Checks a claim's ticket. One that is not sound is answered with nothing: the origin sends the packets.
    fn admit(&self, asked: Asked) -> Option<Waiting> {
        let sound = Claim::decode(&asked.frame.payload).filter(|claim| {
            let keys = locked(&self.keys);
            let key = keys.get(&claim.origin);
            key.is_some_and(|(_, key)| key.admits(&asked.taker, &claim.packets, &claim.ticket))
        });
        let Some(Claim { origin, packets, .. }) = sound else {
            tracing::debug!(taker = %asked.taker, "a claim of packets has no ticket for them");
            asked.answer(Vec::new());
            return None;
        };
        let shelf = self.store.shelf(origin.as_str());
        Some(Waiting { asked, shelf, packets, due: Instant::now() + ARRIVAL_MAX })
    }
}

impl Asked {
    fn answer(&self, packets: Vec<(PacketRef, Packed)>) {
        let (stream, payload) = (self.frame.stream, encode(&Packets { packets }).into());
        // The link may have ended.
        let _ = self.out_tx.send(Frame { kind: Kind::Given, stream, payload });
    }
}

impl Waiting {
    /// Tells whether all packets are here; the last ones come last.
    fn is_here(&self) -> bool {
        self.packets.iter().rev().all(|packet| self.shelf.has(&packet.digest))
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use packetfs::packet::reference;
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::wire::holding::TICKET_BYTES;

    const KEY: TicketKey = TicketKey([7; TICKET_BYTES]);

    fn node(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    /// A giver with one packet of an origin, whose key came over link 1.
    fn giver() -> (tempfile::TempDir, Giver, Shelf) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Arc::new(Store::open(dir.path(), u64::MAX).expect("a store"));
        let shelf = store.shelf("o");
        let giver = Giver::start(&store).expect("a thread");
        giver.take_key(1, &node("o"), &encode(&KEY));
        (dir, giver, shelf)
    }

    fn keep(shelf: &Shelf, content: &[u8]) -> PacketRef {
        let packet = reference(content);
        shelf.put(packet, &Packed::pack(content)).expect("the disk has room");
        packet
    }

    fn claim(giver: &Giver, taker: &str, claim: &Claim) -> UnboundedReceiver<Frame> {
        let (out_tx, out_rx) = unbounded_channel();
        let frame = Frame { kind: Kind::Claim, stream: 5, payload: encode(claim).into() };
        giver.take(&node(taker), out_tx, frame);
        out_rx
    }

    fn given(mut out_rx: UnboundedReceiver<Frame>) -> Vec<PacketRef> {
        let frame = out_rx.blocking_recv().expect("it answers");
        assert_eq!((frame.kind, frame.stream), (Kind::Given, 5));
        let packets: Packets = postcard::from_bytes(&frame.payload).expect("packets");
        assert!(packets.packets.iter().all(|(packet, packed)| packed.unpack(*packet).is_ok()));
        packets.packets.into_iter().map(|(packet, _)| packet).collect()
    }

    #[test]
    fn packets_are_given_for_tickets_alone() {
        let (_dir, giver, shelf) = giver();
        let packets = vec![keep(&shelf, b"content")];
        let ticket = KEY.ticket(&node("n2"), &packets);
        let sound = Claim { origin: node("o"), ticket, packets: packets.clone() };
        assert_eq!(given(claim(&giver, "n2", &sound)), packets);
        assert_eq!(given(claim(&giver, "n3", &sound)), [], "the ticket is another's");
        let other = keep(&shelf, b"secret");
        let wider = Claim { packets: vec![other], ..sound.clone() };
        assert_eq!(given(claim(&giver, "n2", &wider)), []);
        let elsewhere = Claim { origin: node("p"), ..sound.clone() };
        assert_eq!(given(claim(&giver, "n2", &elsewhere)), []);
        giver.end(1);
        assert_eq!(given(claim(&giver, "n2", &sound)), [], "the origin has gone");
    }

    #[test]
    fn a_claim_waits_for_packets_on_their_way_and_not_for_ever() {
        let (_dir, giver, shelf) = giver();
        let coming = reference(b"coming");
        let packets = vec![coming, reference(b"never")];
        let ticket = KEY.ticket(&node("n2"), &packets);
        let begun = Instant::now();
        let out_rx = claim(&giver, "n2", &Claim { origin: node("o"), ticket, packets });
        keep(&shelf, b"coming");
        assert_eq!(given(out_rx), [coming]);
        assert!(begun.elapsed() >= ARRIVAL_MAX);
    }
}
