//! Executes a walk on its runner: from the frame that opens it to the change set.

mod ahead;
mod channel;
mod input;
mod output;
pub(crate) mod room;
pub(crate) mod sandboxes;
mod streams;
mod terminal;

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use nix::time::{ClockId, clock_gettime};
use packetfs::change::ChangeSet;
use packetfs::mirror::Answer;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::Bytes;
use packetfs::tree::{Attr, Time};
use packetfs::upper::{self, Reading};
use packetfs::view::Outset;
use tokio::io::unix::AsyncFd;
use worknode::door::Signal;
use worknode::spec::{Ending, Fault, Outcome, WalkSpec};

use crate::link::{Inbox, Link};
use crate::mirror::{Lower, Mirror};
use crate::mirrors::Mirrors;
use crate::sys::fds;
use crate::sys::launcher::Launcher;
use crate::sys::orders::{Ahead, Event, Launch, Order};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Doubt, Exit, Packets};
use room::Room;
use streams::Streams;

/// Approximate size of the frames that carry packets to the origin.
const PACKETS_FRAME_BYTES: usize = 512 * 1024;

/// Executes walks of other origins.
pub(crate) struct Runner {
    mirrors: Rc<Mirrors>,
    launcher: Rc<Launcher>,
    room: Room,
}

impl Runner {
    pub(crate) fn new(mirrors: Rc<Mirrors>, launcher: Rc<Launcher>, slots: u32) -> Self {
        Self { mirrors, launcher, room: Room::new(slots) }
    }

    /// Admits a walk if there is room. Nothing of it is decoded before.
    pub(crate) fn take_open(self: &Rc<Self>, link: &Rc<Link>, frame: &Frame) {
        let taken = self.room.take();
        // Later frames cannot be decoded without this one.
        let Ok(spec) = link.take_open(&frame.payload, taken.is_ok()) else {
            tracing::error!(peer = %link.peer, "dropping the link: it opened a walk that cannot be decoded");
            return link.close();
        };
        let Some(frames) = link.accept_stream(frame.stream) else {
            tracing::error!(peer = %link.peer, "dropping the link: it opened a stream twice");
            return link.close();
        };
        let (taken, spec) = match (taken, spec) {
            (Ok(taken), Some(spec)) => (taken, spec),
            (Err(refusal), _) => {
                tracing::debug!(peer = %link.peer, %refusal, "a walk is not taken in");
                return refuse(link, frame.stream);
            }
            (Ok(_), None) => return refuse(link, frame.stream),
        };
        let (runner, link, stream) = (Rc::clone(self), Rc::clone(link), frame.stream);
        tokio::task::spawn_local(async move {
            let _taken = taken;
            runner.execute(link, stream, spec, frames).await;
        });
    }

    /// Executes an admitted walk, and reports its end to the origin.
    async fn execute(&self, link: Rc<Link>, stream: u32, spec: Vec<u8>, mut frames: Inbox) {
        let outcome = tokio::select! {
            outcome = self.run(&link, stream, &spec, &mut frames) => outcome,
            // The origin is gone or has given the walk up: discard its changes.
            () = link.closed() => Ok(None),
        };
        let (exit, served) = match outcome {
            Ok(Some(Ended { exit, served })) => (Some(exit), served),
            Ok(None) => (None, None),
            Err(fault) => (Some(not_executed(fault)), None),
        };
        if let Some(exit) = exit {
            // The queue has room for it: admission bounds the number of walks.
            link.send_exit(stream, &exit);
        }
        link.close_stream(stream);
        // Only now, so that it does not compete with the walk.
        if let Some((lower, control)) = served {
            lower.sandboxes.take_back(control);
        }
        self.mirrors.prepare_for(&link);
    }

    /// Runs a walk to its end. Returns `None` if the origin gave it up.
    async fn run(
        &self,
        link: &Rc<Link>,
        stream: u32,
        spec: &[u8],
        frames: &mut Inbox,
    ) -> Result<Option<Ended>, Fault> {
        let started = Instant::now();
        let sandbox = |error: anyhow::Error| Fault::Sandbox(format!("{error:#}"));
        let spec = WalkSpec::decode(spec).map_err(|error| sandbox(error.into()))?;
        let mirror = self.mirrors.of(link, &spec.principal).await?;
        let (lower, compiles) = (mirror.lower(&spec).await, spec.compiles);
        // Before `settle`: while the kernel processes invalidations, the walk may see the old state.
        let outset = mirror.outset();
        mirror.settle().await;
        let (ahead, since) = (ahead::of(&spec, mirror.attrs()), mirror.noted());
        let absent = ahead.absent.clone();
        let at = last_tick().map_err(|error| sandbox(error.into()))?;
        let began = Began { at, outset, absent };
        let mut running = self.start(link, stream, &lower, spec, ahead).map_err(sandbox)?;
        let mut namespace = 0;
        loop {
            tokio::select! {
                event = running.event() => match event {
                    Some((Event::Running { pids }, fds)) => {
                        namespace = pids;
                        running.unbegun = None;
                        if let Some(master) = fds.into_iter().next() {
                            running.start_terminal(master).map_err(|error| sandbox(error.into()))?;
                        }
                    }
                    Some((Event::Stopped(signal), _)) => {
                        link.send(Kind::Stopped, stream, signal.to_le_bytes().to_vec());
                    }
                    Some((Event::Reading(read), _)) => running.streams.is_read(read),
                    Some((Event::NotExecuted(errno), _)) => return Err(Fault::NotExecuted(errno)),
                    Some((Event::Failed { stage, errno }, _)) => {
                        let error = std::io::Error::from_raw_os_error(errno);
                        return Err(Fault::Sandbox(format!("failed to {stage}: {error}")));
                    }
                    Some((Event::Ended { status, cpu_us, offsets, bounded, left, again }, fds)) => {
                        let run_us = started.elapsed().as_micros();
                        let run_us = u64::try_from(run_us).unwrap_or(u64::MAX);
                        let ending = Ending { status, run_us, cpu_us };
                        // Credit for the rest of the output arrives with the frames.
                        tokio::select! {
                            () = running.streams.finish() => {}
                            () = serve(&running, frames) => return Ok(None),
                        }
                        if bounded {
                            // The limit may have affected the result.
                            return Err(Fault::Full);
                        }
                        if mirror.failed(since, namespace) {
                            // It saw an error that does not occur at the origin.
                            return Err(Fault::NotExported(Vec::new()));
                        }
                        let doubt = mirror.doubt(since, namespace, compiles);
                        let doubt = doubt.or(left.then_some(Doubt::Left));
                        let mut fds = fds.into_iter();
                        let changes = match fds.next() {
                            Some(upper) => {
                                let layers = (upper, fds.next());
                                collect(link, stream, (&mirror, &lower), layers, began).await?
                            }
                            None => ChangeSet::default(),
                        };
                        let outcome = Outcome::Ended(ending);
                        let exit = Exit { outcome, changes, offsets, doubt };
                        let served = again.then(|| running.into_control()).flatten();
                        let served = served.map(|control| (lower, control));
                        return Ok(Some(Ended { exit, served }));
                    }
                    None => {
                        if !running.begin_elsewhere(&self.launcher, &lower).map_err(sandbox)? {
                            return Err(Fault::Sandbox("the walk's first process died".into()));
                        }
                    }
                },
                frame = frames.recv() => match frame {
                    Some(frame) if frame.kind == Kind::Cancel => return Ok(None),
                    Some(frame) => {
                        if !running.take(frame) {
                            let said = "the origin sent input that was not requested";
                            return Err(Fault::Sandbox(said.into()));
                        }
                    }
                    None => return Ok(None),
                },
            }
        }
    }

    fn start(
        &self,
        link: &Rc<Link>,
        stream: u32,
        lower: &Lower,
        spec: WalkSpec,
        ahead: Ahead,
    ) -> anyhow::Result<Running> {
        let (streams, places, descriptors) = Streams::open(link, stream, &spec)?;
        let sandbox = lower.sandboxes.take(&self.launcher)?;
        let launch = Launch { spec, ahead, xattrs: lower.xattrs, fds: places };
        let control = sandbox.launch(&launch, &descriptors)?;
        let control = Rc::new(crate::sys::watch::readable(control)?);
        Ok(Running { control, streams, unbegun: Some((launch, descriptors)) })
    }
}

/// Refuses a walk for which there is no room.
fn refuse(link: &Link, stream: u32) {
    let is_read = link.send_exit(stream, &not_executed(Fault::Busy));
    link.close_stream(stream);
    if !is_read {
        tracing::error!(peer = %link.peer, "dropping the link: it opens walks but does not read their results");
        link.close();
    }
}

/// Returns the exit of a walk that could not be executed.
fn not_executed(fault: Fault) -> Exit {
    let (outcome, changes) = (Outcome::Fault(fault), ChangeSet::default());
    Exit { outcome, changes, offsets: Vec::new(), doubt: None }
}

/// A finished walk.
struct Ended {
    exit: Exit,
    /// Its sandbox, if it can serve another walk on the same tree.
    served: Option<(Rc<Lower>, UnixStream)>,
}

/// The state when a walk began.
struct Began {
    at: Time,
    /// The origin's tree as the walk found it.
    outset: Outset,
    /// Absent names for which the upper layer got whiteouts in advance.
    absent: Vec<Bytes>,
}

/// A started walk. Dropping it kills all its processes.
struct Running {
    control: Rc<AsyncFd<UnixStream>>,
    streams: Streams,
    /// What to send to another sandbox if this one dies before the walk begins.
    unbegun: Option<(Launch, Vec<OwnedFd>)>,
}

/// Handles the origin's frames until it gives the walk up.
async fn serve(running: &Running, frames: &mut Inbox) {
    while let Some(frame) = frames.recv().await {
        if frame.kind == Kind::Cancel || !running.take(frame) {
            break;
        }
    }
}

impl Running {
    /// Starts the walk in a new sandbox if the idle one died before the walk began; does so only once.
    fn begin_elsewhere(&mut self, launcher: &Launcher, lower: &Lower) -> anyhow::Result<bool> {
        let Some((launch, descriptors)) = self.unbegun.take() else { return Ok(false) };
        let control = lower.sandboxes.fresh(launcher)?.launch(&launch, &descriptors)?;
        self.control = Rc::new(crate::sys::watch::readable(control)?);
        Ok(true)
    }

    /// Returns the next event, or `None` if the walk's first process is gone.
    async fn event(&self) -> Option<(Event, Vec<OwnedFd>)> {
        loop {
            let mut ready = self.control.readable().await.ok()?;
            match fds::receive(self.control.get_ref()) {
                Ok(Some((message, fds))) => {
                    return Some((postcard::from_bytes(&message).ok()?, fds));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ready.clear_ready();
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Returns the control socket of a finished walk, unless something else (a terminal) still uses it.
    fn into_control(self) -> Option<UnixStream> {
        let Self { control, streams, .. } = self;
        drop(streams);
        Rc::into_inner(control).map(AsyncFd::into_inner)
    }

    fn start_terminal(&self, master: OwnedFd) -> std::io::Result<()> {
        let control = Rc::clone(&self.control);
        self.streams.start_terminal(master, move |what| order(&control, what))
    }

    /// Handles a frame from the origin. Returns false if it carries more than was requested.
    fn take(&self, frame: Frame) -> bool {
        if frame.kind == Kind::Signal {
            if let Some(Signal { number, from_terminal }) = Signal::decode(&frame.payload) {
                order(&self.control, Order::Signal { number, from_terminal });
            }
            true
        } else {
            self.streams.take(frame)
        }
    }
}

/// Sends an order to a walk's first process. A failure is ignored: the process has ended.
fn order(control: &AsyncFd<UnixStream>, order: Order) {
    let _ = fds::send(control.get_ref(), &message::encode(&order), &[]);
}

/// Reads the upper layer and the overlay's index, and sends their packets.
async fn collect(
    link: &Rc<Link>,
    stream: u32,
    (mirror, shown): (&Rc<Mirror>, &Lower),
    (upper, index): (OwnedFd, Option<OwnedFd>),
    began: Began,
) -> Result<ChangeSet, Fault> {
    let lower = shown.point.clone();
    let (out_tx, fast) = (link.sender(), link.is_fast());
    let (paths, attrs) = (mirror.paths(), mirror.attrs());
    let (times_since, times) = (mirror.times_since(), OnceCell::new());
    let xattrs = shown.xattrs.then(|| mirror.xattrs());
    let read = move || -> Result<ChangeSet, Fault> {
        // Closing the last descriptor of an unmounted file system takes a while, so that is done on
        // another thread.
        let layers = Afterwards(Some((upper, index)));
        let (upper, index) = layers.0.as_ref().expect("they are taken when this ends");
        if is_full(upper) {
            return Err(Fault::Full);
        }
        let mut sending = Vec::new();
        let mut bytes = 0;
        let send = |packets: Vec<(PacketRef, Packed)>| {
            let payload = message::encode(&Packets { packets });
            let _ = out_tx.send(Frame { kind: Kind::Packets, stream, payload: payload.into() });
        };
        let lower_attr = |path: &[u8]| match attrs(path) {
            Answer::Known(attr) => Some(attr),
            Answer::Absent => None,
            Answer::Unknown(_) | Answer::Hidden => {
                let path = lower.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
                nix::sys::stat::lstat(&path).ok().map(|stat| Attr::of(&stat))
            }
        };
        let lower_xattrs =
            |path: &[u8]| xattrs.as_ref().map(|xattrs| xattrs(path)).unwrap_or_default();
        let mut packet = |reference, content: &[u8]| {
            let packed = if fast { Packed::plain(content) } else { Packed::pack(content) };
            bytes += packed.body.len();
            sending.push((reference, packed));
            if bytes > PACKETS_FRAME_BYTES {
                bytes = 0;
                send(std::mem::take(&mut sending));
            }
        };
        let is_shown = |time| times.get_or_init(|| times_since(began.at)).contains(&time);
        let mut reading = Reading {
            began: began.at,
            base: &|path| began.outset.base(path),
            contents: &|path| began.outset.contents(path),
            had_time: &|path, time| began.outset.had_time(path, time),
            ended: Time::of(SystemTime::now()),
            lower_attr: &lower_attr,
            lower_paths: &paths,
            lower_xattrs: &lower_xattrs,
            is_shown: &is_shown,
            absent: &began.absent,
            packet: &mut packet,
        };
        let changes = upper::read(upper, index.as_ref(), &mut reading).map_err(unreadable)?;
        if !sending.is_empty() {
            send(sending);
        }
        Ok(changes)
    };
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result,
        Err(error) => Err(Fault::Sandbox(format!("failed to read the changes: {error}"))),
    }
}

fn unreadable(error: std::io::Error) -> Fault {
    match error.raw_os_error() {
        Some(libc::ENAMETOOLONG) => Fault::TooDeep,
        _ => Fault::Sandbox(format!("failed to read the changes: {error}")),
    }
}

/// Closes the descriptors of the layers on a detached thread.
struct Afterwards(Option<(OwnedFd, Option<OwnedFd>)>);

impl Drop for Afterwards {
    fn drop(&mut self) {
        let layers = self.0.take();
        tokio::task::spawn_blocking(move || drop(layers));
    }
}

fn is_full(upper: &OwnedFd) -> bool {
    nix::sys::statvfs::fstatvfs(upper).is_ok_and(|stats| stats.blocks_available() == 0)
}

/// Returns the time of the kernel's last tick. Later writes have no older file times.
fn last_tick() -> std::io::Result<Time> {
    let tick = clock_gettime(ClockId::CLOCK_REALTIME_COARSE)?;
    Ok(Time { seconds: tick.tv_sec(), nanos: u32::try_from(tick.tv_nsec()).unwrap_or(0) })
}
