//! The descriptors of a walk on its runner, and the frames about them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::fs::fchown;
use std::rc::Rc;

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use packetfs::owners::Owners;
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::task::JoinHandle;
use worknode::door::{Termios, decode_number, decode_window};
use worknode::spec::{FdKind, WalkSpec};

use super::channel::Channel;
use super::input::Input;
use super::output::{self, Credit};
use super::terminal::{Event, Terminal};
use crate::link::Link;
use crate::sys::orders::Order;
use crate::wire::frame::{Frame, Kind};
use crate::wire::payload::split;

/// The process's descriptors: pairs of its descriptor number and the index into the passed ones.
pub(super) type Places = Vec<(u32, u32)>;

/// The streams of one walk.
#[derive(Debug)]
pub(super) struct Streams {
    channel: Channel,
    /// Tasks that carry output until its end.
    outputs: RefCell<Vec<JoinHandle<()>>>,
    /// Tasks that carry input.
    carriers: RefCell<Vec<JoinHandle<()>>>,
    credits: HashMap<u8, Rc<Credit>>,
    inputs: HashMap<u8, Rc<Input>>,
    terminal: Option<Rc<Terminal>>,
}

impl Streams {
    /// Opens the descriptors of a walk.
    pub(super) fn open(
        link: &Rc<Link>,
        stream: u32,
        spec: &WalkSpec,
        owners: Owners,
    ) -> anyhow::Result<(Self, Places, Vec<OwnedFd>)> {
        let mut streams = Self {
            channel: Channel::new(link, stream),
            outputs: RefCell::default(),
            carriers: RefCell::default(),
            credits: HashMap::new(),
            inputs: HashMap::new(),
            terminal: None,
        };
        let (mut places, mut passed) = (Vec::new(), Vec::new());
        for fd in &spec.fds {
            let number = u8::try_from(fd.fd)?;
            let end = match &fd.kind {
                FdKind::Output => streams.output(number)?,
                FdKind::Input => streams.input(number)?,
                // The sandbox opens these itself.
                FdKind::Null { .. } | FdKind::File { .. } | FdKind::Terminal => continue,
                FdKind::Same { fd: other } => {
                    let index = places.iter().find(|&&(place, _)| place == *other);
                    let index = index.map(|&(_, index)| index);
                    places.extend(index.map(|index| (fd.fd, index)));
                    continue;
                }
            };
            // The program may open it by its name in /proc, as it may at the origin.
            let who = &spec.principal;
            if !owners.are_one() {
                fchown(&end, Some(owners.here(who.uid)), Some(owners.here(who.gid)))?;
            }
            places.push((fd.fd, u32::try_from(passed.len())?));
            passed.push(end);
        }
        if let (Some(terminal), Some(input), Some(output)) =
            (&spec.terminal, spec.terminal_input(), spec.terminal_output())
        {
            let (input, output) = (u8::try_from(input)?, u8::try_from(output)?);
            let settings = terminal.termios.as_slice().try_into()?;
            let terminal = Terminal::new(
                streams.channel(input),
                streams.channel(output),
                settings,
                terminal.reads,
            );
            streams.credits.insert(output, Rc::clone(&terminal.credit));
            streams.terminal = Some(terminal);
        }
        Ok((streams, places, passed))
    }

    /// Starts carrying a running walk's terminal; see [`Terminal::start`].
    pub(super) fn start_terminal(
        &self,
        master: OwnedFd,
        order: impl Fn(Order) + 'static,
    ) -> std::io::Result<()> {
        if let Some(terminal) = &self.terminal {
            let (input, output) = terminal.start(master, order)?;
            self.carriers.borrow_mut().push(tokio::task::spawn_local(input));
            self.outputs.borrow_mut().push(tokio::task::spawn_local(output));
        }
        Ok(())
    }

    /// Passes on whether a process of the walk waits for terminal input.
    pub(super) fn is_read(&self, read: bool) {
        // There is always room, because only one such question is open at a time.
        self.tell_terminal(Event::Reading(read));
    }

    /// Handles a frame from the origin. Returns false if it carries more than was requested.
    pub(super) fn take(&self, frame: Frame) -> bool {
        let Some((fd, rest)) = split(&frame.payload) else { return true };
        let settings = || Termios::try_from(rest).ok();
        match (frame.kind, self.inputs.get(&fd)) {
            (Kind::Data, Some(input)) => return input.take(rest.to_vec()),
            (Kind::Data, None) => return self.tell_terminal(Event::Typed(rest.to_vec())),
            (Kind::Eof, Some(input)) => input.end(),
            (Kind::Eof, None) => return self.tell_terminal(Event::Ended),
            (Kind::Ready, _) => return self.tell_terminal(Event::Ready),
            (Kind::Credit, _) => {
                if let (Some(credit), Some(bytes)) = (self.credits.get(&fd), decode_number(rest)) {
                    credit.add(bytes);
                }
            }
            (Kind::Broken, _) => {
                self.credits.get(&fd).iter().for_each(|credit| credit.break_off());
            }
            (Kind::Settings, _) => {
                if let (Some(terminal), Some(settings)) = (&self.terminal, settings()) {
                    terminal.set_settings(settings);
                }
            }
            (Kind::Resize, _) => {
                if let (Some(terminal), Ok(window)) = (&self.terminal, rest.try_into()) {
                    terminal.set_window(decode_window(window));
                }
            }
            _ => {}
        }
        true
    }

    /// Waits, after the end of the walk, until all output has been sent.
    pub(super) async fn finish(&self) {
        self.inputs.values().for_each(|input| input.settle());
        let outputs = self.outputs.take();
        for output in outputs {
            let _ = output.await;
        }
    }

    fn tell_terminal(&self, event: Event) -> bool {
        self.terminal.as_ref().is_none_or(|terminal| terminal.tell(event))
    }

    fn channel(&self, fd: u8) -> Channel {
        self.channel.of(fd)
    }

    fn output(&mut self, fd: u8) -> anyhow::Result<OwnedFd> {
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)?;
        let (receiver, credit) = (Receiver::from_owned_fd(ours)?, Credit::new());
        self.credits.insert(fd, Rc::clone(&credit));
        let task = output::carry(self.channel(fd), receiver, credit);
        self.outputs.borrow_mut().push(tokio::task::spawn_local(task));
        Ok(theirs)
    }

    fn input(&mut self, fd: u8) -> anyhow::Result<OwnedFd> {
        let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
        let input = Input::new(self.channel(fd));
        let carrier = Rc::clone(&input).carry(Sender::from_owned_fd(ours)?);
        self.carriers.borrow_mut().push(tokio::task::spawn_local(carrier));
        self.inputs.insert(fd, input);
        Ok(theirs)
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.outputs.borrow().iter().for_each(JoinHandle::abort);
        self.carriers.borrow().iter().for_each(JoinHandle::abort);
    }
}
