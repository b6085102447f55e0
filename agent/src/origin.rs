//! A walk at its origin, from the stub's hello to its exit.

mod alone;
mod attempt;
mod errand;
mod hello;
mod ledger;
mod life;
mod near;
mod outgoing;
mod output;
mod pipes;
mod place;
mod price;
mod shared;
mod stops;
mod stub;
mod told;
mod vet;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use worknode::door::{DATA_BYTES_MAX, HelloHead, Here, Kind};
use worknode::id::SessionId;
use worknode::notice;
use worknode::reason::Reason;

use crate::admission::{Act, admit};
use crate::door::{Reader, Visitor};
use crate::session::Session;
use errand::{End, carry};
pub(crate) use hello::explain::explain;
use hello::{Hello, Stay};
pub(crate) use near::Near;
use outgoing::Outgoing;
use output::Output;
pub(crate) use shared::Shared;
use stops::Stops;
use stub::{Cause, Said, Stub, signal};
pub(crate) use vet::concerned;

/// Most waiting frames of a stub, and most bytes of them, twice what a stub sends without being asked again; beyond this the
/// stub itself has to wait.
const FRAMES_WAITING_MAX: usize = 64;
const BYTES_WAITING_MAX: u32 = 128 * 1024;
const _: () = assert!(BYTES_WAITING_MAX as usize >= 2 * DATA_BYTES_MAX);
/// Longest hello that is decoded between other work: about a millisecond.
const HELLO_AT_ONCE_BYTES_MAX: usize = 256 * 1024;
/// The answer to such a hello if the program may not be executed here.
const BUSY: &str = "the agent is busy with other long command lines of this user, and --no-fallback forbids to execute this one here: try again";
/// How long a stub may take to exit after its last frame, because it may still be writing output.
const FAREWELL_MAX: Duration = Duration::from_secs(600);

/// Handles a stub, whose hello is `payload`.
pub(crate) async fn walk(shared: Rc<Shared>, visitor: Visitor, payload: Vec<u8>) {
    let arrived = Instant::now();
    let Visitor { pid, who, reader, writer, guest } = visitor;
    let output = Output::start(writer);
    let Some(hello) = parsed(&shared, who.uid, payload, &output).await else {
        return output.finish().await;
    };
    let session = shared.sessions.get(hello.session);
    let owner = session.as_ref().map(|session| session.uid);
    let admitted = admit(&who, Act::Walk { owner });
    if let Err(refusal) = &admitted {
        tracing::info!(%refusal, "a process may not walk");
    }
    let (Some(session), Ok(())) = (session, admitted) else {
        run_here(&output, Reason::NoAgent);
        return output.finish().await;
    };
    let (frames_tx, frames) = mpsc::channel(FRAMES_WAITING_MAX);
    let stops = Stops::new(pid);
    let caller = reader.caller();
    let pump = tokio::task::spawn_local(pump(reader, frames_tx, stops.noter()));
    let mut stub = Stub { frames, output, stops, pid, guest };
    let program = Program { argv0: hello.argv0(), compiles: hello.compiles(&session) };
    if program.compiles {
        stub.output.be_patient();
    }
    let mut withheld = None;
    let end = match hello.spec(&shared, &session, (pid, caller), who).await {
        Ok((spec, _)) if spec.compiles && alone::is_alone(&shared.cluster, &session, pid) => {
            stub.drop_with_process(session.note_under_way());
            End::Here(Reason::Alone.into())
        }
        Ok((spec, _)) if price::all_are_too_dear(&shared, &session, &spec) => {
            End::Here(Reason::Transfer.into())
        }
        Ok((spec, files)) => 'end: {
            if let Err(refusal) = session.granted.allows(&spec) {
                let detail = Some(refusal.to_string());
                break 'end End::Here(Cause { reason: Reason::NotAllowed, detail });
            }
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

/// Decodes a hello, on a thread of the user's if it is long. It takes the payload, which may be large, and the walk long. If
/// that fails, it tells the stub.
async fn parsed(shared: &Shared, uid: u32, payload: Vec<u8>, output: &Output) -> Option<Hello> {
    let session = HelloHead::decode(&payload).map(|(head, _)| SessionId(head.session));
    let parsed = if payload.len() > HELLO_AT_ONCE_BYTES_MAX {
        shared.looks.look_apart(uid, move |_| Ok(Hello::parse(&payload))).await
    } else {
        Ok(Hello::parse(&payload))
    };
    match parsed {
        Ok(Some(hello)) => return Some(hello),
        Ok(None) => output.send(Kind::Failed, 0, b"the hello cannot be read".to_vec()),
        Err(_) => {
            let session = session.and_then(|id| shared.sessions.get(id));
            if session.is_some_and(|session| session.no_fallback) {
                output.send(Kind::Refused, 0, BUSY.as_bytes().to_vec());
            } else {
                run_here(output, Reason::ShimLimit);
            }
        }
    }
    None
}

/// Makes a stub execute its program here.
fn run_here(output: &Output, reason: Reason) {
    let here = Here { reason: reason as u8, alone: false };
    output.send(Kind::RunHere, 0, here.encode().to_vec());
}

/// The program of a stub, for the report.
struct Program {
    argv0: String,
    compiles: bool,
}

/// Passes on the stub's frames until it is gone. `goes_on` records that it is not stopped any more.
async fn pump(mut reader: Reader, frames_tx: mpsc::Sender<Said>, goes_on: impl Fn()) {
    let room = Arc::new(Semaphore::new(BYTES_WAITING_MAX as usize));
    while let Some((header, payload)) = reader.next(DATA_BYTES_MAX).await {
        if signal(&header, &payload) == Some(libc::SIGCONT) {
            goes_on();
        }
        let bytes = header.payload_bytes;
        let taken = match bytes {
            0 => None,
            // The semaphore is never closed.
            _ => Arc::clone(&room).acquire_many_owned(bytes).await.ok(),
        };
        // Fails while the stub is exiting, when its frames are ignored.
        let _ = frames_tx.send(Said { header, payload, _room: taken }).await;
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
        stub.drop_with_process(session.note_stayed());
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
