//! Executes a walk on its runner: from the frame that opens it to the change set.

mod ahead;
mod channel;
mod input;
mod output;
pub(crate) mod room;
pub(crate) mod sandboxes;
mod set_ids;
mod streams;
mod terminal;

use std::cell::{Cell, OnceCell};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use broker::NodeInfo;
use nix::time::{ClockId, clock_gettime};
use packetfs::change::ChangeSet;
use packetfs::mirror::Answer;
use packetfs::owners::Owners;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::Bytes;
use packetfs::tree::{Attr, Time};
use packetfs::upper::{self, Reading};
use packetfs::view::Outset;
use tokio::io::unix::AsyncFd;
use worknode::capability::{self, Capability, Program, Right};
use worknode::door::Signal;
use worknode::id::NodeId;
use worknode::principal::Principal;
use worknode::spec::{Ending, Fault, Outcome, WalkSpec};

use crate::admission::Refusal;
use crate::clock::now_s;
use crate::link::introduced::Allowed;
use crate::link::{Inbox, Link};
use crate::membership::Membership;
use crate::mirror::{Lower, Mirror};
use crate::mirrors::Mirrors;
use crate::sys::fds;
use crate::sys::launcher::Launcher;
use crate::sys::orders::{Ahead, Event, Launch, OPEN_FILES, Order};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Doubt, Exit, Introduction, Packets};
use room::Room;
use streams::Streams;

/// Approximate size of the frames that carry packets to the origin.
const PACKETS_FRAME_BYTES: usize = 512 * 1024;

/// Executes walks of other origins.
pub(crate) struct Runner {
    mirrors: Rc<Mirrors>,
    launcher: Rc<Launcher>,
    room: Room,
    node: NodeId,
    /// Absent if this node belongs to no cluster. Then it executes nothing.
    membership: Option<Rc<Membership>>,
}

impl Runner {
    pub(crate) fn new(
        mirrors: Rc<Mirrors>,
        launcher: Rc<Launcher>,
        info: &NodeInfo,
        membership: Option<Rc<Membership>>,
    ) -> Self {
        let (room, node) = (Room::new(info.slots), info.node.clone());
        Self { mirrors, launcher, room, node, membership }
    }

    /// Takes in the token of a session, or the end of one. A session without a valid token is not known, and its walks
    /// are refused.
    pub(crate) fn take_session(&self, link: &Link, frame: &Frame) {
        let Some(Introduction { session, token }) = Introduction::decode(&frame.payload) else {
            tracing::error!(peer = %link.peer, "dropping the link: it introduced a session that cannot be decoded");
            return link.close();
        };
        let Some(token) = token else { return link.introduced.remove(session) };
        let Some((membership, key)) = self.membership.as_ref().zip(link.key) else { return };
        let verified = membership.verify_of(&key, &token);
        let added = verified.and_then(|capability| link.introduced.add(session, capability));
        if let Err(refusal) = added {
            tracing::warn!(peer = %link.peer, %refusal, "a session is refused");
        }
    }

    /// Decides whether a walk may be executed here.
    fn allow(&self, link: &Link, spec: &WalkSpec) -> Result<Allowed, Fault> {
        let (uid, session, compiles) = (spec.principal.uid, spec.walk.session, spec.compiles);
        let program = Program { uid, session, compiles };
        let runner = capability::Runner { node: &self.node, is_offline: spec.is_offline() };
        let allowed = link.introduced.admit(&spec.principal, (&program, &runner), now_s());
        allowed.map_err(|refusal| not_allowed(&refusal))
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
        let allowed = self.allow(link, &spec)?;
        let mirror = self.mirrors.of(link, &spec.principal).await?;
        check_owners(&spec.principal, mirror.owners)?;
        // Other nodes are asked for what this one cannot show.
        let lower = mirror.lower(&spec).await.ok_or(Fault::Busy)?;
        let (uid, compiles) = (spec.principal.uid, spec.compiles);
        let is_root = spec.principal.uid == 0;
        // Before `settle`: while the kernel processes invalidations, the walk may see the old state.
        let outset = mirror.outset();
        mirror.settle().await;
        let (ahead, since) = (ahead::of(&spec, mirror.attrs()), mirror.noted());
        let absent = ahead.absent.clone();
        let at = last_tick().map_err(|error| sandbox(error.into()))?;
        let owners = mirror.owners.of_walk(spec.principal.uid, spec.principal.gid);
        let began = Began { at, outset, absent, owners };
        let shown = (&*lower, mirror.owners);
        let starting = self.start(link, stream, shown, (spec, ahead), allowed.capability());
        let mut running = starting.map_err(sandbox)?;
        let revoked = allowed.revoked();
        tokio::pin!(revoked);
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
                    Some((Event::Failed { stage, .. }, _)) if stage == OPEN_FILES => {
                        return Err(Fault::NotExported(Vec::new()));
                    }
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
                        let missed = compiles
                            && mirror.missed_acl(&lower, since, namespace, uid);
                        if missed && mirror.owners.are_one() {
                            return Err(Fault::Busy);
                        }
                        let doubt = mirror.doubt(since, namespace, compiles);
                        let doubt = doubt.or(missed.then_some(Doubt::ShownLess));
                        let doubt = doubt.or(left.then_some(Doubt::Left));
                        let mut fds = fds.into_iter();
                        let changes = match fds.next() {
                            Some(upper) => {
                                let layers = (upper, fds.next());
                                collect(link, stream, (&mirror, &lower), layers, began).await?
                            }
                            None => ChangeSet::default(),
                        };
                        let lost = is_root && set_ids::are_lost(&changes, mirror.attrs());
                        let doubt = doubt.or(lost.then_some(Doubt::ShownLess));
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
                refusal = &mut revoked => return Err(not_allowed(&refusal)),
            }
        }
    }

    fn start(
        &self,
        link: &Rc<Link>,
        stream: u32,
        (lower, owners): (&Lower, Owners),
        (spec, ahead): (WalkSpec, Ahead),
        capability: &Capability,
    ) -> anyhow::Result<Running> {
        let (streams, places, descriptors) = Streams::open(link, stream, &spec, owners)?;
        let memory = capability.bounds.memory;
        let sandbox = match memory {
            None => lower.sandboxes.take(&self.launcher)?,
            Some(_) => lower.sandboxes.fresh(&self.launcher, memory)?,
        };
        let launch = Launch { spec, ahead, xattrs: lower.xattrs, fds: places };
        let control = sandbox.launch(&launch, &descriptors)?;
        let control = Rc::new(crate::sys::watch::readable(control)?);
        let may_signal = capability.bounds.rights.is_some_and(|rights| rights.has(Right::Signal));
        Ok(Running { control, streams, unbegun: Some((launch, descriptors)), memory, may_signal })
    }
}

fn not_allowed(refusal: &Refusal) -> Fault {
    Fault::NotAllowed(refusal.to_string().into())
}

/// Refuses a user who has no number here.
fn check_owners(who: &Principal, owners: Owners) -> Result<(), Fault> {
    let mut all = [who.uid, who.gid].into_iter().chain(who.groups.iter().copied());
    match all.find(|&owner| owners.number(owner).is_none()) {
        None => Ok(()),
        Some(owner) => Err(Fault::Sandbox(format!(
            "user or group {owner} is too large for a walk: its programs are executed at the origin"
        ))),
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
    /// The owners of what it leaves.
    owners: Owners,
}

/// A started walk. Dropping it kills all its processes.
struct Running {
    control: Rc<AsyncFd<UnixStream>>,
    streams: Streams,
    /// What to send to another sandbox if this one dies before the walk begins.
    unbegun: Option<(Launch, Vec<OwnedFd>)>,
    /// The memory that its token allows. Its sandbox serves no other walk.
    memory: Option<u64>,
    /// Whether its token allows to send it signals.
    may_signal: bool,
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
        let control =
            lower.sandboxes.fresh(launcher, self.memory)?.launch(&launch, &descriptors)?;
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
        let Self { control, streams, memory, .. } = self;
        drop(streams);
        if memory.is_some() {
            return None;
        }
        Rc::into_inner(control).map(AsyncFd::into_inner)
    }

    fn start_terminal(&self, master: OwnedFd) -> std::io::Result<()> {
        let control = Rc::clone(&self.control);
        self.streams.start_terminal(master, move |what| order(&control, what))
    }

    /// Handles a frame from the origin. Returns false if it carries more than was requested.
    fn take(&self, frame: Frame) -> bool {
        if frame.kind == Kind::Signal {
            if let Some(Signal { number, from_terminal }) = Signal::decode(&frame.payload)
                && self.may_signal
            {
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
    let (owners, out_tx, fast) = (began.owners, link.sender(), link.is_fast());
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
        let is_unseen = Cell::new(false);
        let lower_attr = |path: &[u8]| match attrs(path) {
            Answer::Known(attr) => Some(attr),
            Answer::Absent => None,
            // The mount is not in this namespace.
            Answer::Unknown(_) | Answer::Hidden | Answer::Closed if owners.are_one() => {
                is_unseen.set(true);
                None
            }
            Answer::Unknown(_) | Answer::Hidden | Answer::Closed => {
                let path = lower.join(OsStr::from_bytes(path.strip_prefix(b"/").unwrap_or(path)));
                owners.attr_there(Attr::of(&nix::sys::stat::lstat(&path).ok()?))
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
            owners,
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
        if is_unseen.get() {
            return Err(Fault::Sandbox("files below the changed ones are not known".into()));
        }
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
