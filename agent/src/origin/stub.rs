//! The process at the origin that waits while its program walks, and the causes why a program cannot walk.

use std::rc::Rc;

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use worknode::door::{Header, Kind, Signal};
use worknode::reason::Reason;
use worknode::spec::WalkSpec;

use super::output::Output;
use super::stops::Stops;
use crate::door::Guest;

/// Standard error.
pub(super) const STDERR: u16 = 2;

/// The walk's process at the origin.
pub(super) struct Stub {
    /// Frames from the stub, until it is gone.
    pub(super) frames: mpsc::Receiver<Said>,
    /// Frames to the stub.
    pub(super) output: Output,
    pub(super) stops: Stops,
    pub(super) pid: u32,
    /// Its place among the connections of its user.
    pub(super) guest: Rc<Guest>,
}

/// A frame of a stub.
pub(super) struct Said {
    pub(super) header: Header,
    pub(super) payload: Vec<u8>,
    /// Its part of what may wait.
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// Why a walk cannot be done, with details if there are any.
#[derive(Debug, Clone)]
pub(super) struct Cause {
    pub(super) reason: Reason,
    pub(super) detail: Option<String>,
}

impl From<Reason> for Cause {
    fn from(reason: Reason) -> Self {
        Self { reason, detail: None }
    }
}

/// Returns the signal that a frame of the stub forwards.
pub(super) fn signal(header: &Header, payload: &[u8]) -> Option<i32> {
    let signal = (header.kind == Kind::Signal).then(|| Signal::decode(payload))?;
    signal.map(|signal| signal.number)
}

/// Tells whether the signal kills a program that has not begun. Its number is then also the wait status.
pub(super) fn is_deadly(signal: i32, spec: &WalkSpec) -> bool {
    let harmless = [libc::SIGCONT, libc::SIGWINCH, libc::SIGURG, libc::SIGCHLD];
    let unheard = (spec.ignored | spec.blocked) & (1 << (signal - 1).clamp(0, 63)) != 0;
    !harmless.contains(&signal) && !unheard
}

impl Stub {
    /// Drops `held`, such as a slot of the origin itself, when the process ends, which is executed here. Until then, its
    /// connection stays counted, because its descriptor is open.
    pub(super) fn drop_with_process(&self, held: impl Sized + 'static) {
        let (pid, guest) = (self.pid, Rc::clone(&self.guest));
        tokio::task::spawn_local(async move {
            if let Ok(process) = crate::sys::watch::process(pid) {
                // An error also means that the process is gone.
                let _ = process.readable().await;
            }
            drop((held, guest));
        });
    }
}
