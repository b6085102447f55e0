//! Which of two links with one peer stays.

use std::time::Duration;

/// A call that was begun before its side heard of the other's is over within this time: that of a call, and
/// some for the way.
const CROSSING_MAX: Duration = Duration::from_millis(2500);

/// Two links with one peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Meeting {
    /// It is the same agent, not a later one of the same name.
    pub(super) is_same_agent: bool,
    /// The same side has called both.
    pub(super) is_same_caller: bool,
    /// Of the one that is there.
    pub(super) age: Duration,
    /// The newer one was called by the node with the smaller name.
    pub(super) newer_is_of_smaller: bool,
}

impl Meeting {
    /// Who calls has no link, or has lost it: the newer one stays. Only if both called before either heard
    /// of the other, both have both: then both keep that of the smaller name's call.
    pub(super) fn newer_stays(self) -> bool {
        let crossed = self.is_same_agent && !self.is_same_caller && self.age < CROSSING_MAX;
        !crossed || self.newer_is_of_smaller
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_calls_again_has_lost_the_link() {
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
