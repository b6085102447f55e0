//! Decides which of two links with one peer stays.

use std::time::Duration;

/// Time within which a call that crossed the peer's call has ended: the timeout of a call, plus some transit time.
const CROSSING_MAX: Duration = Duration::from_millis(2500);

/// The properties of two links with one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meeting {
    /// Whether the peer is the same agent, not a later one of the same name.
    pub(super) is_same_agent: bool,
    /// Whether the same side has called both.
    pub(super) is_same_caller: bool,
    /// The age of the existing link.
    pub(super) age: Duration,
    /// Whether the caller of the newer link has the smaller name.
    pub(super) newer_is_of_smaller: bool,
}

impl Meeting {
    /// Tells whether the newer link stays. Usually it does, because a caller has no link or has lost it. Only if
    /// two calls crossed do both sides have both links: then they keep the one of the smaller name.
    pub(super) fn newer_stays(self) -> bool {
        let crossed = self.is_same_agent && !self.is_same_caller && self.age < CROSSING_MAX;
        !crossed || self.newer_is_of_smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_call_replaces_a_lost_link() {
        let crossed = Meeting {
            is_same_agent: true,
            is_same_caller: false,
            age: Duration::from_millis(10),
            newer_is_of_smaller: false,
        };
        assert!(!crossed.newer_stays(), "both called at once: names decide");
        assert!(Meeting { newer_is_of_smaller: true, ..crossed }.newer_stays());
        assert!(Meeting { is_same_caller: true, ..crossed }.newer_stays(), "it has called again");
        assert!(Meeting { is_same_agent: false, ..crossed }.newer_stays(), "it was started again");
        assert!(Meeting { age: CROSSING_MAX, ..crossed }.newer_stays(), "the other has lost it");
    }
}
