//! Moments as users write them, in their time zone.

use jiff::civil::{DateTime, Time};
use jiff::{Span, Timestamp, ToSpan, ZonedDateTime};

use crate::error::Failure;

const FORMS: &str = "write it as 14:00, '2026-11-28 14:00', '2h ago', yesterday, 2026-11-28T14:00:00Z, or as seconds since 1970";

/// Returns a moment in milliseconds since 1970.
pub(crate) fn parse(text: &str) -> Result<u64, Failure> {
    let moment = find(text.trim(), &ZonedDateTime::now());
    let ms = moment.and_then(|moment| u64::try_from(moment.as_millisecond()).ok());
    ms.ok_or_else(|| Failure::new(format!("'{text}' is not a time")).hint(FORMS))
}

/// Returns a moment as RFC 3339 in UTC, with milliseconds.
pub(crate) fn text(ms: u64) -> String {
    let moment = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    moment.map_or_else(|| ms.to_string(), |moment| format!("{moment:.3}"))
}

fn find(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    match text {
        "now" => return Some(now.timestamp()),
        "yesterday" => return Some(now.checked_sub(1.day()).ok()?.timestamp()),
        _ => {}
    }
    if text.ends_with("ago") {
        let ago: Span = text.parse().ok()?;
        return Some(now.checked_add(ago).ok()?.timestamp());
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).ok();
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    // A time is also read from the end of a date with a time, so that comes first.
    let local = match text.parse::<DateTime>() {
        Ok(local) => local,
        Err(_) => now.date().to_datetime(text.parse::<Time>().ok()?),
    };
    Some(local.to_zoned_datetime(now.time_zone().clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_in_all_forms() {
        // Summer time has ended between the two days.
        let now: ZonedDateTime =
            "2026-10-25T14:30:00+01:00[Europe/Berlin]".parse().expect("a moment");
        for (form, moment) in [
            ("now", "2026-10-25T13:30:00Z"),
            ("yesterday", "2026-10-24T12:30:00Z"),
            ("2h ago", "2026-10-25T11:30:00Z"),
            ("90 minutes ago", "2026-10-25T12:00:00Z"),
            ("1 day ago", "2026-10-24T12:30:00Z"),
            ("1h 30m ago", "2026-10-25T12:00:00Z"),
            ("14:00", "2026-10-25T13:00:00Z"),
            ("14:00:05", "2026-10-25T13:00:05Z"),
            ("2026-10-24 14:00", "2026-10-24T12:00:00Z"),
            ("2026-10-24", "2026-10-23T22:00:00Z"),
            ("2026-10-24T14:00:00", "2026-10-24T12:00:00Z"),
            ("2026-10-24T14:00:00Z", "2026-10-24T14:00:00Z"),
            ("2026-10-24T14:00:00.123+02:00", "2026-10-24T12:00:00.123Z"),
            ("1792850400", "2026-10-24T14:00:00Z"),
        ] {
            assert_eq!(find(form, &now), moment.parse().ok(), "{form}");
        }
        for form in ["", "tomorrow?", "25:00", "2026-13-01", "ago", "x ago", "14:00 yesterday"] {
            assert_eq!(find(form, &now), None, "{form}");
        }
    }

    #[test]
    fn a_moment_is_written_as_rfc_3339() {
        assert_eq!(text(1_795_814_103_120), "2026-11-27T21:15:03.120Z");
    }
}
