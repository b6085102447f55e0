//! The life of a walk at its origin, as a state machine without I/O. [`super::errand`] does what each state asks for
//! and tells what came of it.
//!
//! ```text
//! Queued ─granted─▶ Running ─ended─▶ Committing ─committed─▶ Done
//!   ▲  ▲               │ │              │   │
//!   │  └────failed─────┘ │              │   │
//!   └──────conflict──────│──────────────┘   │        nothing shown or taken: Here
//!                        └─declined, doubt──┴─▶      else:                   Lost
//! ```
//! The stub may be gone at any time before the commit.

use worknode::reason::Reason;

/// Attempts on runners before the program is executed here.
const ATTEMPTS_MAX: u32 = 3;

/// Where a walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// It looks for a slot.
    Queued,
    /// A runner executes it.
    Running,
    /// What it has changed is committed. If this is the `last` chance, then over what others have changed meanwhile.
    Committing { last: bool },
    /// It is committed: the stub leaves as the program has.
    Done,
    /// The stub executes the program here, for this reason.
    Here(Reason),
    /// It can neither go on nor begin anew, for this reason.
    Lost(Reason),
    /// The stub is gone.
    Gone,
}

/// What has happened to a walk.
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
        /// Why its changes are not believed as long as the program can be executed here.
        doubt: Option<Reason>,
        /// It has read a file while that was changed.
        torn: bool,
    },
    /// The attempt failed for a reason that is not the program's.
    Failed(Reason),
    /// The broker has given the runner up, and granted a newer attempt, whose slot it has.
    Superseded,
    /// No runner can do it.
    Declined(Reason),
    /// Its changes are made.
    Committed,
    /// Its changes cannot be made.
    NotCommitted(Reason),
    /// Others have changed the same.
    Conflict,
    /// The stub is gone.
    StubGone,
}

/// What the stub has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// It has shown no output and taken no input.
    pub(super) nothing: bool,
    /// It has taken input, which a repeated walk would miss.
    pub(super) input_taken: bool,
}

/// A walk's state, and what is remembered of its attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) state: State,
    /// The number of the attempt that runs, or ran last.
    pub(super) attempt: u32,
    /// Why the last attempt failed.
    failed: Option<Reason>,
}

impl Life {
    pub(super) fn new() -> Self {
        Self { state: State::Queued, attempt: 0, failed: None }
    }

    /// Tells whether all attempts were made.
    pub(super) fn is_exhausted(&self) -> bool {
        self.attempt >= ATTEMPTS_MAX
    }

    /// Takes in an event. One that cannot happen in this state changes nothing. `has_slot` says whether the walk still
    /// holds a slot on which it can be repeated.
    pub(super) fn take(&mut self, event: Event, seen: Seen, has_slot: bool) {
        let last = seen.input_taken || self.is_exhausted();
        self.state = match (self.state, event) {
            (State::Queued, Event::Granted) => self.run(),
            (State::Queued, Event::GrantedHome) => give_up(Reason::GrantedHome, seen),
            (State::Queued, Event::NoSlot(reason)) => give_up(self.failed.unwrap_or(reason), seen),
            (State::Queued | State::Running, Event::StubGone) => State::Gone,
            // It would be so on every runner; here it is certain what happens.
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

/// No runner will do it.
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

    /// Where each event leads from a state, in the first attempt, by what was seen, without a slot: nothing, output, input.
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
    fn what_is_over_stays_so() {
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
    fn a_search_in_vain_tells_why_the_attempt_before_failed() {
        let mut life = Life::new();
        life.take(Granted, NOTHING, true);
        life.take(Failed(LOST), NOTHING, true);
        life.take(NoSlot(Reason::NoCluster), NOTHING, false);
        assert_eq!(life.state, Here(LOST));
    }
}
