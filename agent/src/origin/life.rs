//! The life of a walk at its origin, as a state machine without I/O. [`super::errand`] performs the action of each
//! state and reports the resulting event.
//!
//! ```text
//! Queued      granted ─▶ Running      no slot ─▶ given up
//! Running     ended ─▶ Committing     failed, torn ─▶ Queued     declined, in doubt ─▶ given up
//! Committing  committed ─▶ Done       conflict ─▶ Queued         not committed ─▶ given up
//! ```
//! - A walk that is given up is Here if nothing was shown or taken, else Lost.
//! - If something was shown or taken, a walk in doubt is committed.
//! - After a conflict a walk is repeated only if output was shown and no input was taken; else it is given up.
//! - After input was taken, or after the last attempt, nothing is repeated: a torn walk is committed, another one given up.
//! - A walk that still has a slot skips Queued, except after a failure. The stub may be gone at any time before the commit.

use worknode::reason::Reason;

/// Attempts on runners before the program is executed here.
const ATTEMPTS_MAX: u32 = 3;

/// The state of a walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It looks for a slot.
    Queued,
    /// A runner executes it.
    Running,
    /// Its changes are being committed. If this is the `last` chance, concurrent changes of others are overwritten.
    Committing { last: bool },
    /// It is committed: the stub exits with the program's status.
    Done,
    /// The stub executes the program here, for this reason.
    Here(Reason),
    /// It can neither continue nor be repeated, for this reason.
    Lost(Reason),
    /// The stub is gone.
    Gone,
}

/// An event in a walk's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It has a slot of a runner.
    Granted,
    /// It has a slot of this machine.
    GrantedHome,
    /// There is no slot for it.
    NoSlot(Reason),
    /// The program has ended.
    Ended {
        /// Why its changes are not trusted as long as the program can be executed here.
        doubt: Option<Reason>,
        /// Whether it has read a file during a change.
        torn: bool,
    },
    /// The attempt failed for a reason that has nothing to do with the program.
    Failed(Reason),
    /// The broker has given up the runner, and has granted a newer attempt, whose slot the walk holds.
    Superseded,
    /// No runner can execute it.
    Declined(Reason),
    /// Its changes have been made.
    Committed,
    /// Its changes cannot be made.
    NotCommitted(Reason),
    /// Others have changed the same files.
    Conflict,
    /// The stub is gone.
    StubGone,
}

/// What users and processes have seen of the walk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The stub has shown no output and consumed no input.
    pub(super) nothing: bool,
    /// The stub has consumed input, which a repeated walk would miss.
    pub(super) input_taken: bool,
}

/// A walk's state, and the history of its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) state: State,
    /// The number of the current or last attempt.
    pub(super) attempt: u32,
    /// Why the last attempt failed.
    failed: Option<Reason>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self { state: State::Queued, attempt: 0, failed: None }
    }

    /// Tells whether all attempts have been used.
    pub(super) fn is_exhausted(&self) -> bool {
        self.attempt >= ATTEMPTS_MAX
    }

    /// Handles an event. An event that cannot happen in this state changes nothing. `has_slot` tells whether the walk
    /// still holds a slot on which it can be repeated.
    pub(super) fn take(&mut self, event: Event, seen: Seen, has_slot: bool) {
        let last = seen.input_taken || self.is_exhausted();
        self.state = match (self.state, event) {
            (State::Queued, Event::Granted) => self.run(),
            (State::Queued, Event::GrantedHome) => give_up(Reason::GrantedHome, seen),
            (State::Queued, Event::NoSlot(reason)) => give_up(self.failed.unwrap_or(reason), seen),
            (State::Queued | State::Running, Event::StubGone) => State::Gone,
            // It would happen on every runner; at the origin the outcome is reliable.
            (State::Running, Event::Ended { doubt: Some(reason), .. }) if seen.nothing => {
                State::Here(reason)
            }
            (State::Running, Event::Ended { torn: true, .. }) if !last => self.repeat(has_slot),
            (State::Running, Event::Ended { .. }) => State::Committing { last },
            (State::Running, Event::Failed(reason)) => self.fail(reason, seen, false),
            (State::Running, Event::Superseded) => self.fail(Reason::RunnerLost, seen, has_slot),
            (State::Running, Event::Declined(reason)) => give_up(reason, seen),
            (State::Committing { .. }, Event::Committed) => State::Done,
            (State::Committing { .. }, Event::NotCommitted(reason)) => give_up(reason, seen),
            (State::Committing { .. }, Event::Conflict) if seen.nothing || seen.input_taken => {
                give_up(Reason::Conflict, seen)
            }
            (State::Committing { .. }, Event::Conflict) if self.is_exhausted() => {
                give_up(self.failed.unwrap_or(Reason::RunnerLost), seen)
            }
            (State::Committing { .. }, Event::Conflict) => self.repeat(has_slot),
            (state, _) => state,
        };
    }

    fn run(&mut self) -> State {
        self.attempt += 1;
        State::Running
    }

    fn repeat(&mut self, has_slot: bool) -> State {
        if has_slot { self.run() } else { State::Queued }
    }

    fn fail(&mut self, reason: Reason, seen: Seen, has_slot: bool) -> State {
        self.failed = Some(reason);
        if seen.input_taken || self.is_exhausted() {
            return give_up(reason, seen);
        }
        self.repeat(has_slot)
    }
}

/// Returns the state after giving up on runners.
fn give_up(reason: Reason, seen: Seen) -> State {
    if seen.nothing { State::Here(reason) } else { State::Lost(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::*;
    use State::*;

    const NOTHING: Seen = Seen { nothing: true, input_taken: false };
    const OUTPUT: Seen = Seen { nothing: false, input_taken: false };
    const INPUT: Seen = Seen { nothing: false, input_taken: true };
    const WHY: Reason = Reason::NotExported;
    const LOST: Reason = Reason::RunnerLost;

    const STATES: [State; 8] = [
        Queued,
        Running,
        Committing { last: false },
        Committing { last: true },
        Done,
        Here(WHY),
        Lost(WHY),
        Gone,
    ];
    const EVENTS: [Event; 13] = [
        Granted,
        GrantedHome,
        NoSlot(WHY),
        Ended { doubt: None, torn: false },
        Ended { doubt: None, torn: true },
        Ended { doubt: Some(WHY), torn: false },
        Failed(LOST),
        Superseded,
        Declined(WHY),
        Committed,
        NotCommitted(WHY),
        Conflict,
        StubGone,
    ];

    /// The next state for each state and event in the first attempt without a slot, if nothing, output, or input was seen.
    fn expected(state: State, event: Event) -> [State; 3] {
        let [here, lost] = [Here, Lost];
        let given_up = |why| [here(why), lost(why), lost(why)];
        match (state, event) {
            (Queued, Granted) => [Running; 3],
            (Queued, GrantedHome) => given_up(Reason::GrantedHome),
            (Queued, NoSlot(why)) => given_up(why),
            (Queued | Running, StubGone) => [Gone; 3],
            (Running, Ended { doubt: Some(why), .. }) => {
                [Here(why), Committing { last: false }, Committing { last: true }]
            }
            (Running, Ended { torn: true, .. }) => [Queued, Queued, Committing { last: true }],
            (Running, Ended { .. }) => {
                [Committing { last: false }, Committing { last: false }, Committing { last: true }]
            }
            (Running, Failed(why)) => [Queued, Queued, Lost(why)],
            (Running, Superseded) => [Queued, Queued, Lost(LOST)],
            (Running, Declined(why)) => given_up(why),
            (Committing { .. }, Committed) => [Done; 3],
            (Committing { .. }, NotCommitted(why)) => given_up(why),
            (Committing { .. }, Conflict) => {
                [Here(Reason::Conflict), Queued, Lost(Reason::Conflict)]
            }
            (state, _) => [state; 3],
        }
    }

    fn life(state: State, attempt: u32) -> Life {
        Life { state, attempt, failed: None }
    }

    #[test]
    fn every_state_and_event() {
        for state in STATES {
            for event in EVENTS {
                for (seen, expected) in
                    [NOTHING, OUTPUT, INPUT].into_iter().zip(expected(state, event))
                {
                    let mut life = life(state, u32::from(state != Queued));
                    life.take(event, seen, false);
                    assert_eq!(life.state, expected, "{state:?}, {event:?}, {seen:?}");
                }
            }
        }
    }

    #[test]
    fn final_states_are_final() {
        for state in [Done, Here(WHY), Lost(WHY), Gone] {
            for event in EVENTS {
                let mut life = life(state, 1);
                life.take(event, OUTPUT, true);
                assert_eq!(life.state, state, "{event:?}");
            }
        }
    }

    #[test]
    fn a_slot_that_is_kept_serves_the_next_attempt() {
        for (state, event) in [
            (Running, Superseded),
            (Running, Ended { doubt: None, torn: true }),
            (Committing { last: false }, Conflict),
        ] {
            let mut life = life(state, 1);
            life.take(event, OUTPUT, true);
            assert_eq!((life.state, life.attempt), (Running, 2), "{event:?}");
        }
    }

    #[test]
    fn after_three_attempts_it_is_given_up() {
        for seen in [NOTHING, OUTPUT] {
            let mut life = Life::new();
            for attempt in 1..=ATTEMPTS_MAX {
                assert_eq!(life.state, Queued);
                life.take(Granted, seen, true);
                assert_eq!((life.state, life.attempt), (Running, attempt));
                life.take(Failed(LOST), seen, true);
            }
            assert_eq!(life.state, if seen.nothing { Here(LOST) } else { Lost(LOST) });
        }
        let mut last = life(Running, ATTEMPTS_MAX);
        last.take(Ended { doubt: None, torn: true }, OUTPUT, true);
        assert_eq!(last.state, Committing { last: true }, "a torn read is told of, not repeated");
        last.take(Conflict, OUTPUT, true);
        assert_eq!(last.state, Lost(LOST));
    }

    #[test]
    fn a_failed_search_reports_why_the_previous_attempt_failed() {
        let mut life = Life::new();
        life.take(Granted, NOTHING, true);
        life.take(Failed(LOST), NOTHING, true);
        life.take(NoSlot(Reason::NoCluster), NOTHING, false);
        assert_eq!(life.state, Here(LOST));
    }
}
