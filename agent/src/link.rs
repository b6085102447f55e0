//! Links: one WebSocket between each pair of agents that have something to do with each other.
//!
//! Either side may have called; both may open walks. A link reads in one task and writes in
//! another; the reader never waits for whoever consumes what it reads, because what may be sent is
//! bounded by credit.

pub(crate) mod call;
pub(crate) mod guarded;
pub(crate) mod handshake;
mod inbox;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use worknode::command::Files;
use worknode::id::NodeId;

use crate::compile;
use crate::exporter::profile::Likeness;
use crate::sys::tcp;
use crate::wire::frame::{self, Assembler, Frame, Kind};
use crate::wire::limits::{
    CHANGES_BYTES_MAX, EXITS_MAX, MESSAGE_BYTES_MAX, QUESTIONS_MAX, TOLD_BYTES_MAX,
};
use crate::wire::lists;
use crate::wire::message::{self, Exit, Open};
use crate::wire::squeeze::{Squeezer, Unsqueezer};
use bytes::Bytes;
use guarded::Guarded;
use handshake::Peer;
pub(crate) use inbox::Inbox;
use inbox::Slit;
use packetfs::tree::Change;
use worknode::id::Attempt;
use worknode::spec::SPEC_BYTES_MAX;

/// The largest message: one frame of the largest payload, or many small ones.
const MESSAGE_BYTES_TARGET: usize = 128 * 1024;
/// Silence after which a link asks whether the other side's agent is awake, and how often it asks in
/// vain. Whether its machine is there the kernels find out among themselves, sooner and for less.
const PING_EVERY: Duration = Duration::from_secs(5);
const DEAD_AFTER: u32 = 3;
/// The kernel asks after a second of silence, then every second; what is not acknowledged for this
/// long never arrived. What was sent just before the kernel would have given up puts that off once:
/// a link is dropped after twice this time at most.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
const KEEPALIVE_SECONDS: u32 = 1;
/// A call that was begun before its side heard of the other's is over within this time: that of a call, and
/// some for the way.
const CROSSING_MAX: Duration = Duration::from_millis(2500);
/// Kinds of walks remembered; when there are more, the other side is told once more.
const FORETOLD_MAX: usize = 1000;
/// Compile steps, likewise.
const STEPS_MAX: usize = 50_000;
/// zstd takes about 3.5 ns for each byte on both sides and leaves a third of what programs write: it
/// saves time where less than this arrives in a second (1 Gbit/s is 118 MB/s).
const FAST_BYTES_PER_SECOND: u64 = 190_000_000;

/// What a link goes over.
pub(crate) type Socket = WebSocketStream<Guarded<TcpStream>>;

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
    /// The caller's streams are odd, the callee's even.
    next_stream: Cell<u32>,
    streams: RefCell<HashMap<u32, Slit>>,
    /// Frames that belong to no stream: those of walks that have ended, and what a lying side makes up.
    strays: Cell<u64>,
    /// Questions of the other side whose answers have not gone out.
    unanswered: Cell<usize>,
    /// Exits that have not gone out.
    exits: Cell<usize>,
    /// What was told before there was a walk.
    told: RefCell<Vec<Bytes>>,
    /// An answer to a ping waits to go out: it answers later ones, too.
    pong_waits: Cell<bool>,
    /// Walks of this side that run on the other, by stream.
    walks: RefCell<HashMap<u32, Arc<Likeness>>>,
    /// What the other side was told ahead of the first walk of its kind.
    foretold: RefCell<HashSet<Arc<Likeness>>>,
    /// Hashes of the compile steps whose files the other side was told of.
    steps: RefCell<HashSet<u64>>,
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
    /// Sends a frame; on a link that broke it goes nowhere.
    pub(crate) fn send(&self, kind: Kind, stream: u32, payload: Vec<u8>) {
        let _ = self.out_tx.send(Frame { kind, stream, payload: payload.into() });
    }

    /// Has the other side execute a walk, on a stream of this side. Returns the bytes that go out.
    pub(crate) fn send_open(&self, stream: u32, attempt: Attempt, spec: &[u8]) -> usize {
        let spec = self.squeezer.borrow_mut().squeeze(spec);
        let payload = message::encode(&Open { attempt, spec });
        let bytes = payload.len();
        self.send(Kind::Open, stream, payload);
        bytes
    }

    /// Returns the spec in a [`Kind::Open`], if it is wanted.
    ///
    /// # Errors
    /// It is damaged, and so are those that follow. To be called for all of them, in their order.
    pub(crate) fn take_open(&self, payload: &[u8], wanted: bool) -> Result<Option<Vec<u8>>, ()> {
        let open: Open = postcard::from_bytes(payload).map_err(drop)?;
        let mut unsqueezer = self.unsqueezer.borrow_mut();
        if wanted {
            unsqueezer.unsqueeze(open.spec, SPEC_BYTES_MAX).map(Some).ok_or(())
        } else {
            unsqueezer.skip(open.spec).then_some(None).ok_or(())
        }
    }

    /// Returns the changes in a [`Kind::Changes`], if they are wanted.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn take_changes(&self, payload: &[u8], wanted: bool) -> Result<Vec<Change>, ()> {
        let squeezed = postcard::from_bytes(payload).map_err(drop)?;
        let mut unsqueezer = self.changes_unsqueezer.borrow_mut();
        if wanted {
            let changes = unsqueezer.unsqueeze(squeezed, CHANGES_BYTES_MAX).ok_or(())?;
            lists::changes(&changes).ok_or(())
        } else {
            unsqueezer.skip(squeezed).then(Vec::new).ok_or(())
        }
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
        let stream = self.next_stream.get();
        self.next_stream.set(stream.wrapping_add(2));
        (stream, self.take_part(stream))
    }

    /// Takes part in a stream that the other side opened; nothing if that is none of its own, or open already.
    pub(crate) fn accept_stream(&self, stream: u32) -> Option<Inbox> {
        let is_ours = stream % 2 == self.next_stream.get() % 2;
        let is_open = self.streams.borrow().contains_key(&stream);
        (!is_ours && !is_open).then(|| self.take_part(stream))
    }

    fn take_part(&self, stream: u32) -> Inbox {
        let (slit, inbox) = inbox::inbox();
        self.streams.borrow_mut().insert(stream, slit);
        inbox
    }

    /// Counts a question of the other side until its answer has gone out; false if there are too many.
    pub(crate) fn note_question(&self) -> bool {
        self.unanswered.set(self.unanswered.get() + 1);
        self.unanswered.get() <= QUESTIONS_MAX
    }

    /// Notes a walk of this side on a stream; true if it is the first of its kind.
    pub(crate) fn note_walk(&self, stream: u32, walk: &Arc<Likeness>) -> bool {
        self.walks.borrow_mut().insert(stream, Arc::clone(walk));
        let mut foretold = self.foretold.borrow_mut();
        if foretold.len() >= FORETOLD_MAX {
            foretold.clear();
        }
        foretold.insert(Arc::clone(walk))
    }

    /// Notes the files of a compile step; true if the other side has not been told of them, or of its
    /// sources as they are now.
    pub(crate) fn note_step(&self, walk: &Likeness, files: &Files) -> bool {
        let mut hasher = DefaultHasher::new();
        (walk, files, compile::versions(files, &walk.cwd)).hash(&mut hasher);
        let mut steps = self.steps.borrow_mut();
        if steps.len() >= STEPS_MAX {
            steps.clear();
        }
        steps.insert(hasher.finish())
    }

    /// Returns the kinds of walks of this side that run on the other.
    pub(crate) fn walks(&self) -> Vec<Arc<Likeness>> {
        let mut kinds: Vec<Arc<Likeness>> = Vec::new();
        for walk in self.walks.borrow().values() {
            if !kinds.contains(walk) {
                kinds.push(Arc::clone(walk));
            }
        }
        kinds
    }

    /// Ends this side's part in a stream: later frames of it are dropped.
    pub(crate) fn close_stream(&self, stream: u32) {
        self.streams.borrow_mut().remove(&stream);
        self.walks.borrow_mut().remove(&stream);
    }

    /// Hands a frame to whoever takes part in its stream.
    pub(crate) fn route(&self, frame: Frame) {
        let taken = match self.streams.borrow().get(&frame.stream) {
            Some(slit) => slit.put(frame),
            None => {
                self.strays.set(self.strays.get() + 1);
                true
            }
        };
        if !taken {
            tracing::error!(peer = %self.peer, "dropping the link: it sent more than it was given credit for");
            self.close();
        }
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
        self.streams.borrow_mut().clear();
    }

    /// Returns the bytes sent and received so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.bytes_out.get(), self.bytes_in.get())
    }
}

/// Two links with one peer.
#[derive(Debug, Clone, Copy)]
struct Meeting {
    /// It is the same agent, not a later one of the same name.
    is_same_agent: bool,
    /// The same side has called both.
    is_same_caller: bool,
    /// Of the one that is there.
    age: Duration,
    /// The newer one was called by the node with the smaller name.
    newer_is_of_smaller: bool,
}

impl Meeting {
    /// Who calls has no link, or has lost it: the newer one stays. Only if both called before either heard
    /// of the other, both have both: then both keep that of the smaller name's call.
    fn newer_stays(self) -> bool {
        let crossed = self.is_same_agent && !self.is_same_caller && self.age < CROSSING_MAX;
        !crossed || self.newer_is_of_smaller
    }
}

/// Prepares a connection: nothing waits for more to be sent, and what the other side's kernel does
/// not acknowledge for so long never arrived.
pub(crate) fn prepare(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let patience = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?;
    Ok(setsockopt(stream, sockopt::TcpUserTimeout, &patience)?)
}

/// The socket's limits: its defaults buffer far more than a link needs. What is read at once is filled
/// with zeros before.
pub(crate) fn socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(MESSAGE_BYTES_TARGET)
        .max_write_buffer_size(16 * 1024 * 1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Starts the tasks of a link over a socket whose sides have greeted each other. `take` gets every
/// frame that arrives; `end` is called once, when the link broke.
pub(crate) fn start(
    socket: Socket,
    Peer { node: peer, incarnation }: Peer,
    number: u32,
    called: bool,
    take: impl Fn(&Rc<Link>, Frame) + 'static,
    end: impl FnOnce(&Rc<Link>) + 'static,
) -> Rc<Link> {
    let (out_tx, out_rx) = mpsc::unbounded_channel();
    // Without it the link is taken for a slow one.
    let connection = RefCell::new(socket.get_ref().as_fd().try_clone_to_owned().ok());
    let link = Rc::new(Link {
        peer,
        incarnation,
        called,
        began: Instant::now(),
        number,
        out_tx,
        connection,
        next_stream: Cell::new(if called { 1 } else { 2 }),
        streams: RefCell::default(),
        strays: Cell::new(0),
        unanswered: Cell::new(0),
        exits: Cell::new(0),
        told: RefCell::default(),
        pong_waits: Cell::new(false),
        walks: RefCell::default(),
        foretold: RefCell::default(),
        steps: RefCell::default(),
        closed_tx: watch::Sender::new(false),
        answered: Notify::new(),
        squeezer: RefCell::default(),
        unsqueezer: RefCell::default(),
        changes_unsqueezer: RefCell::default(),
        bytes_out: Cell::new(0),
        bytes_in: Cell::new(0),
        messages_out: Cell::new(0),
    });
    let running = Rc::clone(&link);
    tokio::task::spawn_local(async move {
        let (sink, stream) = socket.split();
        tokio::select! {
            () = read(&running, stream, take) => {}
            () = write(&running, sink, out_rx) => {}
            () = running.closed() => {}
        }
        // The other side is to see that it ends.
        running.connection.take();
        running.close();
        tracing::debug!(peer = %running.peer, strays = running.strays.get(), "a link ended");
        end(&running);
    });
    link
}

async fn read(
    link: &Rc<Link>,
    mut socket: impl futures_util::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>>
    + Unpin,
    take: impl Fn(&Rc<Link>, Frame),
) {
    let mut assembler = Assembler::default();
    let mut silence = 0;
    let mut sent = 0;
    loop {
        let message = match tokio::time::timeout(PING_EVERY, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return,
            Err(_) => {
                // While a bulk goes out, the answer to a ping waits behind it on either side.
                let moving = std::mem::replace(&mut sent, link.messages_out.get()) != sent;
                silence = if moving { 0 } else { silence + 1 };
                if silence > DEAD_AFTER {
                    tracing::warn!(peer = %link.peer, "the link is silent: dropping it");
                    return;
                }
                link.send(Kind::Ping, 0, Vec::new());
                continue;
            }
        };
        silence = 0;
        let Message::Binary(bytes) = message else {
            if matches!(message, Message::Close(_)) {
                return;
            }
            continue;
        };
        link.bytes_in.set(link.bytes_in.get() + bytes.len() as u64);
        match assembler.frames(bytes) {
            Ok(frames) => {
                for frame in frames {
                    match frame.kind {
                        Kind::Ping if link.pong_waits.replace(true) => {}
                        Kind::Ping => link.send(Kind::Pong, 0, Vec::new()),
                        Kind::Pong => link.answered.notify_waiters(),
                        _ => take(link, frame),
                    }
                }
            }
            Err(error) => {
                tracing::error!(peer = %link.peer, %error, "dropping the link");
                return;
            }
        }
    }
}

async fn write(
    link: &Link,
    mut socket: impl futures_util::Sink<Message> + Unpin,
    mut out_rx: mpsc::UnboundedReceiver<Frame>,
) {
    while let Some(frame) = out_rx.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            // What is waiting goes along: a short walk's output and its end are one message.
            let mut message = Vec::with_capacity(frame.payload.len() + 64);
            let mut messages = says_something(&frame);
            link.note_sent(&frame);
            frame.encode(&mut message);
            next = None;
            while let Ok(frame) = out_rx.try_recv() {
                if message.len() + frame.payload.len() > MESSAGE_BYTES_TARGET {
                    next = Some(frame);
                    break;
                }
                messages |= says_something(&frame);
                link.note_sent(&frame);
                frame.encode(&mut message);
            }
            link.messages_out.set(link.messages_out.get() + u64::from(messages));
            link.bytes_out.set(link.bytes_out.get() + message.len() as u64);
            for part in parts(message) {
                if socket.feed(Message::Binary(part.into())).await.is_err() {
                    return;
                }
            }
        }
        if socket.flush().await.is_err() {
            return;
        }
    }
}

/// Tells whether it is more than a question whether the other side is there, or its answer.
fn says_something(frame: &Frame) -> bool {
    !matches!(frame.kind, Kind::Ping | Kind::Pong)
}

/// Cuts a message at frame borders, so that none is longer than a socket message may be.
fn parts(message: Vec<u8>) -> Vec<Vec<u8>> {
    if message.len() <= 512 * 1024 {
        return vec![message];
    }
    let mut parts = vec![Vec::new()];
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let length = u32::from_le_bytes([rest[1], rest[2], rest[3], 0]) as usize;
        let (frame, after) = rest.split_at(frame::HEAD_BYTES + length);
        if parts.last().is_some_and(|part| part.len() + frame.len() > 512 * 1024) {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("there is always a part").extend(frame);
        rest = after;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_again_has_lost_the_link() {
        let crossed = Meeting {
            is_same_agent: true,
            is_same_caller: false,
            age: Duration::from_millis(10),
            newer_is_of_smaller: false,
        };
        assert!(!crossed.newer_stays(), "both called at once: names decide");
        assert!(Meeting { newer_is_of_smaller: true, ..crossed }.newer_stays());
        assert!(Meeting { is_same_caller: true, ..crossed }.newer_stays(), "it has called again");
        assert!(Meeting { is_same_agent: false, ..crossed }.newer_stays(), "it was started again");
        assert!(Meeting { age: CROSSING_MAX, ..crossed }.newer_stays(), "the other has lost it");
    }

    #[test]
    fn who_does_not_read_how_its_walks_end_has_few_of_them() {
        use tokio_tungstenite::tungstenite::protocol::Role;
        use worknode::spec::{Fault, Outcome};
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
            let (ours, _theirs) = (Guarded::new(ours.expect("a caller").0), theirs);
            let config = Some(socket_config());
            let socket = WebSocketStream::from_raw_socket(ours, Role::Server, config).await;
            let peer = Peer { node: "n2".parse().expect("a name"), incarnation: 1 };
            let link = start(socket, peer, 1, false, |_, _| {}, |_| {});
            let exit = Exit {
                outcome: Outcome::Fault(Fault::Busy),
                changes: Default::default(),
                offsets: Vec::new(),
                doubt: None,
            };
            // The writer has no turn meanwhile.
            let sent = (0..2 * EXITS_MAX).take_while(|_| link.send_exit(1, &exit)).count();
            assert_eq!(sent, EXITS_MAX);
            while link.exits.get() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(link.send_exit(1, &exit));
        });
    }
}
