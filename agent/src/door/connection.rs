//! A connection of the door: reads and writes frames.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use bytes::Bytes;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};
use tokio::io::unix::AsyncFd;
use worknode::door::{HEADER_BYTES, Header, Kind};

use super::guests::Room;
use crate::sys::process::{self, Namespace};
use crate::sys::{peer, watch};

/// Initial read size, which exceeds most hellos …
const READ_BYTES: usize = 8 * 1024;
/// … and the largest, for longer frames. It is bounded because the buffer is zeroed before each read.
const READ_BYTES_MAX: usize = 64 * 1024;

/// The reading half.
#[derive(Debug)]
pub(crate) struct Reader {
    socket: Rc<AsyncFd<UnixStream>>,
    /// Bytes of an incomplete frame.
    read: Vec<u8>,
    /// Memory for the longest frame so far, whose content lives on in the walk.
    room: Room,
}

/// The process that has connected.
#[derive(Debug)]
pub(crate) struct Caller(Rc<AsyncFd<UnixStream>>);

impl Caller {
    /// Tells whether a pid is its still, and whether it acts for the same user, so that what was read of that pid holds of it.
    pub(crate) fn is_still(&self, pid: u32, uid: u32) -> bool {
        peer::lives(self.0.get_ref()) && process::user(pid) == Some(uid)
    }

    /// Returns its mount namespace; none if it cannot be told.
    pub(crate) fn mount_namespace(&self, pid: u32) -> Option<Namespace> {
        let namespace = process::mount_namespace(pid)?;
        peer::lives(self.0.get_ref()).then_some(namespace)
    }
}

/// The writing half.
#[derive(Debug)]
pub(crate) struct Writer {
    socket: Rc<AsyncFd<UnixStream>>,
    /// Registered for writability once the socket buffer was full for the first time.
    room: Option<AsyncFd<UnixStream>>,
}

/// Waits for the next connection.
///
/// # Errors
/// Most likely the process has no descriptor left.
pub(crate) async fn accept(door: &AsyncFd<UnixListener>) -> io::Result<UnixStream> {
    loop {
        let mut ready = door.readable().await?;
        if let Ok(accepted) = ready.try_io(|door| door.get_ref().accept()) {
            return Ok(accepted?.0);
        }
    }
}

/// Splits a connection. It is registered for readability only: a unix socket reports writability after each frame that
/// the peer has read, which would wake the agent for nothing.
///
/// # Errors
/// The runtime refuses the descriptor.
pub(crate) fn split(stream: UnixStream, room: Room) -> io::Result<(Reader, Writer)> {
    let socket = Rc::new(watch::readable(stream)?);
    let reader = Reader { socket: Rc::clone(&socket), read: Vec::new(), room };
    Ok((reader, Writer { socket, room: None }))
}

impl Reader {
    pub(crate) fn caller(&self) -> Caller {
        Caller(Rc::clone(&self.socket))
    }

    /// Returns the next frame, or `None` at the end, or if the frame is malformed, longer than `bytes_max`, or takes more
    /// memory than there is for the user.
    pub(crate) async fn next(&mut self, bytes_max: usize) -> Option<(Header, Vec<u8>)> {
        self.fill(HEADER_BYTES).await?;
        let header = Header::decode(*self.read.first_chunk()?)?;
        let length = header.payload_bytes as usize;
        if length > bytes_max {
            return None;
        }
        let end = HEADER_BYTES + length;
        self.fill(end).await?;
        let rest = self.read.split_off(end);
        let mut frame = std::mem::replace(&mut self.read, rest);
        frame.drain(..HEADER_BYTES);
        Some((header, frame))
    }

    /// Reads until so many bytes are buffered. Returns `None` at the end.
    async fn fill(&mut self, bytes: usize) -> Option<()> {
        while self.read.len() < bytes {
            let mut ready = self.socket.readable().await.ok()?;
            let had = self.read.len();
            let wanted = had + (bytes - had).clamp(READ_BYTES, READ_BYTES_MAX);
            if !self.room.reach(wanted) {
                return None;
            }
            self.read.resize(wanted, 0);
            let room = &mut self.read[had..];
            let wanted = room.len();
            let received = recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT);
            self.read.truncate(had + received.unwrap_or(0));
            match received {
                Ok(0) => return None,
                // A short read means that the socket is drained; later data causes a new event.
                Ok(count) if count < wanted => ready.clear_ready(),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => ready.clear_ready(),
                Err(_) => return None,
            }
        }
        Some(())
    }
}

impl Writer {
    /// Sends a frame. Returns whether the peer is still connected.
    pub(crate) async fn send(&mut self, kind: Kind, fd: u16, payload: &[u8]) -> bool {
        let header = header(kind, fd, payload);
        self.write(&mut [IoSlice::new(&header), IoSlice::new(payload)]).await.is_ok()
    }

    /// Sends an empty frame with a descriptor. Nothing else may be on its way. Returns whether the peer is still connected.
    pub(crate) fn send_descriptor(&mut self, kind: Kind, descriptor: &impl AsFd) -> bool {
        let header = header(kind, 0, b"");
        let (flags, rights) =
            (MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL, [descriptor.as_fd().as_raw_fd()]);
        let (parts, rights) = ([IoSlice::new(&header)], [ControlMessage::ScmRights(&rights)]);
        // An empty socket has room for it.
        sendmsg(self.socket.as_raw_fd(), &parts, &rights, flags, None::<&()>) == Ok(HEADER_BYTES)
    }

    /// Sends frames in one write, so that the peer is woken only once.
    pub(crate) async fn send_all(&mut self, frames: &[(Kind, u16, Bytes)]) -> bool {
        let headers: Vec<_> =
            frames.iter().map(|(kind, fd, payload)| header(*kind, *fd, payload)).collect();
        let pairs = headers.iter().zip(frames);
        let parts = pairs.flat_map(|(header, (_, _, payload))| [header.as_slice(), payload]);
        self.write(&mut parts.map(IoSlice::new).collect::<Vec<_>>()).await.is_ok()
    }

    async fn write(&mut self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        while parts.iter().any(|part| !part.is_empty()) {
            let sent = match send_now(self.socket.get_ref(), parts) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.send_when_there_is_room(parts).await?
                }
                sent => sent?,
            };
            IoSlice::advance_slices(&mut parts, sent);
        }
        Ok(())
    }

    async fn send_when_there_is_room(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let room = match &mut self.room {
            Some(room) => room,
            none => none.insert(watch::writable(self.socket.get_ref().try_clone()?)?),
        };
        loop {
            let mut ready = room.writable().await?;
            if let Ok(sent) = ready.try_io(|room| send_now(room.get_ref(), parts)) {
                return sent;
            }
        }
    }
}

fn header(kind: Kind, fd: u16, payload: &[u8]) -> [u8; HEADER_BYTES] {
    let payload_bytes = u32::try_from(payload.len()).expect("frames are far below 4 GiB");
    Header { kind, fd, payload_bytes }.encode()
}

/// Sends as much as fits into the socket buffer.
fn send_now(socket: &UnixStream, parts: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match sendmsg(socket.as_raw_fd(), parts, &[], flags, None::<&()>) {
            Err(Errno::EINTR) => {}
            sent => return Ok(sent?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::runtime::{Builder, LocalOptions};
    use worknode::door::HELLO_BYTES_MAX;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        runtime.expect("a runtime").block_on(test);
    }

    fn frame(kind: Kind, fd: u16, payload: &[u8]) -> Vec<u8> {
        let payload_bytes = u32::try_from(payload.len()).expect("it is short");
        [&Header { kind, fd, payload_bytes }.encode()[..], payload].concat()
    }

    #[test]
    fn frames_are_read_in_any_fragmentation() {
        run(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (mut reader, _writer) = split(ours, Room::with(1 << 30)).expect("a connection");
            let long = vec![7; 3 * READ_BYTES_MAX + 5];
            let all = [
                frame(Kind::Data, 1, b"abc"),
                frame(Kind::Eof, 1, b""),
                frame(Kind::Data, 2, &long),
                frame(Kind::Ready, 3, b"x"),
            ]
            .concat();
            let sender = std::thread::spawn(move || {
                for piece in all.chunks(1000) {
                    theirs.write_all(piece).expect("somebody reads");
                }
                // Followed by a truncated frame.
                theirs.write_all(&frame(Kind::Data, 1, b"cut off")[..10]).expect("somebody reads");
            });
            let mut seen = Vec::new();
            while let Some((header, payload)) = reader.next(HELLO_BYTES_MAX).await {
                seen.push((header.kind, header.fd, payload));
            }
            sender.join().expect("the sender ends");
            let expected = [
                (Kind::Data, 1, b"abc".to_vec()),
                (Kind::Eof, 1, Vec::new()),
                (Kind::Data, 2, long),
                (Kind::Ready, 3, b"x".to_vec()),
            ];
            assert!(seen == expected, "{} frames", seen.len());
        });
    }

    #[test]
    fn a_frame_takes_memory_as_it_arrives() {
        run(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (mut reader, _writer) = split(ours, Room::with(1 << 20)).expect("a connection");
            let sender = std::thread::spawn(move || {
                let long = frame(Kind::Hello, 0, &vec![7; 4 << 20]);
                theirs.write_all(&long).is_err()
            });
            assert!(reader.next(HELLO_BYTES_MAX).await.is_none());
            drop((reader, _writer));
            assert!(sender.join().expect("it ends"), "nobody reads the rest");
        });
    }

    #[test]
    fn frames_that_are_too_long_are_refused() {
        run(async {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let (mut reader, _writer) = split(ours, Room::with(1 << 30)).expect("a connection");
            theirs.write_all(&frame(Kind::Data, 1, &[7; 100])).expect("there is room");
            theirs.write_all(&frame(Kind::Data, 1, &[7; 101])).expect("there is room");
            assert!(reader.next(100).await.is_some());
            assert!(reader.next(100).await.is_none());
        });
    }

    #[test]
    fn a_writer_waits_for_room() {
        run(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let (reader, mut writer) = split(ours, Room::with(1 << 30)).expect("a connection");
            let (begin_tx, begin_rx) = std::sync::mpsc::channel();
            let other = std::thread::spawn(move || {
                begin_rx.recv().expect("the writer is full, or has ended");
                let mut bytes = Vec::new();
                io::Read::read_to_end(&mut &theirs, &mut bytes).expect("it is a socket");
                bytes
            });
            let payload: Vec<u8> = (0..=250).cycle().take(2_000_000).collect();
            let mut sending = Box::pin(writer.send(Kind::Data, 1, &payload));
            let begin = std::future::poll_fn(|context| {
                // The kernel accepts only part of it.
                assert!(sending.as_mut().poll(context).is_pending(), "it has room");
                std::task::Poll::Ready(())
            });
            begin.await;
            begin_tx.send(()).expect("the reader waits");
            assert!(sending.await, "somebody reads");
            drop((reader, writer));
            assert!(other.join().expect("the reader ends") == frame(Kind::Data, 1, &payload));
        });
    }

    #[test]
    fn a_disconnected_peer_is_detected() {
        run(async {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let (mut reader, mut writer) = split(ours, Room::with(1 << 30)).expect("a connection");
            drop(theirs);
            assert!(reader.next(HELLO_BYTES_MAX).await.is_none());
            assert!(!writer.send(Kind::Exit, 0, &[0; 4]).await);
        });
    }
}
