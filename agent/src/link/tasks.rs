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
use super::socket::{MESSAGE_BYTES_TARGET, Socket};
use crate::wire::frame::{Assembler, Frame, FrameError, Kind, parts};
use crate::wire::limits::MESSAGE_BYTES_MAX;

/// Silence after which a link pings the peer's agent, and the number of unanswered pings after which it is
/// dropped. The kernels detect an unreachable machine themselves, sooner and at less cost.
const PING_EVERY: Duration = Duration::from_secs(5);
const DEAD_AFTER: u32 = 3;
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
    let connection = socket.get_ref().reader().as_fd().try_clone_to_owned().ok();
    let (link, out_rx) = Link::new(peer, number, called, connection);
    let link = Rc::new(link);
    let running = Rc::clone(&link);
    tokio::task::spawn_local(async move {
        let (sink, stream) = socket.split();
        tokio::select! {
            () = read(&running, stream, take) => {}
            () = write(&running, sink, out_rx) => {}
            () = running.closed() => {}
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
        let message = match tokio::time::timeout(PING_EVERY, socket.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(_)) | None) => return,
            Err(_) if silence.is_too_long(link) => {
                tracing::warn!(peer = %link.peer, "dropping the link: it does not answer pings");
                return;
            }
            Err(_) => {
                link.send(Kind::Ping, 0, Vec::new());
                continue;
            }
        };
        silence.pings = 0;
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
    /// Unanswered pings.
    pings: u32,
    /// Number of messages sent at the last check.
    sent: u64,
}

impl Silence {
    /// Counts a ping. Returns whether there were too many.
    fn is_too_long(&mut self, link: &Link) -> bool {
        // During a bulk transfer, a pong waits behind data on either side.
        let moving = std::mem::replace(&mut self.sent, link.messages_out.get()) != self.sent;
        self.pings = if moving { 0 } else { self.pings + 1 };
        self.pings > DEAD_AFTER
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

/// Returns false for ping and pong.
fn says_something(frame: &Frame) -> bool {
    !matches!(frame.kind, Kind::Ping | Kind::Pong)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_tungstenite::WebSocketStream;

    use super::*;
    use crate::link::socket;
    use crate::wire::limits::EXITS_MAX;
    use crate::wire::message::Exit;

    #[test]
    fn unread_exits_are_bounded() {
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
            let ours = socket::prepare(ours.expect("a caller").0).expect("a connection");
            let _theirs = theirs;
            let config = Some(socket::config());
            let socket = WebSocketStream::from_raw_socket(ours, Role::Server, config).await;
            let peer = Peer { node: "n2".parse().expect("a name"), incarnation: 1 };
            let link = start(socket, peer, 1, false, |_, _| {}, |_| {});
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
