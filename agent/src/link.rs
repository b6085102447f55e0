//! Links: one WebSocket between each pair of agents that have something to do with each other.
//!
//! Either side may have called; both may open walks. A link reads in one task and writes in
//! another; the reader never waits for whoever consumes what it reads, because what may be sent is
//! bounded by credit.

pub(crate) mod call;
mod foretold;
mod guarded;
pub(crate) mod handshake;
mod inbox;
mod meeting;
pub(crate) mod socket;
mod streams;
pub(crate) mod tasks;

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use bytes::Bytes;
use packetfs::tree::Change;
use tokio::sync::{Notify, mpsc, watch};
use worknode::id::{Attempt, NodeId};

use crate::sys::tcp;
use crate::wire::frame::{Frame, Kind};
use crate::wire::limits::{EXITS_MAX, QUESTIONS_MAX, TOLD_BYTES_MAX};
use crate::wire::lists;
use crate::wire::message::{self, Exit, Open};
use crate::wire::squeeze::{Damaged, Squeezer, Unsqueezer};
use foretold::Foretold;
use handshake::Peer;
pub(crate) use inbox::Inbox;
use meeting::Meeting;
use streams::Streams;

/// zstd takes about 3.5 ns for each byte on both sides and leaves a third of what programs write: it
/// saves time where less than this arrives in a second (1 Gbit/s is 118 MB/s).
const FAST_BYTES_PER_SECOND: u64 = 190_000_000;

/// A link, as its users see it.
#[derive(Debug)]
pub(crate) struct Link {
    /// The agent on the other side.
    pub(crate) peer: NodeId,
    incarnation: u64,
    /// This side called it.
    called: bool,
    began: Instant,
    /// Names the link among all that this agent ever had.
    pub(crate) number: u32,
    out_tx: mpsc::UnboundedSender<Frame>,
    /// The connection, for questions about it as long as there is one.
    connection: RefCell<Option<OwnedFd>>,
    streams: Streams,
    /// Questions of the other side whose answers have not gone out.
    unanswered: Cell<usize>,
    /// Exits that have not gone out.
    exits: Cell<usize>,
    /// What was told before there was a walk.
    told: RefCell<Vec<Bytes>>,
    /// An answer to a ping waits to go out: it answers later ones, too.
    pong_waits: Cell<bool>,
    /// What the other side was told ahead of this side's walks.
    pub(crate) foretold: Foretold,
    closed_tx: watch::Sender<bool>,
    /// Told when the other side answers a question whether it is there.
    answered: Notify,
    squeezer: RefCell<Squeezer>,
    unsqueezer: RefCell<Unsqueezer>,
    changes_unsqueezer: RefCell<Unsqueezer>,
    bytes_out: Cell<u64>,
    bytes_in: Cell<u64>,
    /// Frames sent that are more than a question whether the other side is there, or its answer.
    messages_out: Cell<u64>,
}

impl Link {
    /// Makes a link and the end of its queue from which frames go out.
    fn new(
        peer: Peer,
        number: u32,
        called: bool,
        connection: Option<OwnedFd>,
    ) -> (Self, mpsc::UnboundedReceiver<Frame>) {
        let (out_tx, out_rx) = mpsc::unbounded_channel();
        let link = Self {
            peer: peer.node,
            incarnation: peer.incarnation,
            called,
            began: Instant::now(),
            number,
            out_tx,
            connection: RefCell::new(connection),
            streams: Streams::new(called),
            unanswered: Cell::new(0),
            exits: Cell::new(0),
            told: RefCell::default(),
            pong_waits: Cell::new(false),
            foretold: Foretold::default(),
            closed_tx: watch::Sender::new(false),
            answered: Notify::new(),
            squeezer: RefCell::default(),
            unsqueezer: RefCell::default(),
            changes_unsqueezer: RefCell::default(),
            bytes_out: Cell::new(0),
            bytes_in: Cell::new(0),
            messages_out: Cell::new(0),
        };
        (link, out_rx)
    }

    /// Sends a frame; on a link that broke it goes nowhere.
    pub(crate) fn send(&self, kind: Kind, stream: u32, payload: Vec<u8>) {
        let _ = self.out_tx.send(Frame { kind, stream, payload: payload.into() });
    }

    /// Has the other side execute a walk, on a stream of this side. Returns the bytes that go out.
    pub(crate) fn send_open(&self, stream: u32, attempt: Attempt, spec: &[u8]) -> usize {
        let payload = Open::encode(attempt, spec, &mut self.squeezer.borrow_mut());
        let bytes = payload.len();
        self.send(Kind::Open, stream, payload);
        bytes
    }

    /// Returns the spec in a [`Kind::Open`], if it is wanted. To be called for all of them, in their order.
    ///
    /// # Errors
    /// It is damaged, and so are those that follow.
    pub(crate) fn take_open(
        &self,
        payload: &[u8],
        wanted: bool,
    ) -> Result<Option<Vec<u8>>, Damaged> {
        Open::decode_spec(payload, &mut self.unsqueezer.borrow_mut(), wanted)
    }

    /// Returns the changes in a [`Kind::Changes`], if they are wanted. To be called for all of them, in their order.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn take_changes(
        &self,
        payload: &[u8],
        wanted: bool,
    ) -> Result<Vec<Change>, Damaged> {
        lists::decode_changes(payload, &mut self.changes_unsqueezer.borrow_mut(), wanted)
    }

    /// Keeps what was told ahead of the first walk, until there is a tree of it.
    pub(crate) fn keep_told(&self, told: Bytes) {
        let mut kept = self.told.borrow_mut();
        if kept.iter().map(Bytes::len).sum::<usize>() + told.len() <= TOLD_BYTES_MAX {
            // Not the message that it came in.
            kept.push(Bytes::copy_from_slice(&told));
        }
    }

    /// Returns that.
    pub(crate) fn take_told(&self) -> Vec<Bytes> {
        self.told.take()
    }

    /// Says that a walk has ended; false if the other side does not read what it is told of those that it opens.
    pub(crate) fn send_exit(&self, stream: u32, exit: &Exit) -> bool {
        self.exits.set(self.exits.get() + 1);
        self.send(Kind::Exit, stream, message::encode(exit));
        self.exits.get() <= EXITS_MAX
    }

    /// Returns where other threads may put frames for this link.
    pub(crate) fn sender(&self) -> mpsc::UnboundedSender<Frame> {
        self.out_tx.clone()
    }

    /// Opens a stream of this side.
    pub(crate) fn open_stream(&self) -> (u32, Inbox) {
        self.streams.open()
    }

    /// Takes part in a stream that the other side opened; nothing if that is none of its own, or open already.
    pub(crate) fn accept_stream(&self, stream: u32) -> Option<Inbox> {
        self.streams.accept(stream)
    }

    /// Hands a frame to whoever takes part in its stream.
    pub(crate) fn route(&self, frame: Frame) {
        if !self.streams.route(frame) {
            tracing::error!(peer = %self.peer, "dropping the link: it sent more than it was given credit for");
            self.close();
        }
    }

    /// Ends this side's part in a stream: later frames of it are dropped.
    pub(crate) fn close_stream(&self, stream: u32) {
        self.streams.close(stream);
        self.foretold.end_walk(stream);
    }

    /// Counts a question of the other side until its answer has gone out; false if there are too many.
    pub(crate) fn note_question(&self) -> bool {
        self.unanswered.set(self.unanswered.get() + 1);
        self.unanswered.get() <= QUESTIONS_MAX
    }

    /// Tells whether compressing takes longer than to send what it saves.
    pub(crate) fn is_fast(&self) -> bool {
        self.delivery_rate() > FAST_BYTES_PER_SECOND
    }

    /// Returns how many bytes the kernel has seen arrive in a second; 0 as long as it has not.
    pub(crate) fn delivery_rate(&self) -> u64 {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::delivery_rate(connection).ok()).unwrap_or(0)
    }

    /// Asks whether the other side's agent is there; tells whether it answers within this time.
    pub(crate) async fn answers(&self, within: Duration) -> bool {
        let answer = self.answered.notified();
        tokio::pin!(answer);
        answer.as_mut().enable();
        self.send(Kind::Ping, 0, Vec::new());
        tokio::time::timeout(within, answer).await.is_ok()
    }

    fn note_sent(&self, frame: &Frame) {
        match frame.kind {
            Kind::Exit => self.exits.set(self.exits.get().saturating_sub(1)),
            Kind::Answer => self.unanswered.set(self.unanswered.get().saturating_sub(1)),
            Kind::Pong => self.pong_waits.set(false),
            _ => {}
        }
    }

    /// Tells whether a newer connection with the same peer takes this one's place.
    pub(crate) fn gives_way_to(&self, own: &NodeId, peer: &Peer, called: bool) -> bool {
        let meeting = Meeting {
            is_same_agent: self.incarnation == peer.incarnation,
            is_same_caller: self.called == called,
            age: self.began.elapsed(),
            newer_is_of_smaller: called == (*own < peer.node),
        };
        meeting.newer_stays()
    }

    /// Returns how long ago the other side's kernel acknowledged something; nothing if that is not known.
    pub(crate) fn acknowledged_since(&self) -> Option<Duration> {
        let connection = self.connection.borrow();
        connection.as_ref().and_then(|connection| tcp::acknowledged_since(connection).ok())
    }

    /// Tells whether the link broke.
    pub(crate) fn is_closed(&self) -> bool {
        *self.closed_tx.borrow()
    }

    /// Ends when the link breaks.
    pub(crate) async fn closed(&self) {
        let mut closed = self.closed_tx.subscribe();
        // The sender lives as long as the link.
        let _ = closed.wait_for(|&closed| closed).await;
    }

    /// Breaks the link.
    pub(crate) fn close(&self) {
        self.closed_tx.send_replace(true);
        self.streams.close_all();
    }

    /// Returns the bytes sent and received so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_out.get(), self.bytes_in.get())
    }
}
