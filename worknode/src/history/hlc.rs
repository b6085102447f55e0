//! A hybrid logical clock: wall-clock time that never goes back, and is later than everything that was seen.
//! After Kulkarni et al., "Logical Physical Clocks" (2014).

use std::fmt;

use serde::{Deserialize, Serialize};

/// Bits of the counter that orders events of one millisecond.
const COUNTER_BITS: u32 = 16;
/// A time of another node may be ahead of this clock by so much. What is further ahead is not believed, so that one wrong
/// clock cannot win every conflict for years.
pub const AHEAD_MS_MAX: u64 = 60_000;

/// A moment: 48 bits of milliseconds since 1970, 16 bits of a counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Hlc(pub u64);

impl Hlc {
    /// Returns the first moment of a millisecond.
    #[must_use]
    pub const fn at_ms(ms: u64) -> Self {
        Self(ms << COUNTER_BITS)
    }

    /// Returns the last moment of a millisecond.
    #[must_use]
    pub const fn end_of_ms(ms: u64) -> Self {
        Self(Self::at_ms(ms + 1).0 - 1)
    }

    /// Returns its milliseconds since 1970.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> COUNTER_BITS
    }

    /// Returns its number within the millisecond.
    #[must_use]
    pub const fn count(self) -> u64 {
        self.0 & ((1 << COUNTER_BITS) - 1)
    }
}

impl fmt::Debug for Hlc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ms(), self.count())
    }
}

/// A time of another node that is too far ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a clock is {0} ms ahead of this one: set one of them right")]
pub struct TooFarAhead(pub u64);

/// The clock of one node. Its caller tells it the wall-clock time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock(Hlc);

impl Clock {
    /// Continues after a moment, the last one of an earlier run.
    #[must_use]
    pub const fn after(last: Hlc) -> Self {
        Self(last)
    }

    /// Returns the moment of a new event: later than all before and all that were observed.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.0 = Hlc::at_ms(now_ms).max(Hlc(self.0.0 + 1));
        self.0
    }

    /// Takes note of the moment of another node's event.
    ///
    /// # Errors
    /// It is more than [`AHEAD_MS_MAX`] ahead; the clock stays as it is.
    pub fn observe(&mut self, other: Hlc, now_ms: u64) -> Result<(), TooFarAhead> {
        // What this clock has seen before is believed, even if the wall clock was set back since.
        let ahead = other.ms().saturating_sub(now_ms);
        if other > self.0 && ahead > AHEAD_MS_MAX {
            return Err(TooFarAhead(ahead));
        }
        self.0 = self.0.max(other);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_only_go_on() {
        let mut clock = Clock::default();
        let mut last = Hlc::default();
        for now in [5, 5, 7, 3, 3, 9] {
            let moment = clock.tick(now);
            assert!(moment > last && moment.ms() >= now, "{moment:?} after {last:?}");
            last = moment;
        }
        assert_eq!(last, Hlc::at_ms(9));
    }

    #[test]
    fn an_effect_is_later_than_its_cause_but_wrong_clocks_are_not_believed() {
        let mut clock = Clock::default();
        let cause = Hlc::at_ms(1000 + AHEAD_MS_MAX);
        assert_eq!(clock.observe(cause, 1000), Ok(()));
        assert!(clock.tick(1000) > cause);
        let before = clock.0;
        assert!(clock.observe(Hlc::at_ms(1001 + AHEAD_MS_MAX), 1000).is_err());
        assert_eq!(clock.0, before);
        assert_eq!(clock.observe(before, 0), Ok(()));
    }
}
