//! Lists from another machine, decoded within a bound of memory. An item may take fifty times the bytes that
//! stand for it: so each is counted before it is decoded, against what this thread was allowed.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// What an allocator takes for a short name or value of an item, besides its bytes.
const HEAP_BYTES: usize = 32;
/// Items for which a list first has room.
const FIRST_ITEMS: usize = 4;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Decodes something whose lists may take so many bytes of memory. Returns what they have taken: all of it if
/// they would have taken more, and nothing was decoded for that reason.
pub fn within<T>(bytes: u64, decode: impl FnOnce() -> T) -> (T, u64) {
    let outer = LEFT.replace(bytes);
    let decoded = decode();
    let left = LEFT.replace(outer);
    (decoded, bytes - left)
}

/// Decodes a list. To be named with `deserialize_with`.
///
/// # Errors
/// It cannot be read, or takes more than is left.
pub fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    deserializer.deserialize_seq(List(PhantomData))
}

struct List<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
        let mut list = Vec::new();
        loop {
            let rest = items.size_hint().unwrap_or(usize::MAX);
            if list.len() == list.capacity() && rest > 0 {
                let more = list.len().max(FIRST_ITEMS).min(rest);
                if !take(more * (size_of::<T>() + HEAP_BYTES)) {
                    return Err(A::Error::custom("its lists take more memory than there is"));
                }
                list.reserve_exact(more);
            }
            match items.next_element()? {
                Some(item) => list.push(item),
                None => return Ok(list),
            }
        }
    }
}

fn take(bytes: usize) -> bool {
    let left = LEFT.get().checked_sub(bytes as u64);
    LEFT.set(left.unwrap_or(0));
    left.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Base, ChangeSet};

    #[test]
    fn items_are_counted_before_they_are_decoded() {
        const ITEMS: usize = 100_000;
        let found = vec![("/".parse().expect("sound"), Base::Nothing); ITEMS];
        let changes = ChangeSet { found, ..ChangeSet::default() };
        let encoded = postcard::to_allocvec(&changes).expect("it fits");
        assert!(encoded.len() < 4 * ITEMS);
        let decode = || postcard::from_bytes::<ChangeSet>(&encoded);
        let (decoded, taken) = within(u64::MAX, decode);
        assert_eq!(decoded, Ok(changes));
        assert!(taken > 80 * ITEMS as u64);
        let (decoded, taken) = within(taken, decode);
        assert!(decoded.is_ok());
        let (refused, all) = within(taken - 1, decode);
        assert!(refused.is_err() && all == taken - 1);
        assert!(decode().is_ok(), "nobody else is bound by it");
        // A number of items that are not there takes nothing.
        let (refused, taken) = within(1 << 20, || {
            postcard::from_bytes::<ChangeSet>(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f])
        });
        assert!(refused.is_err() && taken < 4096);
    }
}
