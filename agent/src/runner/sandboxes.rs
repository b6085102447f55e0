//! Sandboxes made before there is a walk for them: most of what a walk needs on its runner does not
//! depend on the walk, and takes longer than many a program.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys::launcher::{Launcher, Sandbox};
use crate::sys::orders::Plan;

/// How many are made to wait for a walk. Programs that start one after the other need one, and another
/// while the first is made ready again.
const READY_MIN: usize = 3;

/// How many wait for a walk at most, with those that have served one.
const READY_MAX: usize = 16;

/// After so long without a walk they are given up.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Sandboxes on the tree of one origin.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    plan: Plan,
    ready: RefCell<Vec<Sandbox>>,
    used: Cell<Instant>,
}

impl Sandboxes {
    /// None so far: there may never be a walk.
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, ready: RefCell::default(), used: Cell::new(Instant::now()) }
    }

    /// None so far, on another mount of the tree.
    pub(crate) fn on(&self, point: &Path) -> Self {
        let lower = point.as_os_str().as_encoded_bytes().to_vec();
        Self::new(Plan { lower, ..self.plan.clone() })
    }

    /// Returns a sandbox for a walk.
    ///
    /// # Errors
    /// There is none, and the launcher is gone.
    pub(super) fn take(&self, launcher: &Launcher) -> io::Result<Sandbox> {
        let sound = |ready: &mut Vec<Sandbox>| {
            // The oldest first: it is finished.
            while !ready.is_empty() {
                let sandbox = ready.remove(0);
                if sandbox.is_sound() {
                    return Some(sandbox);
                }
            }
            None
        };
        match sound(&mut self.ready.borrow_mut()) {
            Some(sandbox) => Ok(sandbox),
            None => self.fresh(launcher),
        }
    }

    /// Returns a sandbox that is made now.
    ///
    /// # Errors
    /// The launcher is gone.
    pub(super) fn fresh(&self, launcher: &Launcher) -> io::Result<Sandbox> {
        launcher.make(&self.plan)
    }

    /// Gives them up if no walk has come for a long time.
    pub(crate) fn rest(&self) {
        if self.used.get().elapsed() > IDLE_MAX {
            self.ready.borrow_mut().clear();
        }
    }

    /// Takes back the sandbox of a walk that has ended.
    pub(super) fn take_back(&self, control: UnixStream) {
        let mut ready = self.ready.borrow_mut();
        if ready.len() < READY_MAX {
            // One that is gone is none.
            ready.extend(Sandbox::again(control));
        }
    }

    /// Has the next ones made.
    pub(crate) fn refill(&self, launcher: &Launcher) {
        self.used.set(Instant::now());
        let mut ready = self.ready.borrow_mut();
        while ready.len() < READY_MIN {
            match launcher.make(&self.plan) {
                Ok(sandbox) => ready.push(sandbox),
                // The next walk will say it.
                Err(_) => break,
            }
        }
    }
}
