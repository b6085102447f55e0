//! The terminal of a walk: connects the master of its pseudo-terminal with the real terminal at the origin,
//! which does line editing and echo. Input is requested only when a process of the walk waits for it.

use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc};
use worknode::door::{DATA_BYTES_MAX, Settings, Termios, Window};

use super::channel::Channel;
use super::output::Credit;
use crate::sys::orders::Order;
use crate::sys::terminal::{self, Packet};
use crate::wire::frame::Kind;

/// Bytes of input to request at once: the longest line of a terminal.
const LINE_BYTES: u32 = 4096;

/// Most bytes of requested input that may be outstanding. Each request replaces the previous one, which may have been
/// answered already.
const WANTED_BYTES_MAX: usize = 16 * LINE_BYTES as usize;
/// Most events that wait while the terminal's buffer is full. An honest origin only answers requests.
const EVENTS_MAX: usize = 1024;

/// An event for a terminal's input task.
#[derive(Debug)]
pub(super) enum Event {
    /// Typed bytes.
    Typed(Vec<u8>),
    /// A typed end of file.
    Ended,
    /// The terminal at the origin has input.
    Ready,
    /// Whether a process of the walk waits for input.
    Reading(bool),
}

/// Bytes that were requested and have not arrived.
#[derive(Debug, Default)]
struct Wanted(Cell<usize>);

impl Wanted {
    fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes).min(WANTED_BYTES_MAX));
    }

    /// Counts arrived bytes. Returns false if there are more than requested.
    fn take(&self, bytes: usize) -> bool {
        let left = self.0.get().checked_sub(bytes);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// A walk's terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    input: Channel,
    output: Channel,
    settings: Cell<Termios>,
    master: RefCell<Option<Rc<AsyncFd<OwnedFd>>>>,
    /// Tells the output task to close the master, because the terminal at the origin is gone.
    hung_up: Notify,
    events_tx: mpsc::Sender<Event>,
    events_rx: RefCell<Option<mpsc::Receiver<Event>>>,
    wanted: Wanted,
    pub(super) credit: Rc<Credit>,
    reads: bool,
}

impl Terminal {
    pub(super) fn new(input: Channel, output: Channel, settings: Termios, reads: bool) -> Rc<Self> {
        let (events_tx, events_rx) = mpsc::channel(EVENTS_MAX);
        Rc::new(Self {
            input,
            output,
            settings: Cell::new(settings),
            master: RefCell::default(),
            hung_up: Notify::new(),
            events_tx,
            events_rx: RefCell::new(Some(events_rx)),
            wanted: Wanted::default(),
            credit: Credit::new(),
            reads,
        })
    }

    /// Starts when the walk runs and has the slave. `order` reaches its first process, which checks whether the
    /// terminal is being read and answers with [`Event::Reading`]. Returns the input task, and the output task, which
    /// ends with the output.
    pub(super) fn start<W: Fn(Order) + 'static>(
        self: &Rc<Self>,
        master: OwnedFd,
        order: W,
    ) -> std::io::Result<(impl Future<Output = ()> + use<W>, impl Future<Output = ()> + use<W>)>
    {
        let master = Rc::new(crate::sys::watch::both(master)?);
        self.master.replace(Some(Rc::clone(&master)));
        let input = Rc::clone(self).carry_input(Rc::clone(&master), order);
        Ok((input, Rc::clone(self).carry_output(master)))
    }

    /// Queues an event. Returns false if the origin sent more than was requested.
    pub(super) fn tell(&self, event: Event) -> bool {
        if let Event::Typed(bytes) = &event
            && !self.wanted.take(bytes.len())
        {
            return false;
        }
        // Without a receiver, nothing reads the terminal.
        !matches!(self.events_tx.try_send(event), Err(mpsc::error::TrySendError::Full(_)))
    }

    fn want(&self, bytes: u32) {
        self.wanted.add(bytes as usize);
        self.input.send(Kind::Credit, &bytes.to_le_bytes());
    }

    /// Applies settings that another process changed at the origin.
    pub(super) fn set_settings(&self, settings: Termios) {
        if let Some(master) = self.master.borrow().as_ref() {
            self.settings.set(settings);
            // Fails if the terminal is gone.
            let _ = terminal::set_settings(master.get_ref(), settings);
        }
    }

    pub(super) fn set_window(&self, window: Window) {
        if let Some(master) = self.master.borrow().as_ref() {
            let _ = terminal::set_window(master.get_ref(), window);
        }
    }

    async fn carry_input(
        self: Rc<Self>,
        master: Rc<AsyncFd<OwnedFd>>,
        order: impl Fn(Order) + 'static,
    ) {
        let (Some(mut events), true) = (self.events_rx.take(), self.reads) else { return };
        let want = |bytes| self.want(bytes);
        // Whether the origin has input that no process has waited for yet.
        let mut ready = false;
        order(Order::Watch);
        while let Some(event) = events.recv().await {
            let settings = self.settings.get();
            match event {
                Event::Reading(true) => {
                    ready = false;
                    want(LINE_BYTES);
                }
                Event::Reading(false) if ready => order(Order::Watch),
                Event::Reading(false) => want(0),
                Event::Ready => {
                    ready = true;
                    order(Order::Watch);
                }
                // The rest of a full answer.
                Event::Typed(bytes) if bytes.is_empty() => {}
                Event::Typed(bytes) => {
                    if write(&master, &bytes).await.is_err() {
                        return;
                    }
                    // A program in raw mode keeps reading.
                    if terminal::is_canonical(&settings) {
                        order(Order::Watch)
                    } else {
                        want(LINE_BYTES)
                    }
                }
                Event::Ended => {
                    let end = [terminal::eof_character(&settings)];
                    if !terminal::is_canonical(&settings) {
                        // In raw mode no character expresses end of file.
                        self.master.replace(None);
                        self.hung_up.notify_one();
                        return order(Order::HangUp);
                    }
                    if write(&master, &end).await.is_err() {
                        return;
                    }
                    order(Order::Watch);
                }
            }
        }
    }

    async fn carry_output(self: Rc<Self>, master: Rc<AsyncFd<OwnedFd>>) {
        let mut buffer = vec![0; 1 + DATA_BYTES_MAX];
        // A read may end between the two characters of a newline.
        let mut carriage_return = false;
        loop {
            let room = tokio::select! {
                room = self.credit.room() => room,
                () = self.hung_up.notified() => None,
            };
            let Some(room) = room else { return };
            if carriage_return {
                // Nothing follows it, so the program wrote it.
                match read_now(&master, &mut buffer[..=room.max(1)]) {
                    Ok(bytes) => {
                        self.take(&buffer[..bytes], &mut carriage_return);
                    }
                    Err(_) => {
                        carriage_return = false;
                        self.show(b"\r");
                    }
                }
                continue;
            }
            let ready = tokio::select! {
                ready = master.readable() => ready.ok(),
                () = self.hung_up.notified() => None,
            };
            let Some(mut ready) = ready else { return };
            match read_now(&master, &mut buffer[..=room]) {
                Ok(0) => return,
                Ok(bytes) => self.take(&buffer[..bytes], &mut carriage_return),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => ready.clear_ready(),
                // EIO: no process has the slave open any more.
                Err(_) => return,
            }
        }
    }

    fn take(&self, packet: &[u8], carriage_return: &mut bool) {
        let Some((&first, bytes)) = packet.split_first() else { return };
        match terminal::packet(first) {
            Packet::Output if terminal::returns_carriage(&self.settings.get()) => {
                let bytes = [&b"\r"[..usize::from(*carriage_return)], bytes].concat();
                let (shown, held) = without_returns(&bytes);
                *carriage_return = held;
                self.show(&shown);
            }
            Packet::Output => self.show(bytes),
            Packet::Changed { flushed } => self.tell_settings(flushed),
            Packet::Other => {}
        }
    }

    fn show(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.credit.spend(bytes.len());
            self.output.send(Kind::Data, bytes);
        }
    }

    fn tell_settings(&self, flushed: bool) {
        let master = self.master.borrow();
        let settings = master.as_ref().and_then(|m| terminal::settings(m.get_ref()).ok());
        if let Some(settings) = settings.filter(|&now| flushed || now != self.settings.get()) {
            self.settings.set(settings);
            self.input.send(Kind::Settings, &Settings { termios: settings, flushed }.encode());
        }
    }
}

/// Removes the carriage returns that the slave has put before newlines, because the terminal at the origin adds
/// them, too. Tells whether a final carriage return was withheld, as it may be one of them.
fn without_returns(bytes: &[u8]) -> (Vec<u8>, bool) {
    let mut shown = Vec::with_capacity(bytes.len());
    for (at, &byte) in bytes.iter().enumerate() {
        if byte != b'\r' || !matches!(bytes.get(at + 1), None | Some(b'\n')) {
            shown.push(byte);
        }
    }
    (shown, bytes.last() == Some(&b'\r'))
}

fn read_now(master: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> std::io::Result<usize> {
    Ok(nix::unistd::read(master.get_ref(), buffer)?)
}

async fn write(master: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = master.writable().await?;
        match ready.try_io(|master| Ok(nix::unistd::write(master.get_ref(), bytes)?)) {
            Ok(written) => bytes = &bytes[written?..],
            Err(_would_block) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrequested_input_is_refused() {
        let wanted = Wanted::default();
        assert!(wanted.take(0) && !wanted.take(1));
        wanted.add(4096);
        assert!(wanted.take(4000) && wanted.take(96) && !wanted.take(1));
        (0..1000).for_each(|_| wanted.add(4096));
        assert!(
            wanted.take(WANTED_BYTES_MAX) && !wanted.take(1),
            "outstanding requests are bounded"
        );
    }

    #[test]
    fn only_added_carriage_returns_are_removed() {
        let shown = |text: &[u8]| without_returns(text);
        assert_eq!(shown(b"one\r\ntwo\r\n"), (b"one\ntwo\n".to_vec(), false));
        assert_eq!(shown(b"10%\r20%"), (b"10%\r20%".to_vec(), false));
        assert_eq!(shown(b"own\r\r\n"), (b"own\r\n".to_vec(), false));
        assert_eq!(shown(b"half\r"), (b"half".to_vec(), true));
    }
}
