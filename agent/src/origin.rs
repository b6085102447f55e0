//! A walk at its origin, from the stub's hello to its exit.

mod alone;
mod attempt;
mod errand;
mod hello;
mod installed;
mod ledger;
mod life;
mod outgoing;
mod output;
mod place;
mod price;
mod shared;
mod stops;
mod stub;
mod told;
mod vet;

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use worknode::door::{DATA_BYTES_MAX, Here, Kind};
use worknode::notice;
use worknode::reason::Reason;

use crate::admission::{Act, admit};
use crate::door::{Reader, Visitor};
use crate::session::Session;
use errand::{End, carry};
use hello::{Hello, Stay};
use outgoing::Outgoing;
use output::Output;
pub(crate) use shared::Shared;
use stops::Stops;
use stub::{Cause, Stub, drop_with_process, signal};
pub(crate) use vet::concerned;

/// Most waiting frames of a stub; beyond this the stub itself has to wait.
const FRAMES_WAITING_MAX: usize = 64;
/// How long a stub may take to exit after its last frame, because it may still be writing output.
const FAREWELL_MAX: Duration = Duration::from_secs(600);

/// Handles a stub, whose hello is `payload`.
pub(crate) async fn walk(shared: Rc<Shared>, visitor: Visitor, payload: &[u8]) {
    let arrived = Instant::now();
    let Visitor { pid, who, reader, writer } = visitor;
    let output = Output::start(writer);
    let Some(hello) = Hello::parse(payload) else {
        output.send(Kind::Failed, 0, b"the hello cannot be read".to_vec());
        return output.finish().await;
    };
    let session = shared.sessions.get(hello.session);
    let owner = session.as_ref().map(|session| session.uid);
    let admitted = admit(&who, Act::Walk { owner });
    if let Err(refusal) = &admitted {
        tracing::info!(%refusal, "a process may not walk");
    }
    let (Some(session), Ok(())) = (session, admitted) else {
        let here = Here { reason: Reason::NoAgent as u8, alone: false };
        output.send(Kind::RunHere, 0, here.encode().to_vec());
        return output.finish().await;
    };
    let (frames_tx, frames) = mpsc::channel(FRAMES_WAITING_MAX);
    let stops = Stops::new(pid);
    let pump = tokio::task::spawn_local(pump(reader, frames_tx, stops.noter()));
    let mut stub = Stub { frames, output, stops, pid };
    let program = Program { argv0: hello.argv0(), compiles: hello.compiles(&session) };
    if program.compiles {
        stub.output.be_patient();
    }
    let mut withheld = None;
    let end = match hello.spec(&shared, &session, pid, who).await {
        Ok((spec, _)) if spec.compiles && alone::is_alone(&shared.cluster, &session, pid) => {
            drop_with_process(session.note_under_way(), stub.pid);
            End::Here(Reason::Alone.into())
        }
        Ok((spec, _)) if price::all_are_too_dear(&shared, &session, &spec) => {
            End::Here(Reason::Transfer.into())
        }
        Ok((spec, files)) => {
            let _under_way = session.note_under_way();
            match Outgoing::prepare(&shared, spec, files).await {
                Ok(outgoing) => carry(&shared, &session, &mut stub, &outgoing, arrived).await,
                Err(reason) => End::Here(reason.into()),
            }
        }
        Err(Stay { reason, variable }) => {
            withheld = variable;
            End::Here(reason.into())
        }
    };
    match end {
        End::Exit(status, slot) => {
            stub.output.send(Kind::Exit, 0, status.to_le_bytes().to_vec());
            if let Some(slot) = slot {
                shared.cluster.slots.pass_on(slot, session.id);
            }
        }
        End::Here(cause) => execute_here(&shared, &session, &stub, &program, cause, withheld),
        End::Lost(text) => stub.output.send(Kind::Refused, 0, text.into_bytes()),
        End::Gone => {}
    }
    let Stub { output, frames, .. } = stub;
    // Nobody waits for room there.
    drop(frames);
    output.finish().await;
    // The stub exits after reading its last frame. Closing the connection first could lose that frame.
    if !pump.is_finished() {
        let _ = tokio::time::timeout(FAREWELL_MAX, pump).await;
    }
}

/// The program of a stub, for the report.
struct Program {
    argv0: String,
    compiles: bool,
}

/// Passes on the stub's frames until it is gone. `goes_on` records that it is not stopped any more.
async fn pump(
    mut reader: Reader,
    frames_tx: mpsc::Sender<(worknode::door::Header, Vec<u8>)>,
    goes_on: impl Fn(),
) {
    while let Some(frame) = reader.next(DATA_BYTES_MAX).await {
        if signal(&frame.0, &frame.1) == Some(libc::SIGCONT) {
            goes_on();
        }
        // Fails while the stub is exiting, when its frames are ignored.
        let _ = frames_tx.send(frame).await;
    }
    goes_on();
}

/// Makes the stub execute its program here, or refuses it if the session forbids that.
fn execute_here(
    shared: &Shared,
    session: &Session,
    stub: &Stub,
    program: &Program,
    cause: Cause,
    withheld: Option<String>,
) {
    let (reason, argv0) = (cause.reason, &program.argv0);
    session.add_stay(argv0, reason, withheld.clone());
    if reason == Reason::Transfer {
        drop_with_process(session.note_stayed(), stub.pid);
    }
    if !session.no_fallback || reason == Reason::GrantedHome {
        let alone = stays_with_its_parts(reason, program.compiles);
        let here = Here { reason: reason as u8, alone };
        return stub.output.send(Kind::RunHere, 0, here.encode().to_vec());
    }
    let local = || notice::local_cause(reason, withheld.as_deref(), std::process::id());
    let of_cluster = || shared.cluster.notice(session.on.as_ref());
    let why = cause.detail.or_else(local).or_else(of_cluster);
    let text = format!(
        "{argv0} cannot walk ({}), and --no-fallback forbids to execute it here{}",
        reason.name(),
        why.map_or_else(String::new, |why| format!(": {why}"))
    );
    stub.output.send(Kind::Refused, 0, text.into_bytes());
}

/// Tells whether programs that a program executes stay with it. The parts of a compile step that holds a slot of this
/// machine must not wait for another slot, because there may be none.
fn stays_with_its_parts(reason: Reason, compiles: bool) -> bool {
    matches!(reason, Reason::Alone | Reason::Transfer)
        || (compiles && reason == Reason::GrantedHome)
}
