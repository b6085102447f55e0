//! Job control: a stub stops with its walk, so that the shell notices, and a walk stops with its stub.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::{process, watch};

/// Polling interval for a stub that is about to stop but must not.
const RESUME_EVERY: Duration = Duration::from_millis(20);

/// Tracks whether a stub is stopped.
#[derive(Debug)]
pub(super) struct Stops {
    pid: u32,
    /// Its state in `/proc`, kept open after the first use.
    status: OnceCell<Option<process::Status>>,
    /// The signal by which it was told to stop, until it reports that it continues.
    told: Rc<Cell<Option<i32>>>,
}

impl Stops {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid, status: OnceCell::new(), told: Rc::default() }
    }

    /// Records that the stub was told that its walk has stopped.
    pub(super) fn note_told(&self, signal: i32) {
        self.told.set(Some(signal));
    }

    /// Returns a callback that records that the stub continues.
    pub(super) fn noter(&self) -> impl Fn() + use<> {
        let told = Rc::clone(&self.told);
        move || told.set(None)
    }

    /// Tells whether the stub was stopped by a signal that it could not forward.
    pub(super) fn is_stopped_itself(&self) -> bool {
        let status = || self.status.get_or_init(|| process::Status::open(self.pid).ok());
        self.told.get().is_none() && status().as_ref().is_some_and(process::Status::is_stopped)
    }

    /// Continues the stub after the end of the attempt for which it has stopped: a program that `ended` was killed while
    /// it was stopped, and a lost one is repeated. A lost job that was stopped by a key stays stopped.
    pub(super) fn resume(&self, ended: bool) {
        let by_key = |signal| signal != Signal::SIGSTOP as i32;
        if self.told.get().is_none_or(|signal| by_key(signal) && !ended) {
            return;
        }
        let (told, pid) = (Rc::clone(&self.told), self.pid);
        tokio::task::spawn_local(async move {
            let Ok(stub) = watch::process(pid) else { return };
            while told.get().is_some() {
                // It may not have received the order to stop yet.
                if process::Status::open(pid).is_ok_and(|status| status.is_stopped()) {
                    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT);
                }
                if tokio::time::timeout(RESUME_EVERY, stub.readable()).await.is_ok() {
                    return;
                }
            }
        });
    }
}
