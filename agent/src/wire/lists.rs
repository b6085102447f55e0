//! Lists from a link, decoded item by item, because an item takes up to a hundred times its encoded bytes in memory.

use packetfs::tree::Change;
use serde::de::DeserializeOwned;

use super::limits::{CHANGES_BYTES_MAX, CHANGES_MAX, TOLD_MAX};
use super::message::{Told, encode};
use super::squeeze::{Damaged, Squeezer, Unsqueezer};

/// Encodes what changed; `squeezer` is that of changes.
#[must_use]
pub fn encode_changes(changes: &[Change], squeezer: &mut Squeezer) -> Vec<u8> {
    encode(&squeezer.squeeze(&encode(&changes)))
}

/// Decodes changes, or skips them if they are not wanted.
///
/// # Errors
/// See [`Unsqueezer::take`].
pub fn decode_changes(
    payload: &[u8],
    unsqueezer: &mut Unsqueezer,
    wanted: bool,
) -> Result<Vec<Change>, Damaged> {
    let squeezed = postcard::from_bytes(payload).map_err(|_| Damaged)?;
    match unsqueezer.take(squeezed, CHANGES_BYTES_MAX, wanted)? {
        Some(bytes) => changes(&bytes).ok_or(Damaged),
        None => Ok(Vec::new()),
    }
}

/// Decodes changes. Returns `None` if they are damaged, or more than a directory can have.
fn changes(bytes: &[u8]) -> Option<Vec<Change>> {
    let mut left = CHANGES_MAX;
    list(bytes, CHANGES_MAX, |change| {
        let names = match change {
            Change::Names { names, .. } => names.len(),
            Change::Forget { .. } => 0,
        };
        let rest = left.checked_sub(names);
        left = rest.unwrap_or(0);
        rest.is_some()
    })
}

/// Decodes answers that were sent ahead. Returns `None` if they are damaged.
pub fn told(bytes: &[u8]) -> Option<Vec<Told>> {
    list(bytes, TOLD_MAX, |_| true)
}

/// Decodes a list of limited length, as long as a predicate accepts the items.
fn list<T: DeserializeOwned>(
    bytes: &[u8],
    count_max: usize,
    mut goes_on: impl FnMut(&T) -> bool,
) -> Option<Vec<T>> {
    let (count, mut rest) = postcard::take_from_bytes::<u64>(bytes).ok()?;
    let count = usize::try_from(count).ok().filter(|&count| count <= count_max)?;
    let mut list = Vec::new();
    for _ in 0..count {
        let (item, after) = postcard::take_from_bytes(rest).ok()?;
        if !goes_on(&item) {
            return None;
        }
        list.push(item);
        rest = after;
    }
    Some(list)
}

#[cfg(test)]
mod tests {
    use packetfs::path::TreePath;

    use super::super::message::{Answer, Ask};
    use super::*;

    fn names(count: usize) -> Change {
        let names = vec![("a".parse().expect("a name"), None); count];
        Change::Names { dir: TreePath::root(), attr: None, names }
    }

    #[test]
    fn changes_are_bounded_by_the_size_of_a_directory() {
        let few = vec![names(3), Change::Forget { dir: TreePath::root() }, names(0)];
        assert_eq!(changes(&encode(&few)), Some(few));
        assert!(changes(&encode(&vec![names(1_000_000)])).is_some());
        assert_eq!(changes(&encode(&vec![names(CHANGES_MAX + 1)])), None);
        assert_eq!(changes(&encode(&vec![names(CHANGES_MAX / 2); 3])), None, "all together");
        let forgotten = vec![Change::Forget { dir: TreePath::root() }; CHANGES_MAX + 1];
        assert_eq!(changes(&encode(&forgotten)), None);
        assert_eq!(changes(&[0xff; 20]), None);
        assert_eq!(changes(&encode(&(u64::MAX))), None, "more than there are bytes for");
    }

    #[test]
    fn answers_sent_ahead_are_bounded() {
        let one = Told { ask: Ask::Listing(TreePath::root()), answer: Answer::Failed(1) };
        assert_eq!(told(&encode(&vec![one.clone(); 100])).map(|told| told.len()), Some(100));
        assert_eq!(told(&encode(&vec![one; TOLD_MAX + 1])), None);
    }
}
