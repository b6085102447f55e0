//! Decides when a node's heartbeat is due. It is then sent with the next call, or alone if there is none.

use std::sync::atomic::AtomicU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::LEASE;
use crate::model::Registered;

/// A heartbeat is due this long after the last one.
const DUE: Duration = LEASE.checked_div(7).expect("seven is not zero");
/// The answer to a heartbeat counts as recent for this long.
const LATELY: Duration = LEASE.checked_div(5).expect("five is not zero");

#[derive(Debug)]
pub(crate) struct Pulse {
    /// Distinguishes this agent from earlier ones of the same name.
    pub(crate) incarnation: String,
    /// The load average of the machine, in hundredths.
    pub(crate) load_percent: AtomicU32,
    state: Mutex<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    sent: Option<Instant>,
    heard: Option<(Instant, Registered)>,
}

impl Pulse {
    pub(crate) fn new(incarnation: String) -> Self {
        Self { incarnation, load_percent: AtomicU32::new(0), state: Mutex::default() }
    }

    /// Tells whether a heartbeat should be sent with the current call, and if so counts it as sent. A node that is not
    /// registered or has lost its lease sends its heartbeats alone.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let keeps = |(at, registered): (Instant, Registered)| {
            registered != Registered::No && now - at > DUE && now - at < LEASE
        };
        let due = state.heard.is_some_and(keeps) && state.sent.is_none_or(|at| now - at > DUE);
        if due {
            state.sent = Some(now);
        }
        due
    }

    /// Records the answer to a heartbeat.
    pub(crate) fn hear(&self, registered: Registered, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heard = Some((now, registered));
    }

    /// Returns the answer to the last heartbeat, if it is recent.
    pub(crate) fn heard_lately(&self, now: Instant) -> Option<Registered> {
        let state = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.heard.filter(|(at, _)| now - *at < LATELY).map(|(_, registered)| registered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_due_heartbeat_is_sent_once_with_a_call() {
        let pulse = Pulse::new("1".to_owned());
        let due = DUE + Duration::from_millis(1);
        let mut now = Instant::now();
        assert!(!pulse.is_due(now), "it is not registered");
        pulse.hear(Registered::Yes { list: 1, others_wait: false }, now);
        assert_eq!(pulse.heard_lately(now), Some(Registered::Yes { list: 1, others_wait: false }));
        assert!(!pulse.is_due(now), "one was heard just now");
        now += due;
        assert_eq!((pulse.is_due(now), pulse.is_due(now)), (true, false));
        now += due;
        assert_eq!(pulse.heard_lately(now), None);
        assert!(pulse.is_due(now), "the last answer was lost");
        pulse.hear(Registered::No, now);
        now += due;
        assert!(!pulse.is_due(now), "it must register");
        pulse.hear(Registered::Yes { list: 2, others_wait: true }, now);
        now += LEASE;
        assert!(!pulse.is_due(now), "the lease is over");
    }
}
