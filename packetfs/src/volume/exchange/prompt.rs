//! Makes changes durable at once while somebody waits to give them to others. Otherwise they become durable each second.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Who listens, and whether there is something to do.
#[derive(Debug, Default)]
pub(in crate::volume) struct Prompt {
    /// Whether anybody listens.
    is_wanted: AtomicBool,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Whether events were made since the last barrier began.
    is_due: bool,
    is_closed: bool,
    listeners: Vec<Listener>,
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Events were made.
    Events,
    /// The time is over.
    Time,
    /// The volume is closed.
    Closed,
}

/// Somebody who is told. It returns whether it listens any longer.
struct Listener(Box<dyn Fn() -> bool + Send>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Prompt {
    /// Tells whether changes become durable at once.
    pub(in crate::volume) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Relaxed)
    }

    /// Takes note that an event was made.
    pub(in crate::volume) fn note(&self) {
        if self.is_wanted() && !std::mem::replace(&mut self.lock().is_due, true) {
            self.more.notify_one();
        }
    }

    /// Adds somebody who is told.
    pub(super) fn listen(&self, listener: Box<dyn Fn() -> bool + Send>) {
        let mut state = self.lock();
        state.listeners.push(Listener(listener));
        // There may be something already.
        state.is_due = true;
        self.is_wanted.store(true, Ordering::Relaxed);
        self.more.notify_one();
    }

    /// Tells all listeners that there is more to give.
    pub(in crate::volume) fn tell(&self) {
        let mut state = self.lock();
        state.listeners.retain(|listener| listener.0());
        self.is_wanted.store(!state.listeners.is_empty(), Ordering::Relaxed);
    }

    /// Ends the thread.
    pub(in crate::volume) fn close(&self) {
        let mut state = self.lock();
        state.is_closed = true;
        state.listeners.clear();
        self.more.notify_all();
    }

    /// Waits until something is due, at most until this time.
    pub(super) fn wait(&self, until: Option<Instant>) -> Due {
        let mut state = self.lock();
        while !state.is_due && !state.is_closed {
            let Some(until) = until else {
                state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Due::Time;
            }
            let waited = self.more.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.is_due = false;
        if state.is_closed { Due::Closed } else { Due::Events }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
