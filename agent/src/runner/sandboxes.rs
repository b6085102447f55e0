//! A pool of sandboxes. Most of a sandbox does not depend on the walk, and building it takes longer than many
//! programs run.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::sys::launcher::{Launcher, Sandbox};
use crate::sys::orders::Plan;

/// Sandboxes to keep ready. Consecutive programs need one, and another while the first is being reset.
const READY_MIN: usize = 3;

/// Most idle sandboxes, including those that have served a walk.
const READY_MAX: usize = 16;

/// Idle time after which all are dropped.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// The sandboxes on one mount of an origin's tree.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    plan: Plan,
    ready: RefCell<Vec<Sandbox>>,
    used: Cell<Instant>,
}

impl Sandboxes {
    /// Makes an empty pool, because there may never be a walk.
    pub(crate) fn new(plan: Plan) -> Self {
        Self { plan, ready: RefCell::default(), used: Cell::new(Instant::now()) }
    }

    /// Makes an empty pool on another mount of the tree.
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
            // The oldest first, because its preparation has finished.
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
            None => self.fresh(launcher, None),
        }
    }

    /// Makes a new sandbox, with no more than so much memory.
    ///
    /// # Errors
    /// The launcher is gone.
    pub(super) fn fresh(&self, launcher: &Launcher, memory: Option<u64>) -> io::Result<Sandbox> {
        let Some(bytes) = memory else { return launcher.make(&self.plan) };
        let memory_bytes_max = self.plan.memory_bytes_max.min(bytes);
        launcher.make(&Plan { memory_bytes_max, ..self.plan.clone() })
    }

    /// Drops all idle sandboxes if no walk has come for [`IDLE_MAX`].
    pub(crate) fn rest(&self) {
        if self.used.get().elapsed() > IDLE_MAX {
            self.ready.borrow_mut().clear();
        }
    }

    /// Returns the sandbox of a finished walk to the pool.
    pub(super) fn take_back(&self, control: UnixStream) {
        let mut ready = self.ready.borrow_mut();
        if ready.len() < READY_MAX {
            // Fails if the sandbox has ended.
            ready.extend(Sandbox::again(control));
        }
    }

    /// Makes sandboxes up to [`READY_MIN`].
    pub(crate) fn refill(&self, launcher: &Launcher) {
        self.used.set(Instant::now());
        let mut ready = self.ready.borrow_mut();
        while ready.len() < READY_MIN {
            match launcher.make(&self.plan) {
                Ok(sandbox) => ready.push(sandbox),
                // The next walk reports the error.
                Err(_) => break,
            }
        }
    }
}
