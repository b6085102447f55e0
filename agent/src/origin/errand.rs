//! Carries a walk through its attempts, from the first slot to the commit.
//!
//! Everything up to the commit may fail without harm: the walk is tried on another runner, or the
//! stub executes the program here. After the commit only the exit is left.

use std::rc::Rc;
use std::time::{Duration, Instant};

use broker::Grant;
use packetfs::commit::CommitError;
use tokio::sync::mpsc;
use worknode::door::Kind;
use worknode::id::{NodeId, WalkId};
use worknode::reason::Reason;
use worknode::report::WalkLine;
use worknode::spec::WalkSpec;

use super::attempt::{self, Applied, Attempted, Bound, Ended, Outgoing};
use super::place::{Place, Placed};
use super::shared::Shared;
use super::stub::{Cause, STDERR, Stub, drop_with_process};
use super::{told, vet};
use crate::cluster::{Slot, Turn};
use crate::link::message::{Doubt, Exit};
use crate::session::{self, Session, ms};

/// Attempts on runners before the program is executed here.
const ATTEMPTS_MAX: u32 = 3;

/// How it ended for the stub.
pub(super) enum End {
    /// With this wait status. The slot may go to another walk.
    Exit(i32, Option<Slot>),
    /// The program is to be executed here.
    Here(Cause),
    /// It cannot go on; a sentence for the user.
    Lost(String),
    /// The stub itself is gone.
    Gone,
}

/// Carries a walk through its attempts.
pub(super) async fn carry(
    shared: &Rc<Shared>,
    session: &Rc<Session>,
    stub: &mut Stub,
    spec: &WalkSpec,
    arrived: Instant,
) -> End {
    let cluster = &shared.cluster;
    let mut errand = Errand {
        shared,
        session,
        spec,
        outgoing: Outgoing::new(spec),
        arrived,
        turns: cluster.slots.wait_for(spec.walk),
        failed_nodes: Vec::new(),
    };
    let end = errand.attempts(stub).await;
    cluster.slots.forget(spec.walk);
    // A grant that came too late holds a slot; a passed one is given back when it is dropped.
    while let Ok(turn) = errand.turns.try_recv() {
        if let Turn::Granted(grant) = turn {
            cluster.slots.finish(&grant);
        }
    }
    end
}

/// A walk that looks for somebody to execute it.
struct Errand<'a> {
    shared: &'a Rc<Shared>,
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
        let (shared, spec) = (self.shared, self.spec);
        // The attempt at the broker that failed, and why the last one did
        let (mut failed, mut why): (_, Option<Reason>) = (None, None);
        let mut newer = None;
        for attempt in 1..=ATTEMPTS_MAX {
            let placed = match newer.take() {
                Some(slot) => Placed::Granted(slot),
                None => {
                    let place = Place {
                        shared,
                        session: self.session,
                        spec,
                        failed_nodes: &self.failed_nodes,
                        failed: failed.as_ref(),
                    };
                    place.find(stub, &mut self.turns).await
                }
            };
            let slot = match placed {
                Placed::Granted(slot) => slot,
                Placed::Not(reason) => return give_up(stub, spec.walk, why.unwrap_or(reason)),
                Placed::Gone => {
                    shared.cluster.slots.cancel(spec.walk);
                    return End::Gone;
                }
            };
            let (waited, grant) = (self.arrived.elapsed(), slot.grant().clone());
            if grant.node == shared.node {
                drop_with_process(slot, stub.pid);
                return give_up(stub, spec.walk, Reason::GrantedHome);
            }
            shared.cluster.slots.adopt(&slot, spec.walk);
            let attempted =
                attempt::run(shared, self.session, stub, &self.outgoing, &slot, &mut self.turns)
                    .await;
            shared.cluster.slots.disown(&slot, spec.walk);
            stub.stops.resume(matches!(attempted, Attempted::Ended(_)));
            let lost = match attempted {
                Attempted::Ended(ended) => {
                    if spec.compiles {
                        shared.links.transfers.note_provided(&grant.node, &spec.path);
                    }
                    // While it is committed somebody who waits may have the slot.
                    let keeps = ended.exit.is_empty() || shared.cluster.slots.may_pass_on();
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
                    newer = Some(shared.cluster.slots.hold(grant));
                    Reason::RunnerLost
                }
                Attempted::Gone => return End::Gone,
                Attempted::Declined(cause) => return give_up(stub, spec.walk, cause),
            };
            tracing::warn!(walk = %spec.walk, node = %grant.node, reason = lost.name(), "attempt failed");
            let is_own = grant.walk == spec.walk;
            if stub.output.consumed_input() {
                if is_own {
                    shared.cluster.slots.cancel(spec.walk);
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
        shared.cluster.slots.cancel(spec.walk);
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
        let (shared, session, spec) = (self.shared, self.session, self.spec);
        let offsets = vet::offsets(spec, &ended.exit.exit.offsets);
        let is_torn = is_torn(&ended);
        let bound = Bound { last_wins: last, touched: !stub.output.is_untouched() };
        match attempt::commit(shared, &self.outgoing, ended.exit, bound).await {
            Ok(Applied { status, overwrote, left_out }) => {
                let overwrote: Vec<_> = overwrote.iter().map(|path| text(path)).collect();
                let argv0 = text(spec.arguments().next().unwrap_or_default());
                let told = overwrote.iter().map(|path| told::overwritten(&argv0, path));
                let told =
                    told.chain(left_out.iter().map(|path| told::not_written(&argv0, &text(path))));
                let warnings: Vec<_> = told.chain(is_torn.then(|| told::torn(&argv0))).collect();
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
    if stub.output.is_untouched() { End::Here(cause) } else { End::Lost(told::loss(walk, &cause)) }
}

/// What became of a commit.
enum Committed {
    /// The program ended with this wait status.
    Done(i32),
    Not(Cause),
    /// Somebody else has changed the same, or what it has read, and some of its output was shown.
    Conflict,
}

/// Tells whether a walk has read a file while that was changed.
fn is_torn(ended: &Ended) -> bool {
    ended.exit.exit.doubt == Some(Doubt::Torn)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns a wait status as a shell shows it.
fn shell_status(status: i32) -> i32 {
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}
