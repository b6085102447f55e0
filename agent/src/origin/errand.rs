//! Carries a walk through its attempts, from the first slot to the commit.
//!
//! Everything up to the commit may fail without harm: the walk is tried on another runner, or the
//! stub executes the program here. After the commit only the exit is left.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Grant;
use packetfs::commit::CommitError;
use tokio::sync::mpsc;
use worknode::capability::Lack;
use worknode::door::Kind;
use worknode::id::NodeId;
use worknode::reason::Reason;
use worknode::report::WalkLine;
use worknode::spec::WalkSpec;

use super::attempt::{self, Applied, Attempted, Bound, Ended};
use super::life::{Event, Life, State};
use super::outgoing::Outgoing;
use super::place::{Place, Placed};
use super::shared::Shared;
use super::stub::{Cause, STDERR, Stub};
use super::{told, vet};
use crate::cluster::{Slot, Turn};
use crate::session::{self, Session, ms};
use crate::wire::message::{Doubt, Exit};

/// The end of a walk for its stub.
pub(super) enum End {
    /// The program ended with this wait status. The slot may go to another walk.
    Exit(i32, Option<Slot>),
    /// The program must be executed here.
    Here(Cause),
    /// It cannot continue; with a message for the user.
    Lost(String),
    /// The stub itself is gone.
    Gone,
}

/// Carries a walk through its attempts.
pub(super) async fn carry(
    shared: &Rc<Shared>,
    session: &Rc<Session>,
    stub: &mut Stub,
    outgoing: &Outgoing,
    arrived: Instant,
) -> End {
    let (cluster, spec) = (&shared.cluster, &*outgoing.spec);
    let mut errand = Errand {
        shared,
        session,
        spec,
        outgoing,
        arrived,
        turns: cluster.slots.wait_for(spec.walk),
        failed_nodes: Vec::new(),
        faulty: Vec::new(),
        ran_on: None,
        failed: None,
        slot: None,
        ended: None,
        status: 0,
        detail: None,
    };
    let end = errand.live(stub).await;
    cluster.slots.forget(spec.walk);
    // A late grant holds a slot, which must be given back. A passed slot is given back when it is dropped.
    while let Ok(turn) = errand.turns.try_recv() {
        if let Turn::Granted(grant) = turn {
            cluster.slots.finish(&grant);
        }
    }
    end
}

/// A walk with its attempts.
struct Errand<'a> {
    shared: &'a Rc<Shared>,
    session: &'a Rc<Session>,
    spec: &'a WalkSpec,
    outgoing: &'a Outgoing,
    arrived: Instant,
    /// The receiver of turns.
    turns: mpsc::UnboundedReceiver<Turn>,
    failed_nodes: Vec<NodeId>,
    /// Those of them that failed by a fault of their own.
    faulty: Vec<NodeId>,
    /// The node on which the program has ended.
    ran_on: Option<NodeId>,
    /// The last failed attempt, if the broker should replace it.
    failed: Option<Grant>,
    /// The slot of the current or the next attempt.
    slot: Option<Slot>,
    ended: Option<(Ended, Option<WalkLine>)>,
    /// How the program ended.
    status: i32,
    /// Details, if it is given up.
    detail: Option<String>,
}

impl Errand<'_> {
    /// Runs the state machine of the walk.
    async fn live(&mut self, stub: &mut Stub) -> End {
        let mut life = Life::new();
        loop {
            let event = match life.state {
                State::Queued => self.find_slot(stub).await,
                State::Running => self.attempt(stub, &life).await,
                State::Committing { last } => self.commit(stub, last).await,
                State::Done => return End::Exit(self.status, self.slot.take()),
                State::Here(reason) => return End::Here(self.cause(reason)),
                State::Lost(reason) => {
                    return End::Lost(told::loss(self.spec.walk, &self.cause(reason)));
                }
                State::Gone => return End::Gone,
            };
            let state = life.state;
            life.take(event, stub.output.seen(), self.slot.is_some());
            if state != State::Queued && matches!(life.state, State::Queued | State::Running) {
                // Repeat it, skipping output that was shown.
                stub.output.rewind();
                self.detail = None;
            }
        }
    }

    fn cause(&mut self, reason: Reason) -> Cause {
        Cause { reason, detail: self.detail.take() }
    }

    async fn find_slot(&mut self, stub: &mut Stub) -> Event {
        let failed = self.failed.take();
        let place = Place {
            shared: self.shared,
            session: self.session,
            spec: self.spec,
            failed_nodes: &self.failed_nodes,
            failed: failed.as_ref(),
        };
        match place.find(stub, &mut self.turns).await {
            Placed::Granted(slot) if slot.grant().node == self.shared.node => {
                stub.drop_with_process(slot);
                Event::GrantedHome
            }
            Placed::Granted(slot) => {
                self.slot = Some(slot);
                Event::Granted
            }
            Placed::Not(reason) => Event::NoSlot(reason),
            Placed::Gone => {
                self.shared.cluster.slots.cancel(self.spec.walk);
                Event::StubGone
            }
        }
    }

    /// Executes the walk on the runner of the slot.
    async fn attempt(&mut self, stub: &mut Stub, life: &Life) -> Event {
        let (shared, session, spec) = (self.shared, self.session, self.spec);
        let slot = self.slot.take().expect("a walk runs with a slot");
        let (slots, waited) = (&shared.cluster.slots, self.arrived.elapsed());
        slots.adopt(&slot, spec.walk);
        let reading = shared.pipes.read(stub.pid, spec);
        let attempted =
            attempt::run(shared, session, stub, self.outgoing, &slot, &mut self.turns).await;
        drop(reading);
        slots.disown(&slot, spec.walk);
        stub.stops.resume(matches!(attempted, Attempted::Ended(_)));
        match attempted {
            Attempted::Ended(ended) => {
                let grant = slot.grant();
                self.ran_on = Some(grant.node.clone());
                if spec.compiles {
                    shared.links.transfers.note_provided(&grant.node, &spec.path);
                }
                let line = || self.line(stub, &ended, grant, life.attempt, waited);
                let line = session.keeps_report().then(line);
                let event = Event::Ended { doubt: doubt(&ended.exit.exit), torn: is_torn(&ended) };
                // During the commit, a waiting walk may use the slot.
                let keeps = ended.exit.is_empty() || slots.may_pass_on();
                self.slot = keeps.then_some(slot);
                self.ended = Some((ended, line));
                event
            }
            Attempted::Failed(reason) => {
                if reason == Reason::RunnerFault {
                    self.faulty.push(slot.grant().node.clone());
                }
                self.fail(stub, life, slot, reason);
                Event::Failed(reason)
            }
            Attempted::Superseded(grant) => {
                let newer = slots.hold(grant);
                // The broker knows already that this attempt has ended.
                slot.forget();
                self.fail(stub, life, slot, Reason::RunnerLost);
                // The slot now belongs to the newer attempt.
                self.failed = None;
                self.slot = Some(newer);
                Event::Superseded
            }
            Attempted::Declined(Cause { reason, detail }) => {
                self.detail = detail;
                Event::Declined(reason)
            }
            Attempted::Gone => Event::StubGone,
        }
    }

    /// Gives up the slot of an attempt that failed.
    fn fail(&mut self, stub: &Stub, life: &Life, slot: Slot, reason: Reason) {
        let (walk, grant) = (self.spec.walk, slot.grant().clone());
        tracing::warn!(%walk, node = %grant.node, reason = reason.name(), "attempt failed");
        let is_own = grant.walk == walk;
        let ends = stub.output.consumed_input() || life.is_exhausted();
        if is_own {
            // Asking for another slot, or cancelling, gives this one back.
            slot.forget();
        }
        if ends {
            self.shared.cluster.slots.cancel(walk);
        } else {
            self.failed = is_own.then(|| grant.clone());
        }
        self.failed_nodes.push(grant.node);
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

    /// Commits the changes of a finished program. If this is the `last` chance, concurrent changes of others are
    /// overwritten.
    async fn commit(&mut self, stub: &Stub, last: bool) -> Event {
        let (ended, line) = self.ended.take().expect("only what has ended is committed");
        let offsets = self.offsets(&ended.exit.exit).await;
        let is_torn = is_torn(&ended);
        let bound = Bound { last_wins: last, touched: !stub.output.is_untouched() };
        match attempt::commit(self.shared, (self.session, self.outgoing), ended.exit, bound).await {
            Ok(applied) => {
                if let Some(node) = &self.ran_on {
                    self.shared.cluster.note_completed(node, &self.faulty);
                }
                let warnings = self.warnings(&applied, is_torn);
                if let Some(line) = line {
                    let overwrote = applied.overwrote.iter().map(|path| text(path)).collect();
                    self.session.add_walk(WalkLine { overwrote, ..line });
                }
                for (fd, offset) in offsets {
                    stub.output.send(Kind::Seek, fd, offset.to_le_bytes().to_vec());
                }
                stub.output.release();
                for warning in warnings {
                    stub.output.send(Kind::Data, STDERR, warning.into_bytes());
                }
                self.status = applied.status;
                Event::Committed
            }
            Err(error) => {
                tracing::error!(walk = %self.spec.walk, "{error:#}");
                self.detail = Some(format!("{error:#}"));
                if error.is::<Lack>() {
                    return Event::NotCommitted(Reason::NotAllowed);
                }
                match error.downcast_ref() {
                    Some(CommitError::Conflict(_)) => Event::Conflict,
                    Some(CommitError::Packet(digest)) => {
                        if let Some(node) = self.ran_on.take() {
                            let evidence = format!(
                                "packet {digest} of what a walk wrote there is missing or does not match its digest"
                            );
                            self.shared.links.quarantine(&node, evidence);
                        }
                        Event::NotCommitted(Reason::CommitFault)
                    }
                    _ => Event::NotCommitted(Reason::CommitFault),
                }
            }
        }
    }

    /// Returns the offsets up to which the walk has read files that the stub has open.
    async fn offsets(&self, exit: &Exit) -> Vec<(u16, u64)> {
        if exit.offsets.is_empty() {
            return Vec::new();
        }
        let (spec, claimed) = (Arc::clone(&self.outgoing.spec), exit.offsets.clone());
        let question = move |look| vet::offsets(&spec, &claimed, look);
        // If the file system does not answer, the stub's offsets stay unchanged.
        self.shared.looks.look(self.spec.principal.uid, question).await.unwrap_or_default()
    }

    /// Returns the messages about losses.
    fn warnings(&self, applied: &Applied, is_torn: bool) -> Vec<String> {
        let argv0 = text(self.spec.arguments().next().unwrap_or_default());
        let overwritten =
            applied.overwrote.iter().map(|path| told::overwritten(&argv0, &text(path)));
        let left_out = applied.left_out.iter().map(|path| told::not_written(&argv0, &text(path)));
        overwritten.chain(left_out).chain(is_torn.then(|| told::torn(&argv0))).collect()
    }
}

/// Returns why the result of a walk is not used as long as the walk can be repeated.
fn doubt(exit: &Exit) -> Option<Reason> {
    let linked = (!exit.changes.linked.is_empty()).then_some(Reason::Linked);
    linked.or(exit.doubt.map(|doubt| match doubt {
        Doubt::ShownLess => Reason::NotExported,
        Doubt::Torn => Reason::Conflict,
        Doubt::Left | Doubt::Elsewhere => Reason::Place,
    }))
}

/// Tells whether a walk has read a file during a change.
fn is_torn(ended: &Ended) -> bool {
    ended.exit.exit.doubt == Some(Doubt::Torn)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Converts a wait status to the exit status that a shell shows.
fn shell_status(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
