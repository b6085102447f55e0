//! Decodes lists from another machine within a memory bound. A decoded item may take fifty times its encoded
//! bytes, so each is charged to the thread's allowance before it is decoded.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// Allocator overhead for each name or value of an item.
const HEAP_BYTES: usize = 32;
/// Initial capacity of a list.
const FIRST_ITEMS: usize = 4;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// Runs `decode` with an allowance of `bytes` of memory for lists. Returns its result and the bytes used, which
/// are all of the allowance if decoding failed for exceeding it.
pub fn within<T>(bytes: u64, decode: impl FnOnce() -> T) -> (T, u64) {
    let outer = LEFT.replace(bytes);
    let decoded = decode();
    let left = LEFT.replace(outer);
    (decoded, bytes - left)
}

/// Decodes a list; for serde's `deserialize_with`.
///
/// # Errors
/// The list is malformed or exceeds the allowance.
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
                    return Err(A::Error::custom("its lists exceed the memory allowance"));
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
        assert!(decode().is_ok(), "the allowance ends with the call");
        // A length without items costs nothing.
        let (refused, taken) = within(1 << 20, || {
            postcard::from_bytes::<ChangeSet>(&[0, 0xff, 0xff, 0xff, 0xff, 0x0f])
        });
        assert!(refused.is_err() && taken < 4096);
    }
}
