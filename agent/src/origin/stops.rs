//! A stub that stops with its walk, for the shell to see, and a walk that stops with its stub.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sys::{process, watch};

/// How often a stub is looked at that is about to stop, and is not to.
const RESUME_EVERY: Duration = Duration::from_millis(20);

/// Whether a stub goes on.
#[derive(Debug)]
pub(super) struct Stops {
    pid: u32,
    /// What `/proc` says of it, from the first look on: there will be more.
    status: OnceCell<Option<process::Status>>,
    /// The signal that it was told to stop by, until it says that it goes on.
    told: Rc<Cell<Option<i32>>>,
}

impl Stops {
    pub(super) fn new(pid: u32) -> Self {
        Self { pid, status: OnceCell::new(), told: Rc::default() }
    }

    /// Notes that the stub is told that its walk has stopped.
    pub(super) fn note_told(&self, signal: i32) {
        self.told.set(Some(signal));
    }

    /// Returns what notes that the stub goes on.
    pub(super) fn noter(&self) -> impl Fn() + use<> {
        let told = Rc::clone(&self.told);
        move || told.set(None)
    }

    /// Tells whether something has stopped the stub that it could not forward.
    pub(super) fn is_stopped_itself(&self) -> bool {
        let status = || self.status.get_or_init(|| process::Status::open(self.pid).ok());
        self.told.get().is_none() && status().as_ref().is_some_and(process::Status::is_stopped)
    }

    /// The attempt for which the stub has stopped is over: has it go on. A program that `ended` was
    /// killed while it stood still. One that is lost begins anew; but a job that was stopped by a
    /// key stays stopped.
    pub(super) fn resume(&self, ended: bool) {
        let by_key = |signal| signal != Signal::SIGSTOP as i32;
        if self.told.get().is_none_or(|signal| by_key(signal) && !ended) {
            return;
        }
        let (told, pid) = (Rc::clone(&self.told), self.pid);
        tokio::task::spawn_local(async move {
            let Ok(stub) = watch::process(pid) else { return };
            while told.get().is_some() {
                // It may not have heard yet that it is to stop.
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
