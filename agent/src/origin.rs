//! A walk at its origin, from the stub's hello to its exit.
//!
//! Everything up to the commit may fail without harm: the walk is tried on another runner, or the
//! stub executes the program here. After the commit only the exit is left.

mod alone;
mod attempt;
mod hello;
mod ledger;
mod output;
mod stops;
mod vet;

use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::{Grant, Retried, Submit, Submitted};
use packetfs::commit::CommitError;
use tokio::sync::mpsc;
use worknode::door::{DATA_BYTES_MAX, Header, Kind};
use worknode::id::{Attempt, NodeId, WalkId};
use worknode::notice;
use worknode::reason::Reason;
use worknode::report::WalkLine;
use worknode::spec::WalkSpec;

use crate::agent::Agent;
use crate::cluster::{Slot, Turn};
use crate::door::{Peer, Reader, Writer};
use crate::link::message::{Doubt, Exit};
use crate::session::{self, Session, ms};
use attempt::{Applied, Attempted, Bound, Ended, Outgoing};
pub(crate) use hello::Wishes;
use output::Output;
use stops::Stops;

/// Attempts on runners before the program is executed here.
const ATTEMPTS_MAX: u32 = 3;
/// Frames of a stub that wait: when nobody takes them in, the stub waits itself.
const FRAMES_WAITING_MAX: usize = 64;
/// Where programs complain.
const STDERR: u16 = 2;
/// How long a stub may take to leave after its last frame: it may still be writing output.
const FAREWELL_MAX: Duration = Duration::from_secs(600);

/// The walk's process at the origin, as the attempts see it.
pub(crate) struct Stub {
    /// Frames of the stub, until it is gone.
    frames: mpsc::Receiver<(Header, Vec<u8>)>,
    /// What the stub gets; written by a task of its own.
    output: Output,
    stops: Stops,
    pid: u32,
}

/// Why a walk cannot be done, and what exactly was met, if that is more.
#[derive(Debug, Clone)]
struct Cause {
    reason: Reason,
    detail: Option<String>,
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None }
    }
}

/// How it ended for the stub.
enum End {
    /// With this wait status. The slot may go to another walk.
    Exit(i32, Option<Slot>),
    /// The program is to be executed here.
    Here(Cause),
    /// It cannot go on; a sentence for the user.
    Lost(String),
    /// The stub itself is gone.
    Gone,
}

/// Takes in a stub.
pub(crate) async fn walk(
    agent: Rc<Agent>,
    peer: Peer,
    groups: Vec<u32>,
    mut reader: Reader,
    writer: Writer,
    payload: &[u8],
) {
    let arrived = Instant::now();
    let output = Output::start(writer);
    let Some(hello) = hello::Hello::parse(payload) else {
        output.send(Kind::Failed, 0, b"the hello cannot be read".to_vec());
        return output.finish().await;
    };
    let session = agent.session(hello.session);
    let Some(session) = session.filter(|session| peer.uid == 0 || peer.uid == session.uid) else {
        output.send(Kind::RunHere, 0, vec![Reason::NoAgent as u8, 0]);
        return output.finish().await;
    };
    let (frames_tx, frames) = mpsc::channel(FRAMES_WAITING_MAX);
    let stops = Stops::new(peer.pid);
    let goes_on = stops.noter();
    let pump = tokio::task::spawn_local(async move {
        while let Some(frame) = reader.next(DATA_BYTES_MAX).await {
            if signal(&frame.0, &frame.1) == Some(libc::SIGCONT) {
                goes_on();
            }
            // Who waits for the stub to leave hears no frames any more.
            let _ = frames_tx.send(frame).await;
        }
        goes_on();
    });
    let mut stub = Stub { frames, output, stops, pid: peer.pid };
    let compiles = hello.compiles(&session);
    if compiles {
        stub.output.be_patient();
    }
    let argv0 = hello.argv0();
    let mut withheld = None;
    let end = match hello.spec(&agent, &session, peer, groups).await {
        Ok(spec) if spec.compiles && alone::is_alone(&agent, &session, peer) => {
            drop_with_process(session.note_under_way(), stub.pid);
            End::Here(Reason::Alone.into())
        }
        Ok(spec) if all_are_too_dear(&agent, &session, &spec) => End::Here(Reason::Transfer.into()),
        Ok(spec) => {
            let _under_way = session.note_under_way();
            carry(&agent, &session, &mut stub, &spec, arrived).await
        }
        Err(stay) => {
            withheld = stay.variable;
            End::Here(stay.reason.into())
        }
    };
    match end {
        End::Exit(status, slot) => {
            stub.output.send(Kind::Exit, 0, status.to_le_bytes().to_vec());
            if let Some(slot) = slot {
                agent.cluster.pass_on(slot, session.id);
            }
        }
        End::Here(cause) => {
            let reason = cause.reason;
            session.add_stay(&argv0, reason, withheld.clone());
            if reason == Reason::Transfer {
                drop_with_process(session.note_stayed(), stub.pid);
            }
            if session.no_fallback && reason != Reason::GrantedHome {
                let local = || notice::local_cause(reason, withheld.as_deref(), std::process::id());
                let of_cluster = || agent.cluster.notice(session.on.as_ref());
                let why = cause.detail.or_else(local).or_else(of_cluster);
                let text = format!(
                    "{argv0} cannot walk ({}), and --no-fallback forbids to execute it here{}",
                    reason.name(),
                    why.map_or_else(String::new, |why| format!(": {why}"))
                );
                stub.output.send(Kind::Refused, 0, text.into_bytes());
            } else {
                let parts = stays_with_its_parts(reason, compiles);
                stub.output.send(Kind::RunHere, 0, vec![reason as u8, u8::from(parts)]);
            }
        }
        End::Lost(text) => stub.output.send(Kind::Refused, 0, text.into_bytes()),
        End::Gone => {}
    }
    let Stub { output, frames, .. } = stub;
    // Nobody waits for room there.
    drop(frames);
    output.finish().await;
    // The stub leaves when it has read its last frame. Closing first would cut it off.
    if !pump.is_finished() {
        let _ = tokio::time::timeout(FAREWELL_MAX, pump).await;
    }
}

/// Tells whether what a program executes stays with it. Of a compile step that has a slot of this machine no part
/// waits for a second one: there may be no more.
fn stays_with_its_parts(reason: Reason, compiles: bool) -> bool {
    matches!(reason, Reason::Alone | Reason::Transfer)
        || (compiles && reason == Reason::GrantedHome)
}

/// Tells whether each node that may be had is one to which a compile step is not worth sending.
fn all_are_too_dear(agent: &Agent, session: &Session, spec: &WalkSpec) -> bool {
    if !spec.compiles || !session.keeps_lone {
        return false;
    }
    let nodes = agent.cluster.nodes.borrow();
    let mut runners = nodes
        .iter()
        .filter(|state| state.alive && state.info.slots > 0 && state.info.node != agent.node)
        .peekable();
    runners.peek().is_some()
        && runners.all(|state| is_too_dear(agent, session, spec, &state.info.node))
}

/// Tells whether a program is a compile step and not worth what has to be sent to a node for it, as far as that is
/// known. Who named a node, or wants all to walk, has decided that.
fn is_too_dear(agent: &Agent, session: &Session, spec: &WalkSpec, node: &NodeId) -> bool {
    if !spec.compiles || !session.keeps_lone {
        return false;
    }
    let rate = || agent.open_link(node).map_or(0, |link| link.delivery_rate());
    let price = agent.transfers.price(node, &spec.path, rate);
    price.is_some_and(|price| !session.affords(price))
}

/// Carries a walk through its attempts.
async fn carry(
    agent: &Rc<Agent>,
    session: &Rc<Session>,
    stub: &mut Stub,
    spec: &WalkSpec,
    arrived: Instant,
) -> End {
    let cluster = &agent.cluster;
    let mut errand = Errand {
        agent,
        session,
        spec,
        outgoing: Outgoing::new(spec),
        arrived,
        turns: cluster.wait_for(spec.walk),
        failed_nodes: Vec::new(),
    };
    let end = errand.attempts(stub).await;
    cluster.forget(spec.walk);
    // A grant that came too late holds a slot; a passed one is given back when it is dropped.
    while let Ok(turn) = errand.turns.try_recv() {
        if let Turn::Granted(grant) = turn {
            cluster.finish(&grant);
        }
    }
    end
}

/// A walk that looks for somebody to execute it.
struct Errand<'a> {
    agent: &'a Rc<Agent>,
    session: &'a Rc<Session>,
    spec: &'a WalkSpec,
    outgoing: Outgoing<'a>,
    arrived: Instant,
    /// Where grants arrive that had to be waited for.
    turns: mpsc::UnboundedReceiver<Turn>,
    failed_nodes: Vec<NodeId>,
}

impl Errand<'_> {
    async fn attempts(&mut self, stub: &mut Stub) -> End {
        let (agent, spec) = (self.agent, self.spec);
        // The attempt at the broker that failed, and why the last one did
        let (mut failed, mut why): (_, Option<Reason>) = (None, None);
        let mut newer = None;
        for attempt in 1..=ATTEMPTS_MAX {
            let placed = match newer.take() {
                Some(slot) => Placed::Granted(slot),
                None => self.place(stub, failed.as_ref()).await,
            };
            let slot = match placed {
                Placed::Granted(slot) => slot,
                Placed::Not(reason) => return give_up(stub, spec.walk, why.unwrap_or(reason)),
                Placed::Gone => {
                    agent.cluster.cancel(spec.walk);
                    return End::Gone;
                }
            };
            let (waited, grant) = (self.arrived.elapsed(), slot.grant().clone());
            if grant.node == agent.node {
                drop_with_process(slot, stub.pid);
                return give_up(stub, spec.walk, Reason::GrantedHome);
            }
            agent.cluster.adopt(&slot, spec.walk);
            let attempted =
                attempt::run(agent, self.session, stub, &self.outgoing, &slot, &mut self.turns)
                    .await;
            agent.cluster.disown(&slot, spec.walk);
            stub.stops.resume(matches!(attempted, Attempted::Ended(_)));
            let lost = match attempted {
                Attempted::Ended(ended) => {
                    if spec.compiles {
                        agent.transfers.note_provided(&grant.node, &spec.path);
                    }
                    // While it is committed somebody who waits may have the slot.
                    let keeps = ended.exit.is_empty() || agent.cluster.may_pass_on();
                    let slot = keeps.then_some(slot);
                    if let Some(reason) = doubt(&ended.exit.exit)
                        && stub.output.is_untouched()
                    {
                        // It would be so on every runner; here it is certain what happens.
                        return give_up(stub, spec.walk, reason);
                    }
                    let line = || self.line(stub, &ended, &grant, attempt, waited);
                    let line = self.session.keeps_report().then(line);
                    let last = stub.output.consumed_input() || attempt == ATTEMPTS_MAX;
                    let committed = if is_torn(&ended) && !last {
                        Committed::Conflict
                    } else {
                        self.commit(stub, ended, line, last).await
                    };
                    match committed {
                        Committed::Done(status) => return End::Exit(status, slot),
                        Committed::Not(cause) => return give_up(stub, spec.walk, cause),
                        Committed::Conflict => {
                            // Once more, here or on any other node: what was shown is not shown again.
                            stub.output.rewind();
                            newer = slot;
                            continue;
                        }
                    }
                }
                Attempted::Failed(reason) => reason,
                Attempted::Superseded(grant) => {
                    newer = Some(Slot::new(&agent.cluster, grant));
                    Reason::RunnerLost
                }
                Attempted::Gone => return End::Gone,
                Attempted::Declined(cause) => return give_up(stub, spec.walk, cause),
            };
            tracing::warn!(walk = %spec.walk, node = %grant.node, reason = lost.name(), "attempt failed");
            let is_own = grant.walk == spec.walk;
            if stub.output.consumed_input() {
                if is_own {
                    agent.cluster.cancel(spec.walk);
                    slot.forget();
                }
                return give_up(stub, spec.walk, lost);
            }
            stub.output.rewind();
            self.failed_nodes.push(grant.node.clone());
            failed = None;
            if newer.is_some() {
                slot.forget();
            } else if is_own {
                // To ask for another one is to give this one back.
                slot.forget();
                failed = Some(grant);
            }
            why = Some(lost);
        }
        agent.cluster.cancel(spec.walk);
        give_up(stub, spec.walk, why.unwrap_or(Reason::RunnerLost))
    }

    /// Makes the line of a program that ended.
    fn line(
        &self,
        stub: &Stub,
        ended: &Ended,
        grant: &Grant,
        attempt: u32,
        waited: Duration,
    ) -> WalkLine {
        let spec = self.spec;
        let (argv, argv_left_out, argv_lossy) = session::argv(spec.arguments());
        WalkLine {
            argv0: text(spec.arguments().next().unwrap_or_default()),
            argv,
            argv_left_out,
            argv_lossy,
            output: self.outgoing.output().map(text),
            cwd: text(&spec.cwd),
            runner: grant.node.to_string(),
            attempt,
            start_ms: self.session.report_ms(self.arrived),
            end_ms: 0.0,
            wait_ms: waited.as_secs_f64() * 1e3,
            run_ms: ms(ended.ending.run_us),
            origin_cpu_ms: crate::sys::process::cpu_of(stub.pid).as_secs_f64() * 1e3,
            runner_cpu_ms: ms(ended.ending.cpu_us),
            bytes_out: ended.bytes_out,
            bytes_back: ended.bytes_back,
            status: shell_status(ended.ending.status),
            overwrote: Vec::new(),
            torn: is_torn(ended),
        }
    }

    /// Applies what a program that ended has changed; if that is the `last` chance, over what others
    /// have changed meanwhile.
    async fn commit(
        &self,
        stub: &Stub,
        ended: Ended,
        line: Option<WalkLine>,
        last: bool,
    ) -> Committed {
        let (agent, session, spec) = (self.agent, self.session, self.spec);
        let offsets = vet::offsets(spec, &ended.exit.exit.offsets);
        let is_torn = is_torn(&ended);
        let bound = Bound { last_wins: last, touched: !stub.output.is_untouched() };
        match attempt::commit(agent, &self.outgoing, ended.exit, bound).await {
            Ok(Applied { status, overwrote, left_out }) => {
                let overwrote: Vec<_> = overwrote.iter().map(|path| text(path)).collect();
                let argv0 = text(spec.arguments().next().unwrap_or_default());
                let told = overwrote.iter().map(|path| overwritten(&argv0, path));
                let told = told.chain(left_out.iter().map(|path| not_written(&argv0, &text(path))));
                let warnings: Vec<_> = told.chain(is_torn.then(|| torn(&argv0))).collect();
                if let Some(line) = line {
                    session.add_walk(WalkLine { overwrote, ..line });
                }
                for (fd, offset) in offsets {
                    stub.output.send(Kind::Seek, fd, offset.to_le_bytes().to_vec());
                }
                stub.output.release();
                for warning in warnings {
                    stub.output.send(Kind::Data, STDERR, warning.into_bytes());
                }
                Committed::Done(status)
            }
            Err(error) => {
                tracing::error!(walk = %spec.walk, "{error:#}");
                let conflict =
                    matches!(error.downcast_ref::<CommitError>(), Some(CommitError::Conflict(_)));
                if conflict && !stub.output.is_untouched() {
                    return Committed::Conflict;
                }
                let reason = if conflict { Reason::Conflict } else { Reason::CommitFault };
                Committed::Not(Cause { reason, detail: Some(format!("{error:#}")) })
            }
        }
    }

    /// Finds a slot: one that this origin has, or one of the broker's, for which the walk may wait.
    async fn place(&mut self, stub: &mut Stub, failed: Option<&Grant>) -> Placed {
        let Self { agent, session, spec, turns, failed_nodes, .. } = self;
        let (cluster, walk) = (&agent.cluster, spec.walk);
        let mut waits_in_line = false;
        if failed_nodes.is_empty() {
            if let Some(slot) = cluster.kept_slot(session.id, session.on.as_ref()) {
                return Placed::Granted(slot);
            }
            waits_in_line = session.on.is_none() && cluster.wait_in_line(walk);
        }
        let submit = |after: Attempt| Submit {
            walk,
            after,
            only: session.on.clone(),
            avoid: [&failed_nodes[..], &cluster.to_avoid()].concat(),
            prefer: agent.warm_nodes(),
        };
        let after = failed.map_or(Attempt(0), |grant| grant.attempt);
        let broker = &cluster.broker;
        let mut queued = None;
        if !waits_in_line {
            let submitted = match failed {
                None => broker.submit(&submit(after)).await,
                Some(grant) => match broker.retry(walk, grant.attempt, Some(&grant.node)).await {
                    Ok(Retried::Submitted(submitted)) => Ok(submitted),
                    Ok(Retried::NotNeeded) => broker.submit(&submit(after)).await,
                    Err(error) => Err(error),
                },
            };
            match submitted {
                Ok(Submitted::Granted(grant)) => {
                    return Placed::Granted(Slot::new(cluster, grant));
                }
                Ok(Submitted::Queued(_)) => queued = Some(cluster.note_queued()),
                Ok(Submitted::Busy) => return Placed::Not(Reason::NoSlot),
                Ok(Submitted::Exhausted) => return Placed::Not(Reason::RunnerLost),
                Err(error) => {
                    tracing::warn!(%error, %walk, "failed to submit");
                    // The broker may have heard it all the same.
                    cluster.cancel(walk);
                    return Placed::Not(Reason::NoBroker);
                }
            }
        }
        let mut changes = cluster.changes();
        let placed = loop {
            if !cluster.has_runner_for(session.on.as_ref(), failed_nodes) {
                cluster.cancel(walk);
                break Placed::Not(Reason::NoCluster);
            }
            tokio::select! {
                turn = turns.recv() => match turn {
                    Some(Turn::Granted(grant)) if grant.attempt > after => {
                        break Placed::Granted(Slot::new(cluster, grant));
                    }
                    Some(Turn::Granted(_)) => {}
                    Some(Turn::Passed(slot)) => break Placed::Granted(slot),
                    Some(Turn::Dropped) | None => {
                        if agent.session(session.id).is_none() {
                            break Placed::Not(Reason::NoAgent);
                        }
                        cluster.leave_line(walk);
                        match broker.submit(&submit(after)).await {
                            Ok(Submitted::Granted(grant)) => {
                                break Placed::Granted(Slot::new(cluster, grant));
                            }
                            Ok(Submitted::Queued(_)) => {
                                queued.get_or_insert_with(|| cluster.note_queued());
                            }
                            _ => break Placed::Not(Reason::NoBroker),
                        }
                    }
                },
                frame = stub.frames.recv() => {
                    // Nothing runs yet: a signal is for the stub itself.
                    match frame {
                        None => break Placed::Gone,
                        Some((header, payload)) => {
                            let deadly = signal(&header, &payload)
                                .filter(|&signal| is_deadly(signal, spec));
                            if let Some(status) = deadly {
                                stub.output.send(Kind::Exit, 0, status.to_le_bytes().to_vec());
                                break Placed::Gone;
                            }
                        }
                    }
                }
                _ = changes.changed() => {}
            }
        };
        cluster.leave_line(walk);
        placed
    }
}

/// Returns why a walk is not believed as long as it can be repeated.
fn doubt(exit: &Exit) -> Option<Reason> {
    let linked = (!exit.changes.linked.is_empty()).then_some(Reason::Linked);
    linked.or(exit.doubt.map(|doubt| match doubt {
        Doubt::ShownLess => Reason::NotExported,
        Doubt::Torn => Reason::Conflict,
        Doubt::Left | Doubt::Elsewhere => Reason::Place,
    }))
}

/// No runner will do it: the program is executed here, if nothing of it has been seen yet.
fn give_up(stub: &Stub, walk: WalkId, cause: impl Into<Cause>) -> End {
    let cause = cause.into();
    if stub.output.is_untouched() { End::Here(cause) } else { End::Lost(loss(walk, &cause)) }
}

/// What the user is told of a walk that can neither be done nor begun anew.
fn loss(walk: WalkId, Cause { reason, detail }: &Cause) -> String {
    let what = match reason {
        Reason::RunnerLost | Reason::RunnerFault | Reason::NoSlot | Reason::NoCluster => {
            format!("lost the runner of walk {walk}")
        }
        Reason::CommitFault => format!("failed to write what walk {walk} has changed"),
        _ => format!("failed to finish walk {walk}"),
    };
    let detail = detail.as_ref().map_or_else(String::new, |detail| format!(": {detail}"));
    format!(
        "{what} ({}) after the program had read or written, so that it cannot be started again unnoticed{detail}",
        reason.name()
    )
}

/// What became of a commit.
enum Committed {
    /// The program ended with this wait status.
    Done(i32),
    Not(Cause),
    /// Somebody else has changed the same, or what it has read, and some of its output was shown.
    Conflict,
}

enum Placed {
    Granted(Slot),
    Not(Reason),
    Gone,
}

/// Returns the signal that a frame of the stub forwards.
fn signal(header: &Header, payload: &[u8]) -> Option<i32> {
    let word = (header.kind == Kind::Signal).then(|| payload.first_chunk())?;
    word.map(|word| i32::from_le_bytes(*word))
}

/// Tells whether the signal ends a program that has not begun; it is its wait status, too.
fn is_deadly(signal: i32, spec: &WalkSpec) -> bool {
    let harmless = [libc::SIGCONT, libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD];
    let unheard = (spec.ignored | spec.blocked) & (1 << (signal - 1).clamp(0, 63)) != 0;
    !harmless.contains(&signal) && !unheard
}

/// Drops what a process that is executed here holds, such as a slot of the origin's own, when it ends.
fn drop_with_process(held: impl Sized + 'static, pid: u32) {
    tokio::task::spawn_local(async move {
        if let Ok(process) = crate::sys::watch::process(pid) {
            // An error means that the process is gone, too.
            let _ = process.readable().await;
        }
        drop(held);
    });
}

/// Tells whether a walk has read a file while that was changed.
fn is_torn(ended: &Ended) -> bool {
    ended.exit.exit.doubt == Some(Doubt::Torn)
}

/// What the user is told of a loss that could not be avoided.
fn overwritten(argv0: &str, path: &str) -> String {
    format!(
        "oswalk: {argv0} has overwritten {path}, which was changed by something else while it ran\n"
    )
}

/// What the user is told of a hidden file that was written elsewhere.
fn not_written(argv0: &str, path: &str) -> String {
    format!(
        "oswalk: {argv0} has written {path}, which is not exported: what it wrote there is lost, and the file is as it was\n"
    )
}

/// What the user is told of a read that could not be repeated.
fn torn(argv0: &str) -> String {
    format!(
        "oswalk: {argv0} has read a file while something else changed it, and may have seen the old \
         size with the new content; run it again if that matters\n"
    )
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns a wait status as a shell shows it.
fn shell_status(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use worknode::id::SessionId;

    #[test]
    fn what_cannot_be_begun_anew_is_told() {
        let walk = WalkId { session: SessionId(1), number: 2 };
        let detail = "the runner changed /root/.x_history, which is not exported".to_owned();
        let told = loss(walk, &Cause { reason: Reason::CommitFault, detail: Some(detail) });
        assert!(
            told.starts_with("failed to write what walk ") && told.contains("/root/.x_history")
        );
        assert!(!told.contains("lost the runner") && told.contains("(commit-fault)"));
        let told = loss(walk, &Reason::RunnerLost.into());
        assert!(told.starts_with("lost the runner of walk "), "{told}");
    }
}
