//! Asks other runners for packets that an origin has said they hold. Each is checked by its digest. What does not come, for
//! whatever reason, is reported as not coming any more: whoever needs it asks the origin.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::packet::{Digest, Packed, PacketRef};
use packetfs::store::{Shelf, Store};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{timeout, timeout_at};
use worknode::id::NodeId;

use crate::link::Link;
use crate::wire::frame::Kind;
use crate::wire::holding::{Claim, Held};
use crate::wire::limits::CLAIMS_AT_ONCE;
use crate::wire::message::{Packets, encode};

/// Threads that check and store packets, and as many that take them from this node's volume, which may wait for other nodes.
const THREADS: usize = 4;
/// Time in which a holder says nothing at all, after which it is late: more than it waits for the packets itself …
const SILENCE_MAX: Duration = Duration::from_secs(1);
/// … and time that it has to answer while it says other things, such as the answers to earlier claims. A program may wait so
/// long.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Time that claims wait for a link to their holder.
const LINK_MAX: Duration = Duration::from_millis(500);
/// Time for which nothing is claimed of a holder that was late, or had nothing. Each further time in a row doubles it, up to the
/// second value: a busy node is not late for long.
const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(30);
/// Time after which a holder that could not be linked is called again.
const CALL_AGAIN: Duration = Duration::from_secs(5);
/// Most links with which others are called for this: beyond it only holders that are linked anyway are asked.
const NEIGHBOURS_MAX: usize = 32;
/// Most packets on their way. The rest is asked of the origin.
const COMING_MAX: usize = 65_536;

/// What the links are to do.
pub(crate) enum Wish {
    /// Link this node with a holder.
    Call(NodeId),
    /// Shut out a holder, for this reason.
    Shun(NodeId, String),
}

/// Why packets do not come from a holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Missed {
    #[error("it was late or had nothing a moment ago")]
    Rests,
    #[error("there is no link to it")]
    Unlinked,
    #[error("it does not answer")]
    Late,
    #[error("it has none of them")]
    Lacks,
    #[error("its link ended")]
    Gone,
    #[error("its answer cannot be decoded, or has a packet that does not match its digest")]
    Lied,
}

/// Returns packets of this node's volume. Blocks for a bounded time.
pub(super) type Own = dyn Fn(&[PacketRef]) -> Vec<(PacketRef, Packed)> + Send + Sync;

/// A node that may hold packets.
#[derive(Clone)]
struct Neighbour {
    link: Rc<Link>,
    /// Room for open claims.
    room: Rc<Semaphore>,
}

/// All claims of this node.
pub(crate) struct Claims {
    store: Arc<Store>,
    /// This node.
    node: NodeId,
    own: Arc<Own>,
    /// Room for threads that store what has come, and for those that take from the volume.
    keeping: Arc<Semaphore>,
    taking: Arc<Semaphore>,
    neighbours: RefCell<HashMap<NodeId, Neighbour>>,
    /// Notified of each new link.
    linked: Notify,
    /// When holders were last called.
    called: RefCell<HashMap<NodeId, Instant>>,
    /// Holders that were late: until when they rest, and for how long.
    rests: RefCell<HashMap<NodeId, (Instant, Duration)>>,
    /// Open claims: over which link, and where the answer goes.
    open: RefCell<HashMap<u32, (u32, oneshot::Sender<Bytes>)>>,
    last: Cell<u32>,
    /// Packets that are claimed, by origin.
    coming: RefCell<HashMap<NodeId, HashSet<Digest>>>,
    /// Bounded by the claims, each of which has a few wishes at most.
    wishes_tx: UnboundedSender<Wish>,
}

impl Claims {
    /// Returns also the receiver of what the links are to do.
    pub(super) fn new(
        store: &Arc<Store>,
        node: &NodeId,
        own: Arc<Own>,
    ) -> (Self, UnboundedReceiver<Wish>) {
        let (wishes_tx, wishes_rx) = unbounded_channel();
        let claims = Self {
            store: Arc::clone(store),
            node: node.clone(),
            own,
            keeping: Arc::new(Semaphore::new(THREADS)),
            taking: Arc::new(Semaphore::new(THREADS)),
            neighbours: RefCell::default(),
            linked: Notify::new(),
            called: RefCell::default(),
            rests: RefCell::default(),
            open: RefCell::default(),
            last: Cell::new(0),
            coming: RefCell::default(),
            wishes_tx,
        };
        (claims, wishes_rx)
    }

    /// Handles a new link to a node that knows of holders.
    pub(super) fn begin(&self, link: &Rc<Link>) {
        let room = Rc::new(Semaphore::new(CLAIMS_AT_ONCE));
        let neighbour = Neighbour { link: Rc::clone(link), room };
        self.neighbours.borrow_mut().insert(link.peer.clone(), neighbour);
        self.linked.notify_waiters();
    }

    /// Handles the end of a link: its claims end, too.
    pub(super) fn end(&self, link: &Link) {
        let mut neighbours = self.neighbours.borrow_mut();
        if neighbours.get(&link.peer).is_some_and(|it| it.link.number == link.number) {
            neighbours.remove(&link.peer);
        }
        self.open.borrow_mut().retain(|_, (of, _)| *of != link.number);
    }

    /// Takes an answer.
    pub(super) fn take_given(&self, link: u32, number: u32, payload: Bytes) {
        let mut open = self.open.borrow_mut();
        if open.get(&number).is_some_and(|(of, _)| *of == link)
            && let Some((_, answer_tx)) = open.remove(&number)
        {
            // The claim may have been given up.
            let _ = answer_tx.send(payload);
        }
    }

    /// Tells whether a packet of an origin has been claimed, and may still come.
    pub(crate) fn is_coming(&self, origin: &NodeId, digest: &Digest) -> bool {
        self.coming.borrow().get(origin).is_some_and(|coming| coming.contains(digest))
    }

    /// Claims packets of an origin. `done` is called for those of each claim that has ended, whether they have come or not.
    pub(crate) fn claim(
        self: &Rc<Self>,
        origin: &NodeId,
        held: Vec<Held>,
        done: impl Fn(&HashSet<Digest>) + Clone + 'static,
    ) {
        for held in held {
            let digests: HashSet<_> = held.packets.iter().map(|packet| packet.digest).collect();
            // What comes already is not claimed again: each claim that waits is for some packet of its own.
            let comes = digests.iter().all(|digest| self.is_coming(origin, digest));
            if comes || !self.expect(origin, &digests) {
                continue;
            }
            let (claims, origin, done) = (Rc::clone(self), origin.clone(), done.clone());
            tokio::task::spawn_local(async move {
                if let Err(missed) = claims.fetch(&origin, &held).await {
                    tracing::debug!(holder = %held.holder, %missed, "packets are asked of their origin");
                }
                claims.expect_no_longer(&origin, &digests);
                done(&digests);
            });
        }
    }

    /// Notes that packets are coming, if there is room.
    fn expect(&self, origin: &NodeId, digests: &HashSet<Digest>) -> bool {
        let mut coming = self.coming.borrow_mut();
        let count: usize = coming.values().map(HashSet::len).sum();
        if count + digests.len() > COMING_MAX {
            return false;
        }
        coming.entry(origin.clone()).or_default().extend(digests);
        true
    }

    fn expect_no_longer(&self, origin: &NodeId, digests: &HashSet<Digest>) {
        let mut coming = self.coming.borrow_mut();
        if let Some(of_origin) = coming.get_mut(origin) {
            of_origin.retain(|digest| !digests.contains(digest));
            if of_origin.is_empty() {
                coming.remove(origin);
            }
        }
    }

    async fn fetch(&self, origin: &NodeId, held: &Held) -> Result<(), Missed> {
        let shelf = self.store.shelf(origin.as_str());
        if held.packets.iter().all(|packet| shelf.has(&packet.digest)) {
            return Ok(());
        }
        if held.holder == self.node {
            let taken = timeout(ANSWER_MAX, self.take_own(origin, held)).await;
            return taken.unwrap_or(Err(Missed::Late));
        }
        if self.rests(&held.holder) {
            return Err(Missed::Rests);
        }
        let linked = timeout(LINK_MAX, self.neighbour(&held.holder)).await;
        let neighbour = linked.map_err(|_| Missed::Unlinked)??;
        let asked = self.ask(&neighbour, origin, held);
        let given = match timely(&neighbour.link, asked).await {
            Some(answer) => self.keep(origin, &held.packets, answer?).await,
            None => Err(Missed::Late),
        };
        match given {
            Ok(()) => drop(self.rests.borrow_mut().remove(&held.holder)),
            Err(Missed::Late | Missed::Lacks) => self.rest(&held.holder),
            Err(Missed::Lied) => {
                let lie = format!("a packet of {origin} that it gave does not match its digest");
                // The agent may be ending.
                let _ = self.wishes_tx.send(Wish::Shun(held.holder.clone(), lie));
            }
            Err(_) => {}
        }
        given
    }

    fn rest(&self, holder: &NodeId) {
        let (mut rests, now) = (self.rests.borrow_mut(), Instant::now());
        rests.retain(|_, (until, _)| *until + REST_MAX > now);
        let (until, rest) = rests.entry(holder.clone()).or_insert((now, Duration::ZERO));
        // Claims that end while it rests were made before.
        if *until <= now {
            *rest = (2 * *rest).clamp(REST_MIN, REST_MAX);
            *until = now + *rest;
        }
    }

    fn rests(&self, holder: &NodeId) -> bool {
        self.rests.borrow().get(holder).is_some_and(|(until, _)| *until > Instant::now())
    }

    /// Returns a holder once it is linked, and has it called if it is not.
    async fn neighbour(&self, holder: &NodeId) -> Result<Neighbour, Missed> {
        loop {
            let linked = self.linked.notified();
            tokio::pin!(linked);
            linked.as_mut().enable();
            if let Some(neighbour) = self.neighbours.borrow().get(holder) {
                return Ok(neighbour.clone());
            }
            if !self.has_called(holder) {
                return Err(Missed::Unlinked);
            }
            linked.await;
        }
    }

    /// Has a holder called. Returns false if that was in vain a moment ago, or there are too many links.
    fn has_called(&self, holder: &NodeId) -> bool {
        let mut called = self.called.borrow_mut();
        let since = called.get(holder).map(Instant::elapsed);
        if since.is_some_and(|since| since < CALL_AGAIN) {
            return since.is_some_and(|since| since < LINK_MAX);
        }
        if self.neighbours.borrow().len() >= NEIGHBOURS_MAX {
            return false;
        }
        called.retain(|_, at| at.elapsed() < CALL_AGAIN);
        called.insert(holder.clone(), Instant::now());
        // The agent may be ending.
        let _ = self.wishes_tx.send(Wish::Call(holder.clone()));
        true
    }

    async fn ask(
        &self,
        neighbour: &Neighbour,
        origin: &NodeId,
        held: &Held,
    ) -> Result<Bytes, Missed> {
        let _room = neighbour.room.acquire().await.map_err(|_| Missed::Gone)?;
        if neighbour.link.is_closed() {
            return Err(Missed::Gone);
        }
        let number = self.last.get().wrapping_add(1);
        self.last.set(number);
        let (answer_tx, answer_rx) = oneshot::channel();
        self.open.borrow_mut().insert(number, (neighbour.link.number, answer_tx));
        // Also if this is given up.
        let _open = Open { claims: self, number };
        let packets = held.packets.clone();
        let claim = Claim { origin: origin.clone(), ticket: held.ticket, packets };
        neighbour.link.send(Kind::Claim, number, encode(&claim));
        answer_rx.await.map_err(|_| Missed::Gone)
    }

    /// Takes packets from this node's own volume, which fetches what it lacks from any node.
    async fn take_own(&self, origin: &NodeId, held: &Held) -> Result<(), Missed> {
        let (own, packets) = (Arc::clone(&self.own), held.packets.clone());
        let work = move |shelf: &Shelf| keep(shelf, &packets, own(&packets));
        self.apart(&self.taking, origin, work).await
    }

    /// Stores the packets of an answer.
    async fn keep(
        &self,
        origin: &NodeId,
        asked: &[PacketRef],
        answer: Bytes,
    ) -> Result<(), Missed> {
        let asked = asked.to_vec();
        let work = move |shelf: &Shelf| {
            let Packets { packets } = postcard::from_bytes(&answer).map_err(|_| Missed::Lied)?;
            keep(shelf, &asked, packets)
        };
        self.apart(&self.keeping, origin, work).await
    }

    /// Works on a thread, since packets are read, checked and written.
    async fn apart(
        &self,
        threads: &Arc<Semaphore>,
        origin: &NodeId,
        work: impl FnOnce(&Shelf) -> Result<(), Missed> + Send + 'static,
    ) -> Result<(), Missed> {
        let turn = Arc::clone(threads).acquire_owned().await.map_err(|_| Missed::Gone)?;
        let shelf = self.store.shelf(origin.as_str());
        let work = move || {
            // As long as the work, also if nobody waits for it any more.
            let _turn = turn;
            work(&shelf)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Missed::Gone)?
    }
}

/// Stores the packets that were asked for, up to the first one that does not match its digest.
fn keep(shelf: &Shelf, asked: &[PacketRef], given: Vec<(PacketRef, Packed)>) -> Result<(), Missed> {
    if given.is_empty() {
        return Err(Missed::Lacks);
    }
    let mut left = asked.to_vec();
    for (packet, packed) in given {
        let at = left.iter().position(|it| *it == packet).ok_or(Missed::Lied)?;
        left.swap_remove(at);
        if !packed.may_be(packet) || packed.unpack(packet).is_err() {
            return Err(Missed::Lied);
        }
        if let Err(error) = shelf.put(packet, &packed) {
            tracing::error!(%error, "failed to store a packet");
        }
    }
    Ok(())
}

/// Waits for an answer. Returns `None` if it is late.
async fn timely<T>(link: &Link, answer: impl Future<Output = T>) -> Option<T> {
    tokio::pin!(answer);
    let until = tokio::time::Instant::now() + ANSWER_MAX;
    loop {
        let (_, heard) = link.bytes();
        let due = until.min(tokio::time::Instant::now() + SILENCE_MAX);
        match timeout_at(due, &mut answer).await {
            Ok(answer) => return Some(answer),
            Err(_) if due == until || link.bytes().1 == heard => return None,
            Err(_) => {}
        }
    }
}

/// An open claim, which ends when this is dropped.
struct Open<'a> {
    claims: &'a Claims,
    number: u32,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.claims.open.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use packetfs::packet::{Packed, reference};

    use super::*;
    use crate::link::handshake::Peer;
    use crate::wire::frame::Frame;
    use crate::wire::holding::{TICKET_BYTES, Ticket};
    use crate::wire::limits::VERSION;

    const CONTENT: &[u8] = b"content";
    const OWN: &[u8] = b"in the runner's own volume";

    /// A runner that is told of packets at `n1`.
    struct Runner {
        claims: Rc<Claims>,
        wishes_rx: UnboundedReceiver<Wish>,
        ended_tx: UnboundedSender<HashSet<Digest>>,
        ended_rx: UnboundedReceiver<HashSet<Digest>>,
        store: Arc<Store>,
        _dir: tempfile::TempDir,
    }

    fn node(name: &str) -> NodeId {
        name.parse().expect("a sound name")
    }

    impl Runner {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let store = Arc::new(Store::open(dir.path(), u64::MAX).expect("a store"));
            let own = |packets: &[PacketRef]| {
                let has = |packet: &&PacketRef| **packet == reference(OWN);
                packets.iter().filter(has).map(|it| (*it, Packed::plain(OWN))).collect()
            };
            let (claims, wishes_rx) = Claims::new(&store, &node("me"), Arc::new(own));
            let (ended_tx, ended_rx) = unbounded_channel();
            Self { claims: Rc::new(claims), wishes_rx, ended_tx, ended_rx, store, _dir: dir }
        }

        fn link(&self, number: u32) -> (Rc<Link>, UnboundedReceiver<Frame>) {
            let peer = Peer { node: node("n1"), incarnation: 1, key: None, speaks: VERSION };
            let (link, out_rx) = Link::new(peer, number, true, None);
            let link = Rc::new(link);
            self.claims.begin(&link);
            (link, out_rx)
        }

        fn claim(&self) -> PacketRef {
            self.claim_of("n1", CONTENT)
        }

        fn claim_of(&self, holder: &str, content: &[u8]) -> PacketRef {
            let packet = reference(content);
            let ticket = Ticket([1; TICKET_BYTES]);
            let held = Held { holder: node(holder), ticket, packets: vec![packet] };
            let ended_tx = self.ended_tx.clone();
            self.claims.claim(&node("o"), vec![held], move |digests| {
                ended_tx.send(digests.clone()).expect("the test waits");
            });
            packet
        }

        /// Waits until a claim has ended. Returns whether its packet has come.
        async fn has_come(&mut self) -> bool {
            let packet = reference(CONTENT);
            assert!(self.claims.is_coming(&node("o"), &packet.digest));
            let ended = self.ended_rx.recv().await.expect("the runner lives");
            assert_eq!(ended, [packet.digest].into());
            assert!(!self.claims.is_coming(&node("o"), &packet.digest));
            self.store.shelf("o").get(packet).is_some()
        }

        fn answer(&self, link: &Link, frame: &Frame, packets: Vec<(PacketRef, Packed)>) {
            let payload = encode(&Packets { packets }).into();
            self.claims.take_given(link.number, frame.stream, payload);
        }
    }

    fn with_runner<F: Future<Output = ()>>(test: impl FnOnce(Runner) -> F) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async { test(Runner::new()).await });
    }

    #[test]
    fn a_runner_that_is_named_itself_takes_packets_from_its_volume() {
        with_runner(|mut runner| async move {
            for (content, is_there) in [(OWN, true), (CONTENT, false)] {
                let packet = runner.claim_of("me", content);
                let ended = runner.ended_rx.recv().await.expect("the runner lives");
                assert_eq!(ended, [packet.digest].into());
                assert_eq!(runner.store.shelf("o").get(packet).is_some(), is_there);
            }
            assert!(runner.wishes_rx.try_recv().is_err(), "nobody is called");
        });
    }

    #[test]
    fn packets_come_from_a_holder_that_is_called_for_it() {
        with_runner(|mut runner| async move {
            let packet = runner.claim();
            let wish = runner.wishes_rx.recv().await;
            assert!(matches!(wish, Some(Wish::Call(holder)) if holder == node("n1")));
            let (link, mut out_rx) = runner.link(1);
            let frame = out_rx.recv().await.expect("it claims");
            let claim = Claim::decode(&frame.payload).expect("a claim");
            assert_eq!(
                (frame.kind, claim.origin, claim.packets),
                (Kind::Claim, node("o"), vec![packet])
            );
            runner.answer(&link, &frame, vec![(packet, Packed::pack(CONTENT))]);
            assert!(runner.has_come().await);
            // It is here.
            runner.claim();
            assert!(runner.has_come().await);
            assert!(out_rx.try_recv().is_err());
        });
    }

    #[test]
    fn a_holder_that_lies_is_shunned() {
        with_runner(|mut runner| async move {
            let (link, mut out_rx) = runner.link(1);
            let packet = runner.claim();
            let frame = out_rx.recv().await.expect("it claims");
            runner.answer(&link, &frame, vec![(packet, Packed::plain(b"CONTENT"))]);
            assert!(!runner.has_come().await);
            let wish = runner.wishes_rx.try_recv();
            assert!(matches!(wish, Ok(Wish::Shun(holder, _)) if holder == node("n1")));
        });
    }

    #[test]
    fn a_holder_that_is_late_or_has_nothing_rests() {
        with_runner(|mut runner| async move {
            let (link, mut out_rx) = runner.link(1);
            runner.claim();
            let frame = out_rx.recv().await.expect("it claims");
            let begun = Instant::now();
            assert!(!runner.has_come().await);
            assert!(begun.elapsed() >= SILENCE_MAX / 2);
            // What comes too late is nobody's.
            let late = vec![(reference(CONTENT), Packed::pack(CONTENT))];
            runner.answer(&link, &frame, late);
            runner.claim();
            assert!(!runner.has_come().await);
            assert!(out_rx.try_recv().is_err());
            // Once it has rested.
            let claims = Rc::clone(&runner.claims);
            let wake = || claims.rests.borrow_mut().values_mut().for_each(|it| it.0 = begun);
            wake();
            runner.claim();
            let frame = out_rx.recv().await.expect("it claims");
            runner.answer(&link, &frame, Vec::new());
            assert!(!runner.has_come().await);
            assert!(runner.claims.rests(&node("n1")));
            assert_eq!(runner.claims.rests.borrow()[&node("n1")].1, 2 * REST_MIN);
            wake();
            let packet = runner.claim();
            let frame = out_rx.recv().await.expect("it claims");
            runner.answer(&link, &frame, vec![(packet, Packed::pack(CONTENT))]);
            assert!(runner.has_come().await);
            assert!(runner.claims.rests.borrow().is_empty());
        });
    }

    #[test]
    fn the_end_of_a_link_ends_its_claims() {
        with_runner(|mut runner| async move {
            let (link, mut out_rx) = runner.link(1);
            runner.claim();
            out_rx.recv().await.expect("it claims");
            let begun = Instant::now();
            runner.claims.end(&link);
            assert!(!runner.has_come().await);
            assert!(begun.elapsed() < SILENCE_MAX);
        });
    }

    #[test]
    fn a_holder_that_cannot_be_linked_is_not_waited_for_again() {
        with_runner(|mut runner| async move {
            runner.claim();
            let begun = Instant::now();
            assert!(!runner.has_come().await);
            assert!(begun.elapsed() >= LINK_MAX / 2);
            let begun = Instant::now();
            runner.claim();
            assert!(!runner.has_come().await);
            assert!(begun.elapsed() < LINK_MAX / 2);
        });
    }
}
