//! Links: one WebSocket between each pair of agents that exchange walks.
//!
//! Both sides may open walks, whichever has called. A link has a reading and a writing task. The reader
//! never waits for a consumer, because credit bounds what the peer may send.

pub(crate) mod call;
mod foretold;
mod guarded;
pub(crate) mod handshake;
mod inbox;
pub(crate) mod introduced;
mod meeting;
pub(crate) mod queued;
pub(crate) mod socket;
mod streams;
pub(crate) mod tasks;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::tree::Change;
use tokio::sync::{Notify, mpsc, watch};
use worknode::id::{Attempt, NodeId};
use worknode::key::Key;

use crate::sys::tcp::{self, Moved};
use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::{
    CLAIMS_MAX, EXITS_MAX, FETCHES_MAX, HOLDERS_VERSION, LOCKS_VERSION, OWN_HELD_VERSION,
    QUESTIONS_MAX, TOLD_BYTES_MAX,
};
use crate::wire::lists;
use crate::wire::message::{self, Exit, Open};
use crate::wire::squeeze::{Damaged, Squeezer, Unsqueezer};
use foretold::Foretold;
use handshake::Peer;
pub(crate) use inbox::Inbox;
use introduced::Introduced;
use meeting::Meeting;
use queued::{Outbox, Queued};
use streams::Streams;

/// Delivery rate above which compression does not pay. zstd takes about 3.5 ns per byte on both sides together and
/// reduces programs' output to a third (1 Gbit/s is 118 MB/s).
const FAST_BYTES_PER_SECOND: u64 = 190_000_000;

/// The handle of a link.
#[derive(Debug)]
pub(crate) struct Link {
    /// The agent at the other end.
    pub(crate) peer: NodeId,
    /// Its key. A node that was removed and joined again has another one.
    pub(crate) key: Option<Key>,
    incarnation: u64,
    /// The version of the protocol that both sides speak.
    speaks: u32,
    /// Whether this side has called.
    called: bool,
    began: Instant,
    /// A number that is unique among all links of this agent.
    pub(crate) number: u32,
    /// Unbounded, since the one thread puts frames in and empties it. What it holds is bounded where it comes from:
    /// output and input by credit, questions and answers, exits and pongs by their counts, messages
    /// between volumes by [`Queued`]. Changes are as many as
    /// happen while the other side reads none; it is dropped when it acknowledges nothing.
    out_tx: mpsc::UnboundedSender<Frame>,
    /// Messages between volumes in it.
    queued: Arc<Queued>,
    /// The connection, for socket options, while it is open.
    connection: RefCell<Option<OwnedFd>>,
    streams: Streams,
    /// The peer's questions whose answers have not been sent.
    unanswered: Cell<usize>,
    /// Likewise its requests for packets of the volume, and its claims of packets of an origin.
    unfetched: Cell<usize>,
    ungiven: Cell<usize>,
    /// Exits that have not been sent.
    exits: Cell<usize>,
    /// Answers that the peer sent ahead of its first walk.
    told: RefCell<Vec<Bytes>>,
    /// Whether a pong is waiting to be sent, which also answers later pings.
    pong_waits: Cell<bool>,
    /// Data that was sent to the peer ahead of this side's walks.
    pub(crate) foretold: Foretold,
    /// The peer's sessions.
    pub(crate) introduced: Introduced,
    closed_tx: watch::Sender<bool>,
    /// Notified of each pong.
    answered: Notify,
    squeezer: RefCell<Squeezer>,
    unsqueezer: RefCell<Unsqueezer>,
    changes_unsqueezer: RefCell<Unsqueezer>,
    bytes_out: Cell<u64>,
    /// Payloads for walks of either side.
    walk_bytes_out: Cell<u64>,
    bytes_in: Cell<u64>,
}

impl Link {
    /// Makes a link, and the receiver of its queue of frames to send.
    pub(crate) fn new(
        peer: Peer,
        number: u32,
        called: bool,
        connection: Option<OwnedFd>,
    ) -> (Self, mpsc::UnboundedReceiver<Frame>) {
        let (out_tx, out_rx) = mpsc::unbounded_channel();
        let link = Self {
            peer: peer.node,
            key: peer.key,
            incarnation: peer.incarnation,
            speaks: peer.speaks,
            called,
            began: Instant::now(),
            number,
            out_tx,
            queued: Arc::default(),
            connection: RefCell::new(connection),
            streams: Streams::new(called),
            unanswered: Cell::new(0),
            unfetched: Cell::new(0),
            ungiven: Cell::new(0),
            exits: Cell::new(0),
            told: RefCell::default(),
            pong_waits: Cell::new(false),
            foretold: Foretold::default(),
            introduced: Introduced::default(),
            closed_tx: watch::Sender::new(false),
            answered: Notify::new(),
            squeezer: RefCell::default(),
            unsqueezer: RefCell::default(),
            changes_unsqueezer: RefCell::default(),
            bytes_out: Cell::new(0),
            walk_bytes_out: Cell::new(0),
            bytes_in: Cell::new(0),
        };
        (link, out_rx)
    }

    /// Sends a frame. On an ended link it is dropped.
    pub(crate) fn send(&self, kind: Kind, stream: u32, payload: Vec<u8>) {
        let _ = self.out_tx.send(Frame { kind, stream, payload: payload.into() });
    }

    /// Opens a walk on the peer, on a stream of this side. Returns the number of bytes sent.
    pub(crate) fn send_open(&self, stream: u32, attempt: Attempt, spec: &[u8]) -> usize {
        let payload = Open::encode(attempt, spec, &mut self.squeezer.borrow_mut());
        let bytes = payload.len();
        self.send(Kind::Open, stream, payload);
        bytes
    }

    /// Decodes the spec in a [`Kind::Open`], if it is wanted. To be called for all of them, in order.
    ///
    /// # Errors
    /// It is damaged, and later ones cannot be decoded either.
    pub(crate) fn take_open(
        &self,
        payload: &[u8],
        wanted: bool,
    ) -> Result<Option<Vec<u8>>, Damaged> {
        Open::decode_spec(payload, &mut self.unsqueezer.borrow_mut(), wanted)
    }

    /// Decodes the changes in a [`Kind::Changes`], if they are wanted. To be called for all of them, in order.
    ///
    /// # Errors
    /// It is damaged, and later ones cannot be decoded either.
    pub(crate) fn take_changes(
        &self,
        payload: &[u8],
        wanted: bool,
    ) -> Result<Vec<Change>, Damaged> {
        lists::decode_changes(payload, &mut self.changes_unsqueezer.borrow_mut(), wanted)
    }

    /// Keeps answers that were sent ahead of the first walk, until its tree is mounted.
    pub(crate) fn keep_told(&self, told: Bytes) {
        let mut kept = self.told.borrow_mut();
        if kept.iter().map(Bytes::len).sum::<usize>() + told.len() <= TOLD_BYTES_MAX {
            // A copy, so that the whole message need not stay in memory.
            kept.push(Bytes::copy_from_slice(&told));
        }
    }

    /// Takes the kept answers.
    pub(crate) fn take_told(&self) -> Vec<Bytes> {
        self.told.take()
    }

    /// Sends a walk's exit. Returns false if the peer does not read the exits of its walks.
    pub(crate) fn send_exit(&self, stream: u32, exit: &Exit) -> bool {
        self.exits.set(self.exits.get() + 1);
        self.send(Kind::Exit, stream, message::encode(exit));
        self.exits.get() <= EXITS_MAX
    }

    /// Returns the queue of frames to send, for use from other threads.
    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<Frame> {
        self.out_tx.clone()
    }

    /// Returns the way of messages between volumes to that queue.
    pub(crate) fn outbox(&self) -> Outbox {
        Outbox::new(self.out_tx.clone(), Arc::clone(&self.queued))
    }

    /// Opens a stream of this side.
    pub(crate) fn open_stream(&self) -> (u32, Inbox) {
        self.streams.open()
    }

    /// Accepts a stream that the peer opens. Returns `None` if the number is not one of its own, or already open.
    pub(crate) fn accept_stream(&self, stream: u32) -> Option<Inbox> {
        self.streams.accept(stream)
    }

    /// Queues a frame in its stream.
    pub(crate) fn route(&self, frame: Frame) {
        if !self.streams.route(frame) {
            tracing::error!(peer = %self.peer, "dropping the link: it exceeded its credit");
            self.close();
        }
    }

    /// Closes a stream: its later frames are dropped.
    pub(crate) fn close_stream(&self, stream: u32) {
        self.streams.close(stream);
        self.foretold.end_walk(stream);
    }

    /// Counts a question of the peer until its answer has been sent. Returns false if there are too many.
    pub(crate) fn note_question(&self) -> bool {
        self.unanswered.set(self.unanswered.get() + 1);
        self.unanswered.get() <= QUESTIONS_MAX
    }

    /// Counts a request for packets of the volume until its answer has been sent. Returns false if there are too many.
    pub(crate) fn note_fetch(&self) -> bool {
        self.unfetched.set(self.unfetched.get() + 1);
        self.unfetched.get() <= FETCHES_MAX
    }

    /// Counts a claim of packets until its answer has been sent. Returns false if there are too many.
    pub(crate) fn note_claim(&self) -> bool {
        self.ungiven.set(self.ungiven.get() + 1);
        self.ungiven.get() <= CLAIMS_MAX
    }

    /// Returns the shortest round trip between the kernels, if known.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::round_trip(connection).ok())
    }

    /// Tells whether compressing takes longer than sending the bytes that it saves.
    pub(crate) fn is_fast(&self) -> bool {
        self.delivery_rate() > FAST_BYTES_PER_SECOND
    }

    /// Returns the kernel's estimate of the delivery rate in bytes per second; 0 if it has none yet.
    pub(crate) fn delivery_rate(&self) -> u64 {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::delivery_rate(connection).ok()).unwrap_or(0)
    }

    /// Pings the peer's agent. Returns whether it answers in time.
    pub(crate) async fn answers(&self, within: Duration) -> bool {
        let answer = self.answered.notified();
        tokio::pin!(answer);
        answer.as_mut().enable();
        self.send(Kind::Ping, 0, Vec::new());
        tokio::time::timeout(within, answer).await.is_ok()
    }

    fn note_sent(&self, frame: &Frame) {
        if !frame.kind.is_aside() {
            self.walk_bytes_out.set(self.walk_bytes_out.get() + frame.payload.len() as u64);
        }
        match frame.kind {
            Kind::Exit => self.exits.set(self.exits.get().saturating_sub(1)),
            Kind::Answer => self.unanswered.set(self.unanswered.get().saturating_sub(1)),
            Kind::Fetched | Kind::Probed => {
                self.unfetched.set(self.unfetched.get().saturating_sub(1));
            }
            Kind::Given => self.ungiven.set(self.ungiven.get().saturating_sub(1)),
            Kind::Pong => self.pong_waits.set(false),
            _ => self.queued.note_sent(frame),
        }
    }

    /// Tells whether a newer connection with the same peer replaces this one.
    pub(crate) fn gives_way_to(&self, own: &NodeId, peer: &Peer, called: bool) -> bool {
        let meeting = Meeting {
            is_same_agent: self.incarnation == peer.incarnation,
            is_same_caller: self.called == called,
            age: self.began.elapsed(),
            newer_is_of_smaller: called == (*own < peer.node),
        };
        meeting.newer_stays()
    }

    /// Returns the time since the last acknowledgement from the peer's kernel, if known.
    pub(crate) fn acknowledged_since(&self) -> Option<Duration> {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::acknowledged_since(connection).ok())
    }

    /// Tells whether the peer knows of packets that other runners hold.
    pub(crate) fn knows_holders(&self) -> bool {
        self.speaks >= HOLDERS_VERSION
    }

    /// Tells whether the peer knows of locks on files of volumes.
    pub(crate) fn knows_locks(&self) -> bool {
        self.speaks >= LOCKS_VERSION
    }

    /// Tells whether the peer takes packets from its own volume when it is told that they are there.
    pub(crate) fn knows_own_held(&self) -> bool {
        self.speaks >= OWN_HELD_VERSION
    }

    /// Tells whether a walk of either side is on the link.
    fn has_walks(&self) -> bool {
        self.streams.is_any_open()
    }

    /// Returns what the kernels have moved, if known.
    fn moved(&self) -> Option<Moved> {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::moved(connection).ok())
    }

    /// Tells whether the link has ended.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed_tx.borrow()
    }

    /// Waits for the end of the link.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed_tx.subscribe();
        // The sender lives as long as the link.
        let _ = closed.wait_for(|&closed| closed).await;
    }

    /// Ends the link.
    pub(crate) fn close(&self) {
        self.closed_tx.send_replace(true);
        self.streams.close_all();
    }

    /// Returns the bytes sent so far for walks of either side.
    pub(crate) fn walk_bytes(&self) -> u64 {
        self.walk_bytes_out.get()
    }

    /// Returns the bytes sent and received so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_out.get(), self.bytes_in.get())
    }
}
