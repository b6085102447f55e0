//! One attempt at a walk: the conversation between its stub and its runner.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use broker::{Grant, Matchmaker};
use packetfs::allowance;
use packetfs::commit::Commit;
use packetfs::identity::Owner;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::TreePath;
use packetfs::tree::Time;
use tokio::sync::mpsc;
use worknode::door;
use worknode::principal::Principal;
use worknode::reason::Reason;
use worknode::spec::{Ending, Fault, Outcome, WalkSpec};

use super::ledger::Ledger;
use super::outgoing::Outgoing;
use super::price::is_too_dear;
use super::shared::Shared;
use super::stub::{Cause, STDERR, Stub, signal};
use super::vet;
use crate::budget::Part;
use crate::cluster::{Cluster, Slot, Turn};
use crate::commits::Done;
use crate::exporter::{TRIES_MAX, Untold, Upcoming, profile::Likeness};
use crate::link::{Inbox, Link};
use crate::session::Session;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{Exit, Packets};
use crate::wire::payload::{about, split};

/// Delay after which output of a running walk is shown: longer for a program in a pipeline …
const HOLD_MAX: Duration = Duration::from_secs(1);
/// … than for a person.
const HOLD_TERMINAL_MAX: Duration = Duration::from_millis(100);

/// Waiting time after which the user is told that files are being sent.
const NEWS_AFTER: Duration = Duration::from_secs(2);
/// Least bytes sent in that time; with less, the walk is computing or waits for something else.
const NEWS_BYTES_MIN: u64 = 1_000_000;

/// For compile steps, the stub's state is polled only every so many beats, because users rarely stop one.
const PATIENT_BEATS: u32 = 2;

/// A runner that answers within this time is alive, even if the broker has given it up.
const ANSWER_MAX: Duration = Duration::from_millis(300);
/// Further time for a runner whose kernel still answers but whose agent is late: it is overloaded, and repeating the walk
/// elsewhere would take longer. With the lease and [`ANSWER_MAX`], 4 s in all.
const LATE_ANSWER_MAX: Duration = Duration::from_millis(2700);

/// The coarsest resolution of file times: a tick at 100 Hz.
const TICK: Duration = Duration::from_millis(10);

/// Memory for a packet besides its content.
const PACKET_BYTES: u64 = 96;

/// The result of an attempt.
pub(super) enum Attempted {
    /// The program ended; nothing is committed yet.
    Ended(Ended),
    /// It failed for a reason that has nothing to do with the program.
    Failed(Reason),
    /// No runner can execute it, for this reason.
    Declined(Cause),
    /// The stub is gone, and the walk with it.
    Gone,
    /// The broker gave the runner up and granted a newer attempt.
    Superseded(Grant),
}

/// A finished program.
pub(super) struct Ended {
    pub(super) ending: Ending,
    pub(super) exit: Ready,
    pub(super) bytes_out: u64,
    pub(super) bytes_back: u64,
}

/// The changes to commit.
pub(super) struct Ready {
    pub(super) exit: Exit,
    packets: Vec<(PacketRef, Packed)>,
    /// The memory that they take.
    memory: Part,
    status: i32,
    /// When the walk was sent; times of its writes are relative to it.
    began: Time,
}

/// Executes the walk on the runner of a slot.
pub(super) async fn run(
    shared: &Rc<Shared>,
    session: &Session,
    stub: &mut Stub,
    outgoing: &Outgoing,
    slot: &Slot,
    turns: &mut mpsc::UnboundedReceiver<Turn>,
) -> Attempted {
    let (spec, grant) = (&*outgoing.spec, slot.grant());
    let link = match shared.links.get_or_call(grant).await {
        Ok(link) => link,
        Err(error) => {
            tracing::warn!("{error:#}");
            return lost(shared, grant);
        }
    };
    if !session.granted.allows_node(&grant.node) {
        return Attempted::Failed(Reason::NotAllowed);
    }
    if is_too_dear(shared, session, spec, &grant.node) {
        return Attempted::Declined(Reason::Transfer.into());
    }
    let (stream, mut frames) = link.open_stream();
    let user = user(&spec.principal);
    let (program, cwd) = (spec.path.clone(), spec.cwd.clone());
    let reach = session.granted.reach.clone();
    let likeness = Arc::new(Likeness { program, cwd, user, reach });
    let is_first = link.foretold.note_walk(stream, &likeness);
    let files = outgoing.files.as_deref();
    let files = files.filter(|files| link.foretold.note_step(&likeness, files)).cloned();
    if is_first || files.is_some() {
        // Data that it is expected to read is sent ahead, unless the file system does not answer.
        shared.served.wait_for_dir(&spec.cwd).await;
        let upcoming = Upcoming { walk: likeness, is_first, files };
        let told = shared.exporter.foretell(link.number, upcoming, link.sender()).await;
        if let Err(untold) = told {
            return declined(&link, stream, untold);
        }
    }
    // All changes up to now are sent to the runner before the walk.
    if let Err(untold) = shared.exporter.drain(link.number).await {
        return declined(&link, stream, untold);
    }
    session.granted.introduce(&link);
    let began = Time::of(SystemTime::now());
    let bytes_out = link.send_open(stream, grant.attempt, &outgoing.encoded) as u64;
    let (packets, ledger) = (Vec::new(), Ledger::of(spec));
    let mut talk = Talk {
        link: &link,
        session,
        stream,
        spec,
        sent_before: link.bytes().0,
        packets,
        began,
        memory: Some(shared.returned.part()),
        ledger,
        stopped: Stopped::No,
        bytes_out,
        bytes_back: 0,
        has_written: false,
    };
    let attempted = tokio::select! {
        attempted = talk.run(&shared.cluster, stub, &mut frames) => attempted,
        newer = superseded(shared, &link, turns, slot) => Attempted::Superseded(newer),
        refusal = session.granted.revoked() => not_allowed(refusal.to_string()),
    };
    if !matches!(attempted, Attempted::Ended(_)) {
        link.send(Kind::Cancel, stream, Vec::new());
    }
    link.close_stream(stream);
    match attempted {
        Attempted::Failed(Reason::RunnerLost) => lost(shared, grant),
        attempted => {
            tracing::debug!(walk = %spec.walk, "attempt over");
            attempted
        }
    }
}

fn not_allowed(why: String) -> Attempted {
    Attempted::Declined(Cause { reason: Reason::NotAllowed, detail: Some(why) })
}

/// Handles a failure to send changes. Without them the runner would read stale files.
fn declined(link: &Link, stream: u32, untold: Untold) -> Attempted {
    tracing::error!("{untold}");
    link.close_stream(stream);
    let (reason, detail) = (Reason::NotExported, Some(untold.to_string()));
    Attempted::Declined(Cause { reason, detail })
}

fn lost(shared: &Rc<Shared>, grant: &Grant) -> Attempted {
    if shared.links.get(&grant.node).is_some() {
        // There is a new link, so the runner is alive, and only what was sent over the old one is lost.
        return Attempted::Failed(Reason::RunnerLost);
    }
    let (shared, node) = (Rc::clone(shared), grant.node.clone());
    tokio::task::spawn_local(async move {
        if let Err(error) = shared.cluster.broker.reap_node(&node).await {
            tracing::debug!(%error, %node, "failed to report a lost node");
        }
    });
    Attempted::Failed(Reason::RunnerLost)
}

/// Waits until the broker grants a newer attempt, because it has given up this one's runner, and the runner does not answer
/// either. A runner that answers has only lost the broker or paused for a moment: its walk continues, and the newer
/// attempt is given back.
async fn superseded(
    shared: &Shared,
    link: &Link,
    turns: &mut mpsc::UnboundedReceiver<Turn>,
    slot: &Slot,
) -> Grant {
    let mut attempt = slot.grant().attempt;
    loop {
        match turns.recv().await {
            Some(Turn::Granted(newer))
                if newer.walk == slot.grant().walk && newer.attempt > attempt =>
            {
                if !lives(link).await {
                    return newer;
                }
                tracing::warn!(node = %link.peer, "the broker has given up a runner that still answers: its walk continues");
                attempt = newer.attempt;
                slot.forget();
                shared.cluster.slots.finish(&newer);
            }
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}

/// Tells whether a runner is alive although its heartbeat is missing.
async fn lives(link: &Link) -> bool {
    let asked = Instant::now();
    if link.answers(ANSWER_MAX).await {
        return true;
    }
    // If the last acknowledgement is younger than the ping, the runner's kernel is alive.
    let since_asked = asked.elapsed() + TICK;
    let acknowledged = link.acknowledged_since().is_some_and(|since| since < since_asked);
    acknowledged && !link.is_closed() && link.answers(LATE_ANSWER_MAX).await
}

struct Talk<'a> {
    link: &'a Link,
    session: &'a Session,
    stream: u32,
    spec: &'a WalkSpec,
    /// Bytes that had been sent on the link when the walk began.
    sent_before: u64,
    packets: Vec<(PacketRef, Packed)>,
    began: Time,
    /// The walk's part of the memory budget, until the walk ends.
    memory: Option<Part>,
    /// Flow control of the runner.
    ledger: Ledger,
    /// Whether the walk was stopped because its stub is stopped.
    stopped: Stopped,
    bytes_out: u64,
    bytes_back: u64,
    /// Whether the program has written anything.
    has_written: bool,
}

/// The state of stopping a walk with its stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopped {
    No,
    /// It was sent the signal, and has not reported yet that it has stopped.
    Told,
    Yes,
}

impl Ready {
    /// Tells whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.exit.changes.ops.is_empty()
    }
}

impl Talk<'_> {
    async fn run(&mut self, cluster: &Cluster, stub: &mut Stub, frames: &mut Inbox) -> Attempted {
        let hold = if self.spec.terminal.is_some() { HOLD_TERMINAL_MAX } else { HOLD_MAX };
        let release = tokio::time::sleep(hold);
        tokio::pin!(release);
        let mut held = !stub.output.is_patient();
        let news = tokio::time::sleep(NEWS_AFTER);
        tokio::pin!(news);
        let mut may_tell_news = self.spec.is_terminal(STDERR.into());
        // Polls the same future until it is ready, because dropping it for a frame could lose a notification.
        let beaten = cluster.beaten();
        tokio::pin!(beaten);
        let mut beats = 0_u32;
        loop {
            tokio::select! {
                frame = stub.frames.recv() => match frame {
                    Some(said) if self.take_from_stub(stub, said.header, &said.payload) => {}
                    // Or it has sent a frame that no stub sends.
                    Some(_) | None => {
                        self.link.send(Kind::Cancel, self.stream, Vec::new());
                        return Attempted::Gone;
                    }
                },
                frame = frames.recv() => match frame {
                    Some(frame) => {
                        self.bytes_back += frame.payload.len() as u64;
                        if let Some(attempted) = self.take_from_runner(stub, frame) {
                            return attempted;
                        }
                    }
                    None => return Attempted::Failed(Reason::RunnerLost),
                },
                () = &mut release, if held => {
                    held = false;
                    stub.output.release();
                }
                () = &mut news, if may_tell_news => {
                    may_tell_news = false;
                    self.tell_what_is_sent(stub);
                }
                () = &mut beaten => {
                    beaten.set(cluster.beaten());
                    beats = beats.wrapping_add(1);
                    if !self.spec.compiles || beats.is_multiple_of(PATIENT_BEATS) {
                        self.stop_with(stub);
                    }
                }
            }
        }
    }

    /// Tells a user at a terminal, once per session and node, that the walk waits for a transfer. A program that has begun
    /// to write is not interrupted: it may have painted the screen.
    fn tell_what_is_sent(&self, stub: &Stub) {
        if self.has_written {
            return;
        }
        let sent = self.link.bytes().0 - self.sent_before;
        let node = &self.link.peer;
        if sent >= NEWS_BYTES_MIN && self.session.is_first_news_of(node) {
            let megabytes = sent / 1_000_000;
            let text = format!(
                "oswalk: sending the files that {node} lacks: {megabytes} MB in the first {} s\n",
                NEWS_AFTER.as_secs()
            );
            stub.output.send(door::Kind::Data, STDERR, text.into_bytes());
        }
    }

    /// Stops the walk if its stub was stopped by a signal that cannot be caught. There is no notification of that, so the
    /// stub's state is polled. A signal continues the walk.
    fn stop_with(&mut self, stub: &Stub) {
        if self.stopped == Stopped::No && stub.stops.is_stopped_itself() {
            self.stopped = Stopped::Told;
            let stop = door::Signal { number: libc::SIGSTOP, from_terminal: false };
            self.link.send(Kind::Signal, self.stream, stop.encode().to_vec());
        }
    }

    /// Handles a frame of the stub. Returns false if no stub sends such a frame.
    fn take_from_stub(&mut self, stub: &Stub, header: door::Header, payload: &[u8]) -> bool {
        if stub.output.is_stale(header.kind) {
            return true;
        }
        if signal(&header, payload) == Some(libc::SIGCONT) {
            self.stopped = Stopped::No;
        }
        let fd = u8::try_from(header.fd).unwrap_or(u8::MAX);
        let tagged = || about(fd, payload);
        let (kind, payload) = match header.kind {
            door::Kind::Data => {
                if !self.ledger.answer(fd, payload.len()) {
                    tracing::error!(walk = %self.spec.walk, "the stub sent input that was not requested");
                    return false;
                }
                // Other input is only peeked until the walk has read it.
                if self.spec.is_terminal(u32::from(header.fd)) {
                    stub.output.note_input();
                }
                (Kind::Data, tagged())
            }
            door::Kind::Eof => (Kind::Eof, tagged()),
            door::Kind::Ready => (Kind::Ready, tagged()),
            door::Kind::Settings => (Kind::Settings, tagged()),
            door::Kind::Resize => (Kind::Resize, tagged()),
            door::Kind::Written => {
                let Some(written) = door::decode_number(payload) else { return false };
                let given = self.ledger.give(fd, written as usize);
                let given = u32::try_from(given).unwrap_or(u32::MAX).to_le_bytes();
                (Kind::Credit, about(fd, &given))
            }
            door::Kind::Broken => (Kind::Broken, tagged()),
            door::Kind::Signal => (Kind::Signal, payload.to_vec()),
            _ => return true,
        };
        self.bytes_out += payload.len() as u64;
        self.link.send(kind, self.stream, payload);
        true
    }

    fn take_from_runner(&mut self, stub: &Stub, frame: Frame) -> Option<Attempted> {
        let garbled = || Some(Attempted::Failed(Reason::RunnerFault));
        // Frames about a descriptor that are passed on unchanged.
        let to_stub = match frame.kind {
            Kind::Credit => Some(door::Kind::Want),
            Kind::Took => Some(door::Kind::Took),
            Kind::Settings => Some(door::Kind::Settings),
            _ => None,
        };
        if let Some(kind) = to_stub {
            let Some((fd, payload)) = split(&frame.payload) else { return garbled() };
            if !self.may_say(kind, fd, payload) {
                tracing::error!(node = %self.link.peer, fd, ?kind, "the runner named a descriptor that it must not use");
                return garbled();
            }
            stub.output.to_descriptor(kind, u16::from(fd), frame.payload.slice_ref(payload));
            return if stub.output.is_flooded() { garbled() } else { None };
        }
        match frame.kind {
            Kind::Data => {
                let Some((fd, bytes)) = split(&frame.payload) else { return garbled() };
                if !self.ledger.spend(fd, bytes.len()) {
                    tracing::error!(node = %self.link.peer, fd, "the runner exceeded its credit for output");
                    return garbled();
                }
                self.has_written = true;
                let skipped = stub.output.data(u16::from(fd), frame.payload.slice_ref(bytes));
                if skipped > 0 {
                    // The stub does not write these bytes again, so it does not acknowledge them.
                    self.ledger.give(fd, skipped);
                    let skipped = u32::try_from(skipped).unwrap_or(u32::MAX).to_le_bytes();
                    self.link.send(Kind::Credit, self.stream, about(fd, &skipped));
                }
                None
            }
            Kind::Stopped => {
                let Some(signal) = door::decode_number(&frame.payload) else { return garbled() };
                if self.stopped == Stopped::Told {
                    self.stopped = Stopped::Yes;
                } else {
                    stub.stops.note_told(signal.cast_signed());
                    stub.output.send(door::Kind::Stopped, 0, frame.payload);
                }
                None
            }
            Kind::Packets => match postcard::from_bytes::<Packets>(&frame.payload) {
                Ok(packets) => self.take_packets(packets),
                Err(_) => garbled(),
            },
            Kind::Exit => match self.take_exit(&frame.payload) {
                Ok(Some(exit)) => Some(self.ended(exit)),
                Ok(None) => Some(self.is_too_much()),
                Err(_) => garbled(),
            },
            _ => None,
        }
    }

    /// Tells whether the runner may order this from the stub, which has all descriptors of its process open and does not
    /// check itself whether they belong to the walk.
    fn may_say(&mut self, kind: door::Kind, fd: u8, payload: &[u8]) -> bool {
        let bytes = door::decode_number(payload).map(|bytes| bytes as usize);
        match (kind, bytes) {
            (door::Kind::Want, Some(bytes)) => self.ledger.ask(fd, bytes),
            (door::Kind::Took, Some(bytes)) => self.ledger.took(fd, bytes),
            (door::Kind::Settings, _) => {
                payload.len() == door::Settings::BYTES && self.ledger.may_set(fd)
            }
            _ => false,
        }
    }

    fn take_packets(&mut self, Packets { packets }: Packets) -> Option<Attempted> {
        if !packets.iter().all(|(packet, packed)| packed.may_be(*packet)) {
            tracing::error!(node = %self.link.peer, "the runner sent malformed packets");
            return Some(Attempted::Failed(Reason::RunnerFault));
        }
        let bytes = packets.iter().map(|(packet, _)| u64::from(packet.bytes) + PACKET_BYTES).sum();
        if !self.memory.as_mut().is_some_and(|memory| memory.take(bytes)) {
            return Some(self.is_too_much());
        }
        self.packets.extend(packets);
        None
    }

    /// Decodes the walk's exit. Returns `None` if its changes exceed the memory budget.
    fn take_exit(&mut self, payload: &[u8]) -> Result<Option<Exit>, postcard::Error> {
        let Some(memory) = self.memory.as_mut() else { return Ok(None) };
        if !memory.take(payload.len() as u64) {
            return Ok(None);
        }
        let left = memory.left();
        match allowance::within(left, || postcard::from_bytes(payload)) {
            (Ok(exit), taken) => Ok(memory.take(taken).then_some(exit)),
            (Err(_), taken) if taken == left => Ok(None),
            (Err(error), _) => Err(error),
        }
    }

    fn is_too_much(&self) -> Attempted {
        tracing::warn!(walk = %self.spec.walk, "the changes of a walk exceed the memory for them");
        self.link.send(Kind::Cancel, self.stream, Vec::new());
        let detail =
            "its changes exceed the memory for them: raise --upper-bytes of the agents".to_owned();
        Attempted::Declined(Cause { reason: Reason::CommitFault, detail: Some(detail) })
    }

    fn ended(&mut self, exit: Exit) -> Attempted {
        match &exit.outcome {
            Outcome::Ended(ending) => {
                let ending = *ending;
                let packets = std::mem::take(&mut self.packets);
                let Some(memory) = self.memory.take() else {
                    return Attempted::Failed(Reason::RunnerFault);
                };
                let exit =
                    Ready { exit, packets, memory, status: ending.status, began: self.began };
                let (bytes_out, bytes_back) = (self.bytes_out, self.bytes_back);
                Attempted::Ended(Ended { ending, exit, bytes_out, bytes_back })
            }
            Outcome::Fault(Fault::Busy) => {
                tracing::debug!(node = %self.link.peer, "the runner has no room");
                Attempted::Failed(Reason::NoSlot)
            }
            Outcome::Fault(fault) => {
                tracing::warn!(?fault, node = %self.link.peer, "the runner could not execute a walk");
                let declined = |reason, detail: String| {
                    Attempted::Declined(Cause { reason, detail: Some(detail) })
                };
                let node = &self.link.peer;
                match fault {
                    Fault::NotExecuted(errno) => {
                        let error = io::Error::from_raw_os_error(*errno);
                        declined(
                            Reason::NotExecutable,
                            format!("{node} cannot execute it: {error}"),
                        )
                    }
                    Fault::NotAllowed(why) => not_allowed(why.to_string()),
                    Fault::NotExported(_) => Attempted::Declined(Reason::NotExported.into()),
                    // It would happen on every runner.
                    Fault::TooDeep => declined(
                        Reason::CommitFault,
                        "it made directories that are too deep to be carried".to_owned(),
                    ),
                    _ => Attempted::Failed(Reason::RunnerFault),
                }
            }
        }
    }
}

/// A walk whose changes were applied.
pub(super) struct Applied {
    /// Its wait status.
    pub(super) status: i32,
    /// The files of others that it overwrote, because it cannot be repeated.
    pub(super) overwrote: Vec<TreePath>,
    /// Hidden files that were left unchanged, because the program cannot be executed here instead.
    pub(super) left_out: Vec<TreePath>,
}

/// What previous attempts allow.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bound {
    /// It cannot be repeated, so concurrent changes of others are overwritten.
    pub(super) last_wins: bool,
    /// Output was shown or input consumed, so it cannot be executed here instead.
    pub(super) touched: bool,
}

/// Applies a walk's changes.
pub(super) async fn commit(
    shared: &Rc<Shared>,
    (session, outgoing): (&Session, &Outgoing),
    mut ready: Ready,
    Bound { last_wins, touched }: Bound,
) -> anyhow::Result<Applied> {
    let changes = &mut ready.exit.changes;
    let left_out =
        if touched { vet::leave_out_hidden(changes, &shared.hidden) } else { Vec::new() };
    vet::changes(&ready.exit.changes, &shared.hidden)?;
    let pass = session.granted.pass().context("the session has no token")?;
    vet::allowed(&ready.exit.changes, &pass.capability)?;
    let scope = outgoing.scope.clone();
    let owner = user(&outgoing.spec.principal);
    let Ready { exit, packets, memory: _memory, began, status } = ready;
    let commit = Commit { owner, scope, changes: exit.changes, packets, last_wins, began };
    let overwrote = apply(shared, commit).await.context("failed to commit a walk")?;
    Ok(Applied { status, overwrote, left_out })
}

/// Returns the user with whose rights files are read and changed for a walk.
fn user(who: &Principal) -> Owner {
    Owner { uid: who.uid, gid: who.gid, groups: who.groups.clone() }
}

/// Applies a commit when the file systems that it concerns answer. Returns the files of others that it has overwritten.
async fn apply(shared: &Shared, mut commit: Commit) -> anyhow::Result<Vec<TreePath>> {
    for _ in 0..TRIES_MAX {
        shared.exporter.see_mounts().await?;
        shared.served.wait_for(vet::concerned(&commit.changes)).await?;
        // Once one has answered with an error, asking again is of no use.
        anyhow::ensure!(
            vet::concerned(&commit.changes).all(|path| shared.served.is_heard(path)),
            "a file system that it changes answers with an error: the program is executed here"
        );
        match shared.commits.apply(commit).await? {
            Done::Applied { overwrote } => return Ok(overwrote),
            Done::Unheard(unheard) => commit = *unheard,
        }
    }
    anyhow::bail!(
        "this machine is too busy to commit to a file server: the program is executed here"
    )
}
