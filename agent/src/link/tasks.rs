//! The reading and the writing task of a link. The reader never waits for a consumer.

use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::Link;
use super::handshake::Peer;
use super::socket::{MESSAGE_BYTES_TARGET, Socket, connection};
use crate::sys::tcp::Moved;
use crate::wire::frame::{Assembler, Frame, FrameError, Kind, parts};
use crate::wire::limits::MESSAGE_BYTES_MAX;

/// How often a silent link is looked at, and the number of unanswered pings after which one that carries walks is dropped.
/// The kernels detect an unreachable machine themselves, but not an agent that stands still.
const TICK: Duration = Duration::from_secs(1);
const DEAD_AFTER: u32 = 3;
/// A link without walks is pinged at every so many ticks: nobody waits for it.
const IDLE_TICKS: u32 = 5;
/// Size at which a message is split that a long frame has made larger: half of the accepted size.
const PART_BYTES_MAX: usize = MESSAGE_BYTES_MAX / 2;

/// Starts the tasks of a link after the handshake. `take` receives every frame; `end` is called once, when the link
/// has ended.
pub(crate) fn start(
    socket: Socket,
    peer: Peer,
    number: u32,
    called: bool,
    take: impl Fn(&Rc<Link>, Frame) + 'static,
    end: impl FnOnce(&Rc<Link>) + 'static,
) -> Rc<Link> {
    // Without this descriptor the link counts as slow.
    let connection = connection(&socket).reader().as_fd().try_clone_to_owned().ok();
    let (link, out_rx) = Link::new(peer, number, called, connection);
    let link = Rc::new(link);
    let running = Rc::clone(&link);
    tokio::task::spawn_local(async move {
        let (sink, stream) = socket.split();
        tokio::select! {
            () = read(&running, stream, take) => {}
            () = write(&running, sink, out_rx) => {}
            () = running.closed() => {}
            () = running.queued.overflowed() => {
                tracing::error!(peer = %running.peer, "dropping the link: it does not read the answers of this node's volume");
            }
        }
        // Closes the connection, so that the peer notices.
        running.connection.take();
        running.close();
        tracing::debug!(peer = %running.peer, strays = running.streams.strays(), "a link ended");
        end(&running);
    });
    link
}

async fn read(
    link: &Rc<Link>,
    mut socket: impl Stream<Item = Result<Message, Error>> + Unpin,
    take: impl Fn(&Rc<Link>, Frame),
) {
    let (mut assembler, mut silence) = (Assembler::default(), Silence::default());
    loop {
        let message = match tokio::time::timeout(TICK, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return,
            Err(_) => match silence.tick(link.has_walks(), || link.moved()) {
                Verdict::Dead => {
                    tracing::warn!(peer = %link.peer, "dropping the link: it does not answer pings");
                    return;
                }
                Verdict::Ask => {
                    link.send(Kind::Ping, 0, Vec::new());
                    continue;
                }
                Verdict::Wait => continue,
            },
        };
        silence.heard();
        match message {
            Message::Binary(bytes) => {
                if let Err(error) = take_message(link, &mut assembler, bytes, &take) {
                    tracing::error!(peer = %link.peer, %error, "dropping the link");
                    return;
                }
            }
            Message::Close(_) => return,
            _ => {}
        }
    }
}

/// Tracks the silence of the peer.
#[derive(Debug, Default)]
struct Silence {
    /// Ticks since the last message, or since the last ping of a link without walks.
    ticks: u32,
    /// Unanswered pings.
    pings: u32,
    /// What the kernels had moved at the last tick.
    moved: Option<Moved>,
}

/// What to do at a tick.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Ask,
    Dead,
}

impl Silence {
    fn heard(&mut self) {
        (self.ticks, self.pings) = (0, 0);
    }

    /// Counts a tick. Only an agent that owes an answer is dead: during a bulk transfer, a pong waits behind data
    /// on either side.
    fn tick(&mut self, has_walks: bool, moved: impl FnOnce() -> Option<Moved>) -> Verdict {
        self.ticks += 1;
        if !has_walks && self.ticks < IDLE_TICKS {
            return Verdict::Wait;
        }
        self.ticks = 0;
        let moved = moved();
        let is_moving = moved.is_some_and(|moved| moved.since(self.moved));
        self.moved = moved;
        if is_moving {
            self.pings = 0;
        }
        if self.pings >= DEAD_AFTER {
            return Verdict::Dead;
        }
        self.pings += 1;
        Verdict::Ask
    }
}

/// Answers pings, and passes on all other frames of a message.
fn take_message(
    link: &Rc<Link>,
    assembler: &mut Assembler,
    bytes: Bytes,
    take: &impl Fn(&Rc<Link>, Frame),
) -> Result<(), FrameError> {
    link.bytes_in.set(link.bytes_in.get() + bytes.len() as u64);
    for frame in assembler.frames(bytes)? {
        match frame.kind {
            Kind::Ping if link.pong_waits.replace(true) => {}
            Kind::Ping => link.send(Kind::Pong, 0, Vec::new()),
            Kind::Pong => link.answered.notify_waiters(),
            _ => take(link, frame),
        }
    }
    Ok(())
}

async fn write(
    link: &Link,
    mut socket: impl Sink<Message> + Unpin,
    mut out_rx: mpsc::UnboundedReceiver<Frame>,
) {
    while let Some(frame) = out_rx.recv().await {
        let mut next = Some(frame);
        while let Some(frame) = next {
            // Waiting frames go into the same message, such as a short walk's output and its exit.
            let mut message = Vec::with_capacity(frame.payload.len() + 64);
            link.note_sent(&frame);
            frame.encode(&mut message);
            next = None;
            while let Ok(frame) = out_rx.try_recv() {
                if message.len() + frame.payload.len() > MESSAGE_BYTES_TARGET {
                    next = Some(frame);
                    break;
                }
                link.note_sent(&frame);
                frame.encode(&mut message);
            }
            link.bytes_out.set(link.bytes_out.get() + message.len() as u64);
            for part in parts(message, PART_BYTES_MAX) {
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

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
    use tokio_tungstenite::WebSocketStream;
    use worknode::key::SecretKey;

    use super::*;
    use crate::link::socket;
    use crate::tls::{Identity, Use, nameless};
    use crate::wire::limits::{CLAIMS_MAX, EXITS_MAX, FETCHES_MAX, VERSION};
    use crate::wire::message::Exit;

    #[test]
    fn an_agent_that_owes_an_answer_is_given_up() {
        use Verdict::{Ask, Dead, Wait};
        let moved = |acknowledged, waits, hears| Some(Moved { acknowledged, waits, hears });
        let ticks = |has_walks, states: &[Option<Moved>]| {
            let mut silence = Silence::default();
            states.iter().map(|state| silence.tick(has_walks, || *state)).collect::<Vec<_>>()
        };
        let still = moved(7, false, false);
        assert_eq!(ticks(true, &[still; 4]), [Ask, Ask, Ask, Dead]);
        assert_eq!(ticks(true, &[None; 4]), [Ask, Ask, Ask, Dead]);
        // Its kernel takes nothing any more.
        assert_eq!(ticks(true, &[moved(7, true, false); 4]), [Ask, Ask, Ask, Dead]);
        // Long messages are under way, out and in.
        let out: Vec<_> = (0..9).map(|bytes| moved(bytes, true, false)).collect();
        assert_eq!(ticks(true, &out), [(); 9].map(|()| Ask));
        assert_eq!(ticks(true, &[moved(7, false, true); 9]), [(); 9].map(|()| Ask));
        assert_eq!(ticks(false, &[still; 6]), [Wait, Wait, Wait, Wait, Ask, Wait]);
        assert_eq!(ticks(false, &[still; 20]).last(), Some(&Dead));
    }

    #[test]
    fn requests_for_packets_count_until_their_answers_are_sent() {
        let node = "n2".parse().expect("a name");
        let peer = Peer { node, incarnation: 1, key: None, speaks: VERSION };
        let (link, _out_rx) = Link::new(peer, 1, false, None);
        let sent = |kind| link.note_sent(&Frame { kind, stream: 1, payload: Bytes::new() });
        assert!((0..FETCHES_MAX).all(|_| link.note_fetch()));
        assert!((0..CLAIMS_MAX).all(|_| link.note_claim()));
        assert!(!link.note_fetch() && !link.note_claim());
        [Kind::Fetched, Kind::Probed, Kind::Given, Kind::Given].into_iter().for_each(sent);
        assert!(link.note_fetch() && link.note_claim());
    }

    /// Makes a link whose other side, which is also returned, reads nothing after the handshake.
    async fn unread() -> (Rc<Link>, impl Sized) {
        use tokio_tungstenite::tungstenite::protocol::Role;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (ours, theirs) = tokio::join!(listener.accept(), TcpStream::connect(address));
        let ours = socket::prepare(ours.expect("a caller").0).expect("a connection");
        let [us, them] = [1, 2].map(|number| SecretKey::from_seed(&[number; 32]));
        let identity = |secret| Identity::new(secret).expect("a key");
        let call = identity(&them).caller(us.key(), Use::Link);
        let (ours, theirs) = tokio::join!(
            TlsAcceptor::from(identity(&us).answerer()).accept(ours),
            TlsConnector::from(call).connect(nameless(), theirs.expect("a listener")),
        );
        let ours = TlsStream::Server(ours.expect("greeted"));
        let config = Some(socket::config());
        let socket = WebSocketStream::from_raw_socket(ours, Role::Server, config).await;
        let node = "n2".parse().expect("a name");
        let peer = Peer { node, incarnation: 1, key: None, speaks: VERSION };
        (start(socket, peer, 1, false, |_, _| {}, |_| {}), theirs)
    }

    fn runtime() -> tokio::runtime::LocalRuntime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default())
            .expect("a runtime")
    }

    #[test]
    fn a_link_ends_whose_other_side_does_not_read_what_volumes_say() {
        runtime().block_on(async {
            let (link, _theirs) = unread().await;
            let outbox = link.outbox();
            let answer = Bytes::from(vec![0; 1000]);
            // Its kernel takes some of it.
            while !link.is_closed() {
                for _ in 0..1000 {
                    outbox.send(Kind::Locks, answer.clone());
                }
                tokio::task::yield_now().await;
            }
        });
    }

    #[test]
    fn unread_exits_are_bounded() {
        use worknode::spec::{Fault, Outcome};
        runtime().block_on(async {
            let (link, _theirs) = unread().await;
            let exit = Exit {
                outcome: Outcome::Fault(Fault::Busy),
                changes: Default::default(),
                offsets: Vec::new(),
                doubt: None,
            };
            // The writer does not run in between.
            let sent = (0..2 * EXITS_MAX).take_while(|_| link.send_exit(1, &exit)).count();
            assert_eq!(sent, EXITS_MAX);
            while link.exits.get() > 0 {
                tokio::task::yield_now().await;
            }
            assert!(link.send_exit(1, &exit));
        });
    }
}
