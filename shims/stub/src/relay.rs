//! The time of the walk: signals and input go to the agent, output comes from it, until it says how
//! the walk ended.

use worknode::door::{DATA_BYTES_MAX, Header, Kind};

use crate::door::{self, Inbox, Lost};
use crate::output;
use crate::signals::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH, Signals};
use crate::sys::{self, POLLIN, POLLOUT, PollFd};

/// Descriptors that the agent may want to read at a time.
const WANTS_MAX: usize = 64;
/// What a pipe or terminal that is ready takes without blocking (`PIPE_BUF`).
const READY_BYTES: usize = 4096;
/// So often a user asks a program to end before he means the stub, if the agent is silent …
const PATIENCE_SIGNALS: u32 = 3;
/// … for so long.
const PATIENCE_SECONDS: u64 = 3;

/// How the walk ended for the stub.
#[derive(Debug)]
pub(crate) enum End {
    /// With this wait status.
    Exit(i32),
    /// By the user, who was tired of an agent that did not answer.
    Killed(u32),
    /// The program is to be run here.
    Here,
    /// Not at all, and the agent's reason was shown.
    Refused,
    /// The agent is gone.
    Lost,
}

impl From<Lost> for End {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

#[derive(Debug, Clone, Copy)]
struct Want {
    fd: u16,
    bytes: usize,
}

/// The connection during a walk.
#[derive(Debug)]
pub(crate) struct Relay<'s> {
    door: i32,
    signals: &'s mut Signals,
    data: &'s mut [u8],
    wants: [Want; WANTS_MAX],
    want_count: usize,
    /// Whether input was taken or output given, so that the program cannot start over.
    touched: bool,
    asked_to_end: u32,
    asked_since: u64,
}

impl<'s> Relay<'s> {
    pub(crate) fn new(door: i32, signals: &'s mut Signals, data: &'s mut [u8]) -> Self {
        let wants = [Want { fd: 0, bytes: 0 }; WANTS_MAX];
        let (want_count, touched, asked_to_end, asked_since) = (0, false, 0, 0);
        Self { door, signals, data, wants, want_count, touched, asked_to_end, asked_since }
    }

    /// Relays until the end; also tells whether the program could still start over.
    pub(crate) fn run(mut self, inbox: &mut [u8]) -> (End, bool) {
        let mut inbox = Inbox::new(inbox);
        loop {
            if let Err(end) = self.turn(&mut inbox) {
                return (end, !self.touched);
            }
        }
    }

    fn turn(&mut self, inbox: &mut Inbox<'_>) -> Result<(), End> {
        while let Some((header, payload)) = inbox.next()? {
            self.asked_to_end = 0;
            self.obey(header, payload)?;
        }
        let mut fds = [PollFd { fd: -1, events: POLLIN, ready: 0 }; 2 + WANTS_MAX];
        fds[0].fd = self.door;
        fds[1].fd = self.signals.descriptor();
        for (slot, want) in fds[2..].iter_mut().zip(&self.wants[..self.want_count]) {
            slot.fd = i32::from(want.fd);
        }
        if sys::poll(&mut fds[..2 + self.want_count]).is_err() {
            return Ok(());
        }
        if fds[1].ready != 0 {
            self.forward_signals()?;
        }
        // Backwards, because a want that is served leaves the list.
        for index in (0..self.want_count).rev() {
            if fds[2 + index].ready != 0 {
                self.serve(index)?;
            }
        }
        if fds[0].ready != 0 {
            inbox.fill(self.door)?;
        }
        Ok(())
    }

    fn obey(&mut self, header: Header, payload: &[u8]) -> Result<(), End> {
        match header.kind {
            Kind::Data => self.put(header.fd, payload),
            Kind::Want => self.want(header.fd, number(payload)?),
            Kind::Close => {
                self.touched = true;
                self.forget(header.fd);
                sys::close(i32::from(header.fd));
                Ok(())
            }
            Kind::Seek => {
                let offset = payload.first_chunk().map(|word| u64::from_le_bytes(*word));
                sys::seek(i32::from(header.fd), offset.ok_or(Lost)?);
                Ok(())
            }
            Kind::Exit => Err(End::Exit(number(payload)?.cast_signed())),
            Kind::RunHere => Err(End::Here),
            Kind::Refused | Kind::Failed => {
                output::complain(&[payload.strip_suffix(b"\n").unwrap_or(payload)]);
                Err(End::Refused)
            }
            _ => Err(End::Lost),
        }
    }

    fn want(&mut self, fd: u16, bytes: u32) -> Result<(), End> {
        self.forget(fd);
        let bytes = usize::try_from(bytes).unwrap_or(DATA_BYTES_MAX).min(DATA_BYTES_MAX);
        if bytes > 0 {
            *self.wants.get_mut(self.want_count).ok_or(End::Lost)? = Want { fd, bytes };
            self.want_count += 1;
        }
        Ok(())
    }

    fn forget(&mut self, fd: u16) {
        let wants = &mut self.wants[..self.want_count];
        if let Some(index) = wants.iter().position(|want| want.fd == fd) {
            wants.swap(index, wants.len() - 1);
            self.want_count -= 1;
        }
    }

    /// Reads what the agent wants of a descriptor that is ready.
    fn serve(&mut self, index: usize) -> Result<(), End> {
        let Want { fd, bytes } = self.wants[index];
        match sys::read(i32::from(fd), &mut self.data[..bytes]) {
            Err(sys::EAGAIN | sys::EINTR) => return Ok(()),
            Ok(length @ 1..) => {
                self.touched = true;
                self.tell(Kind::Data, fd, &self.data[..length]);
            }
            // A descriptor that cannot be read, such as a terminal that hung up, has no more.
            Ok(0) | Err(_) => self.tell(Kind::Eof, fd, b""),
        }
        self.forget(fd);
        Ok(())
    }

    /// Writes what the walk wrote.
    fn put(&mut self, fd: u16, mut bytes: &[u8]) -> Result<(), End> {
        self.touched = true;
        let written = u32::try_from(bytes.len()).unwrap_or(0).to_le_bytes();
        let at_once = if sys::is_regular(i32::from(fd)) { DATA_BYTES_MAX } else { READY_BYTES };
        while !bytes.is_empty() {
            self.wait_for_room(i32::from(fd))?;
            match sys::write(i32::from(fd), &bytes[..bytes.len().min(at_once)]) {
                Ok(length) => bytes = &bytes[length..],
                Err(sys::EINTR | sys::EAGAIN) => {}
                Err(_) => {
                    self.tell(Kind::Broken, fd, b"");
                    return Ok(());
                }
            }
        }
        self.tell(Kind::Written, fd, &written);
        Ok(())
    }

    /// Waits until a write will not block, and forwards signals meanwhile: whoever reads may never
    /// do so again, and the user must be able to end the program.
    fn wait_for_room(&mut self, fd: i32) -> Result<(), End> {
        loop {
            let mut fds = [
                PollFd { fd, events: POLLOUT, ready: 0 },
                PollFd { fd: self.signals.descriptor(), events: POLLIN, ready: 0 },
                // Its hang-up alone is of interest.
                PollFd { fd: self.door, events: 0, ready: 0 },
            ];
            if sys::poll(&mut fds).is_err() {
                continue;
            }
            if fds[1].ready != 0 {
                self.forward_signals()?;
            }
            if fds[0].ready != 0 {
                return Ok(());
            }
            if fds[2].ready != 0 {
                return Err(End::Lost);
            }
        }
    }

    fn forward_signals(&mut self) -> Result<(), End> {
        while let Some(signal) = self.signals.next() {
            if signal == SIGWINCH {
                self.send_window()?;
            }
            self.tell(Kind::Signal, 0, &signal.to_le_bytes());
            self.lose_patience(signal)?;
        }
        Ok(())
    }

    /// Tells the agent. That it hears nothing any more is no end: its last frames, the exit among
    /// them, may lie in the inbox.
    fn tell(&self, kind: Kind, fd: u16, payload: &[u8]) {
        let _ = door::send(self.door, kind, fd, payload);
    }

    fn send_window(&self) -> Result<(), End> {
        if let Some((fd, size)) = (0..3).find_map(|fd| Some((fd, sys::window(i32::from(fd))?))) {
            let mut payload = [0; 8];
            let words = payload.chunks_exact_mut(2).zip(size);
            words.for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
            self.tell(Kind::Resize, fd, &payload);
        }
        Ok(())
    }

    /// An agent that does not answer must not keep the user from ending his program.
    fn lose_patience(&mut self, signal: u32) -> Result<(), End> {
        if !matches!(signal, SIGHUP | SIGINT | SIGQUIT | SIGTERM) {
            return Ok(());
        }
        let now = sys::seconds();
        if self.asked_to_end == 0 {
            self.asked_since = now;
        }
        self.asked_to_end += 1;
        let long = now.saturating_sub(self.asked_since) >= PATIENCE_SECONDS;
        if self.asked_to_end >= PATIENCE_SIGNALS && long {
            Err(End::Killed(signal))
        } else {
            Ok(())
        }
    }
}

fn number(payload: &[u8]) -> Result<u32, Lost> {
    payload.first_chunk().map(|word| u32::from_le_bytes(*word)).ok_or(Lost)
}
