//! Relays during the walk: signals and input go to the agent, output comes from it, until it says how
//! the walk ended.

use worknode::door::{
    Header, Here, Kind, Settings, Signal, Termios, decode_number, decode_offset, decode_status,
    encode_window,
};

use crate::door::{self, Inbox, Lost};
use crate::input::{Input, WANTS_MAX};
use crate::output;
use crate::signals::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH, Signals};
use crate::sys::{self, POLLIN, POLLOUT, PollFd, Sort};

/// Bytes that a ready pipe or terminal accepts without blocking (`PIPE_BUF`).
const READY_BYTES: usize = 4096;
/// If the agent is silent, this many signals that ask the program to end …
const PATIENCE_SIGNALS: u32 = 3;
/// … over at least this time end the stub itself.
const PATIENCE_SECONDS: u64 = 3;

/// How the relay ended.
#[derive(Debug)]
pub(crate) enum End {
    /// The walk ended with this wait status.
    Exit(i32),
    /// The user sent this signal repeatedly, and the agent did not answer.
    Killed(u32),
    /// The program is to run here; if `alone`, together with everything it executes.
    Here { alone: bool },
    /// The agent refused the walk, and its reason was printed.
    Refused,
    /// The agent is gone.
    Lost,
}

impl From<Lost> for End {
    fn from(_: Lost) -> Self {
        Self::Lost
    }
}

/// The descriptor that was written to last.
#[derive(Debug, Clone, Copy)]
struct Sink {
    fd: u16,
    sort: Sort,
    /// Bytes written that were not acknowledged to the agent yet.
    written: u32,
}

/// The connection during a walk.
#[derive(Debug)]
pub(crate) struct Relay<'s> {
    door: i32,
    signals: &'s mut Signals,
    data: &'s mut [u8],
    input: Input,
    /// Whether input was consumed or output written, so that the program cannot start over.
    touched: bool,
    /// The terminal whose settings the walk changed, and its settings before.
    settings: Option<(u16, Termios)>,
    /// Whether the kernel supports non-blocking writes to pipes.
    pushes: bool,
    sink: Option<Sink>,
    asked_to_end: u32,
    asked_since: u64,
}

impl<'s> Relay<'s> {
    pub(crate) fn new(door: i32, signals: &'s mut Signals, data: &'s mut [u8]) -> Self {
        Self {
            door,
            signals,
            data,
            input: Input::new(),
            touched: false,
            settings: None,
            pushes: true,
            sink: None,
            asked_to_end: 0,
            asked_since: 0,
        }
    }

    /// Relays until the end; also returns whether the program can still start over.
    pub(crate) fn run(mut self, inbox: &mut [u8]) -> (End, bool) {
        let mut inbox = Inbox::new(inbox);
        loop {
            if let Err(end) = self.turn(&mut inbox) {
                self.restore_settings(&end);
                return (end, !self.touched);
            }
        }
    }

    fn turn(&mut self, inbox: &mut Inbox<'_>) -> Result<(), End> {
        while let Some((header, payload)) = inbox.next()? {
            self.asked_to_end = 0;
            self.obey(header, payload)?;
        }
        self.tell_written();
        let mut fds = [PollFd { fd: -1, events: POLLIN, ready: 0 }; 2 + WANTS_MAX];
        fds[0].fd = self.door;
        fds[1].fd = self.signals.descriptor();
        let wanted = self.input.count();
        fds[2..].iter_mut().zip(self.input.descriptors()).for_each(|(slot, fd)| slot.fd = fd);
        if sys::poll(&mut fds[..2 + wanted]).is_err() {
            return Ok(());
        }
        if fds[1].ready != 0 {
            self.forward_signals()?;
        }
        // Backwards, because a want that is served is removed from the list.
        for index in (0..wanted).rev() {
            if fds[2 + index].ready != 0 {
                self.touched |= self.input.serve(index, self.door, self.data);
            }
        }
        if fds[0].ready != 0 {
            inbox.fill(self.door)?;
        }
        Ok(())
    }

    fn obey(&mut self, header: Header, payload: &[u8]) -> Result<(), End> {
        if header.kind != Kind::Data {
            // The frame may rewind the walk, or close the descriptor that was written to.
            self.tell_written();
            self.sink = None;
        }
        match header.kind {
            Kind::Data => self.put(header.fd, payload),
            Kind::Want => self.input.want(header.fd, number(payload)?).ok_or(End::Lost),
            Kind::Took => {
                self.touched = true;
                Input::take(header.fd, number(payload)?, self.data);
                Ok(())
            }
            Kind::Rewind => {
                self.input.clear();
                self.tell(Kind::Rewind, 0, b"");
                Ok(())
            }
            Kind::Close => {
                self.touched = true;
                self.input.forget(header.fd);
                sys::close(i32::from(header.fd));
                Ok(())
            }
            Kind::Settings => {
                let fd = i32::from(header.fd);
                let before = sys::settings(fd).map(|before| (header.fd, before));
                self.settings = self.settings.or(before);
                let settings = Settings::decode(payload).ok_or(Lost)?;
                sys::set_settings(fd, settings.termios);
                if settings.flushed {
                    sys::discard_input(fd);
                }
                Ok(())
            }
            Kind::Stopped => {
                self.stop(number(payload)?);
                Ok(())
            }
            Kind::Seek => {
                sys::seek(i32::from(header.fd), decode_offset(payload).ok_or(Lost)?);
                Ok(())
            }
            Kind::Exit => Err(End::Exit(decode_status(payload).ok_or(Lost)?)),
            Kind::RunHere => {
                let here = Here::decode(payload).ok_or(Lost)?;
                Err(End::Here { alone: here.alone })
            }
            Kind::Refused | Kind::Failed => {
                output::complain(&[payload.strip_suffix(b"\n").unwrap_or(payload)]);
                Err(End::Refused)
            }
            _ => Err(End::Lost),
        }
    }

    /// Stops this process, as the walk has stopped, so that the shell sees it. Returns when the shell
    /// continues it.
    fn stop(&mut self, signal: u32) {
        self.signals.stop_by(signal);
        // The walk sees what the shell changed in the terminal meanwhile.
        if let Some((fd, settings)) = terminal(sys::settings) {
            self.tell(Kind::Settings, fd, &settings);
        }
        self.send_window();
        self.forward(SIGCONT, false);
    }

    /// Restores the terminal, unless the walk exited: a walk that was lost cannot do so itself.
    fn restore_settings(&self, end: &End) {
        if let (Some((fd, before)), false) = (self.settings, matches!(end, End::Exit(_))) {
            sys::set_settings(i32::from(fd), before);
        }
    }

    /// Writes output of the walk.
    fn put(&mut self, fd: u16, mut bytes: &[u8]) -> Result<(), End> {
        self.touched = true;
        let sort = match self.sink {
            Some(sink) if sink.fd == fd => sink.sort,
            _ => {
                self.tell_written();
                let sort = sys::sort(i32::from(fd));
                self.sink = Some(Sink { fd, sort, written: 0 });
                sort
            }
        };
        let written = u32::try_from(bytes.len()).unwrap_or(0);
        while !bytes.is_empty() {
            match self.write(i32::from(fd), sort, bytes)? {
                Ok(length) => bytes = &bytes[length..],
                Err(sys::EINTR | sys::EAGAIN) => {}
                Err(_) => {
                    self.tell(Kind::Broken, fd, b"");
                    return Ok(());
                }
            }
        }
        if let Some(sink) = &mut self.sink {
            sink.written += written;
        }
        Ok(())
    }

    /// Acknowledges written bytes to the agent, once for all data that arrived together.
    fn tell_written(&mut self) {
        if let Some(Sink { fd, written: written @ 1.., .. }) = self.sink {
            self.tell(Kind::Written, fd, &written.to_le_bytes());
            self.sink = self.sink.map(|sink| Sink { written: 0, ..sink });
        }
    }

    /// Writes a part of `bytes` that does not block for long. Setting `O_NONBLOCK` instead would affect
    /// every process that shares the descriptor.
    fn write(&mut self, fd: i32, sort: Sort, bytes: &[u8]) -> Result<Result<usize, i32>, End> {
        if sort == Sort::Pipe && self.pushes {
            match sys::push(fd, bytes) {
                Err(sys::EOPNOTSUPP | sys::ENOSYS) => self.pushes = false,
                Err(sys::EAGAIN) => {}
                written => return Ok(written),
            }
        }
        self.wait_for_room(fd)?;
        let at_once = if sort == Sort::Regular { bytes.len() } else { READY_BYTES };
        Ok(sys::write(fd, &bytes[..bytes.len().min(at_once)]))
    }

    /// Waits until a write will not block. Forwards signals meanwhile: the reader may never read again,
    /// and the user must be able to end the program.
    fn wait_for_room(&mut self, fd: i32) -> Result<(), End> {
        self.tell_written();
        loop {
            let mut fds = [
                PollFd { fd, events: POLLOUT, ready: 0 },
                PollFd { fd: self.signals.descriptor(), events: POLLIN, ready: 0 },
                // Only its hang-up matters here.
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
        while let Some((signal, from_terminal)) = self.signals.next() {
            if signal == SIGWINCH {
                self.send_window();
            }
            self.forward(signal, from_terminal);
            self.lose_patience(signal)?;
        }
        Ok(())
    }

    fn forward(&self, signal: u32, from_terminal: bool) {
        let signal = Signal { number: signal.cast_signed(), from_terminal };
        self.tell(Kind::Signal, 0, &signal.encode());
    }

    /// Sends a frame to the agent. An error is ignored: the agent's last frames, such as the exit, may
    /// still be in the inbox.
    fn tell(&self, kind: Kind, fd: u16, payload: &[u8]) {
        let _ = door::send(self.door, kind, fd, payload);
    }

    fn send_window(&self) {
        if let Some((fd, window)) = terminal(sys::window) {
            self.tell(Kind::Resize, fd, &encode_window(window));
        }
    }

    /// Ends the relay after repeated signals, so that the user can end a program whose agent hangs.
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

/// Queries the terminal behind the first standard descriptor that is one.
fn terminal<T>(ask: impl Fn(i32) -> Option<T>) -> Option<(u16, T)> {
    (0..3).find_map(|fd| Some((fd, ask(i32::from(fd))?)))
}

fn number(payload: &[u8]) -> Result<u32, Lost> {
    decode_number(payload).ok_or(Lost)
}
