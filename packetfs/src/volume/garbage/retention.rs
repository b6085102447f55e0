//! Which former moments stay known. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use worknode::history::Hlc;

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;

/// How long the past is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// All of it for so long: at least a minute, so that who reads a content that was just replaced can finish.
    pub all: Duration,
    /// As it was at each full hour.
    pub hourly: Duration,
    /// As it was at the beginning of each day, in UTC.
    pub daily: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        let days = |days| Duration::from_secs(days * DAY_MS / 1000);
        Self { all: days(1), hourly: days(7), daily: days(90) }
    }
}

/// From when on moments are known, in milliseconds: all of them, full hours, days.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(in crate::volume) struct Kept {
    all: u64,
    hourly: u64,
    daily: u64,
}

impl Kept {
    /// Returns what a policy keeps.
    pub(in crate::volume) fn of(policy: &Policy, now_ms: u64) -> Self {
        let from = |age: Duration| {
            now_ms.saturating_sub(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
        };
        let all = from(policy.all);
        let hourly = from(policy.hourly).min(all);
        Self { all, hourly, daily: from(policy.daily).min(hourly) }
    }

    /// Returns what is kept by both.
    pub(in crate::volume) fn and(self, other: Self) -> Self {
        Self {
            all: self.all.max(other.all),
            hourly: self.hourly.max(other.hourly),
            daily: self.daily.max(other.daily),
        }
    }

    /// Tells whether a value of this time is needed for a moment that is kept.
    pub(in crate::volume) fn needs(self, since: Hlc, until: Hlc) -> bool {
        let has_full = |from: u64, step: u64| {
            let first = since.ms() + u64::from(since > Hlc::at_ms(since.ms()));
            Hlc::at_ms(first.max(from).div_ceil(step) * step) < until
        };
        until > Hlc::at_ms(self.all)
            || has_full(self.hourly, HOUR_MS)
            || has_full(self.daily, DAY_MS)
    }

    /// Returns the last moment that is kept, up to a moment.
    pub(in crate::volume) fn last(self, moment: Hlc) -> Option<Hlc> {
        if moment >= Hlc::at_ms(self.all) {
            return Some(moment);
        }
        let full = |step: u64| moment.ms() / step * step;
        let (hour, day) = (full(HOUR_MS), full(DAY_MS));
        let kept = if hour >= self.hourly {
            Some(hour)
        } else {
            Some(day).filter(|&day| day >= self.daily)
        };
        kept.map(Hlc::at_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_kept_moment_needs_is_needed() {
        let now = 100 * DAY_MS + 5 * HOUR_MS + 1234;
        let kept = Kept::of(&Policy::default(), now);
        let ago = |ms: u64| Hlc(Hlc::at_ms(now - ms).0 + 3);
        assert_eq!(kept.last(ago(5000)), Some(ago(5000)));
        assert_eq!(
            kept.last(ago(30 * HOUR_MS)),
            Some(Hlc::at_ms(now / HOUR_MS * HOUR_MS - 30 * HOUR_MS))
        );
        assert_eq!(kept.last(ago(20 * DAY_MS)), Some(Hlc::at_ms(80 * DAY_MS)));
        assert_eq!(kept.last(ago(95 * DAY_MS)), None);
        for age in (0..100 * DAY_MS).step_by(1_234_567) {
            let Some(moment) = kept.last(ago(age)) else { continue };
            assert!(moment <= ago(age), "{age}");
            assert!(kept.needs(moment, Hlc(moment.0 + 1)), "{age}");
            assert!(kept.needs(Hlc(moment.0 - 99), Hlc(moment.0 + 1)), "{age}");
        }
        let minute = |age: u64| kept.needs(ago(age + 60_000), ago(age));
        assert!(minute(HOUR_MS) && !minute(30 * HOUR_MS + HOUR_MS / 2) && !minute(99 * DAY_MS));
    }

    #[test]
    fn what_was_dropped_does_not_come_back() {
        let short = Policy { all: Duration::ZERO, hourly: Duration::ZERO, daily: Duration::ZERO };
        let kept = Kept::of(&short, 1000).and(Kept::of(&Policy::default(), 2000));
        assert_eq!(
            (kept.last(Hlc::at_ms(999)), kept.last(Hlc::at_ms(1000))),
            (None, Some(Hlc::at_ms(1000)))
        );
    }
}
