//! Moments as text: RFC 3339 in UTC, with milliseconds; or seconds since 1970.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use worknode::history::{Author, Hlc};

const MS_NANOS: i128 = 1_000_000;

/// Returns a moment as text, such as `2026-11-27T21:15:03.123Z`.
#[must_use]
pub fn text(moment: Hlc) -> String {
    let time = OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment.ms()) * MS_NANOS);
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (date, (hour, minute, second, ms)) = (time.date(), time.time().as_hms_milli());
    format!("{date}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// Reads a moment: RFC 3339, or seconds since 1970.
#[must_use]
pub fn parse(text: &str) -> Option<Hlc> {
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.checked_mul(1000)?,
        Err(_) => {
            let nanos = OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp_nanos();
            u64::try_from(nanos / MS_NANOS).ok()?
        }
    };
    (ms < 1 << 47).then(|| Hlc::end_of_ms(ms))
}

/// Returns the name of a version: when it was written, and by whom. Of several in one millisecond, the later ones have a
/// number, too.
pub(super) fn version(moment: Hlc, author: Author) -> String {
    let name = format!("{}@{author:?}", text(moment));
    match moment.count() {
        0 => name,
        count => format!("{name}+{count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_they_are_written() {
        let moment = Hlc::at_ms(1_795_814_103_123);
        assert_eq!(text(moment), "2026-11-27T21:15:03.123Z");
        assert_eq!(parse(&text(moment)), Some(Hlc::end_of_ms(moment.ms())));
        assert_eq!(parse("2026-11-27T22:15:03.123+01:00"), parse(&text(moment)));
        assert_eq!(parse("1795814103"), Some(Hlc::end_of_ms(1_795_814_103_000)));
        for text in ["", "x", "2026-13-01T00:00:00Z", "-5", "99999999999999999999", "2026"] {
            assert!(text == "2026" || parse(text).is_none(), "{text}");
        }
        assert_eq!(version(moment, Author([1; 16])), "2026-11-27T21:15:03.123Z@01010101");
        let next = Hlc(moment.0 + 1);
        assert_eq!(version(next, Author([1; 16])), "2026-11-27T21:15:03.123Z@01010101+1");
    }
}
