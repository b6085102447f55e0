//! Notes: unsolicited messages from the functions to a node: `g <walk> <node> <address> <attempt>` (granted),
//! `c <walk>` (cancelled) or `x <walk>` (exhausted).

use worknode::id::{Attempt, WalkId};

use crate::model::{Event, Grant};

/// Parses a note. Returns `None` if this version does not know it.
pub(crate) fn parse(note: &str) -> Option<Event> {
    let mut words = note.split(' ');
    let kind = words.next()?;
    let walk: WalkId = words.next()?.parse().ok()?;
    match kind {
        "g" => Some(Event::Granted(Grant {
            walk,
            node: words.next()?.parse().ok()?,
            address: words.next()?.parse().ok()?,
            attempt: Attempt(words.next()?.parse().ok()?),
        })),
        "c" => Some(Event::Cancelled(walk)),
        "x" => Some(Event::Exhausted(walk)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_functions_write() {
        let Some(Event::Granted(grant)) = parse("g 000000000000000a-7 n1 10.0.0.1:7 3") else {
            panic!("a grant");
        };
        assert_eq!((grant.walk.number, grant.attempt.0), (7, 3));
        assert_eq!((grant.node.as_str(), grant.address.to_string().as_str()), ("n1", "10.0.0.1:7"));
        assert_eq!(parse("c a-7"), Some(Event::Cancelled(grant.walk)));
        assert_eq!(parse("x a-7"), Some(Event::Exhausted(grant.walk)));
        for bad in [
            "",
            "g",
            "g a-7 n1",
            "z a-7",
            "g a-7 n1 addr x",
            "g a-7 n1 addr 3",
            "g a-7 .. 10.0.0.1:7 3",
            "g a-7 n1 10.0.0.1:7 18446744073709551616",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
