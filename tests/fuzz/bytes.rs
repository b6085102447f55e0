//! Hostile bytes: random ones, and damaged encodings.

use std::fmt::Debug;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::memory::bounded;
use crate::trial::holds;

/// Generates arbitrary bytes.
pub(crate) fn noise() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..300)
}

/// Generates a short byte string, such as a path or a name.
pub(crate) fn word() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..12)
}

/// One kind of damage to bytes.
#[derive(Debug, Clone)]
pub(crate) enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index),
    Double(Index, Index),
    /// Four bytes are set to the largest length.
    Swell(Index),
}

pub(crate) fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (any::<Index>(), vec(any::<u8>(), 1..9)).prop_map(|(at, new)| Damage::Insert(at, new)),
        any::<Index>().prop_map(Damage::Cut),
        (any::<Index>(), any::<Index>()).prop_map(|(from, to)| Damage::Double(from, to)),
        any::<Index>().prop_map(Damage::Swell),
    ];
    vec(one, 1..4)
}

/// Returns the bytes with the damages applied.
pub(crate) fn damaged(mut bytes: Vec<u8>, damages: &[Damage]) -> Vec<u8> {
    for damage in damages {
        if bytes.is_empty() {
            return bytes;
        }
        let length = bytes.len();
        match damage {
            Damage::Set(at, byte) => bytes[at.index(length)] = *byte,
            Damage::Flip(at, bit) => bytes[at.index(length)] ^= 1 << bit,
            Damage::Insert(at, new) => {
                let at = at.index(length);
                bytes.splice(at..at, new.iter().copied());
            }
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Double(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.splice(to..to, piece);
            }
            Damage::Swell(at) => {
                let at = at.index(length);
                bytes.splice(at..=at, [0xff, 0xff, 0xff, 0xff, 0x0f]);
            }
        }
    }
    bytes
}

/// Checks what holds for every format: a value decodes to itself, and damage and noise do no harm.
pub(crate) fn survives<S: Strategy>(
    values: S,
    encode: impl Fn(&S::Value) -> Vec<u8>,
    decode: impl Fn(&[u8]) -> Option<S::Value>,
) where
    S::Value: Debug + PartialEq,
{
    holds(&(values, damage(), noise()), |(value, damages, noise)| {
        let bytes = encode(&value);
        assert_eq!(bounded(&bytes, &decode).as_ref(), Some(&value));
        for hostile in [damaged(bytes, &damages), noise] {
            if let Some(other) = bounded(&hostile, &decode) {
                // Whatever was decoded can be encoded again.
                assert_eq!(decode(&encode(&other)), Some(other));
            }
        }
    });
}

/// Calls [`survives`] for a type that is encoded with postcard.
pub(crate) fn survives_postcard<S: Strategy>(values: S)
where
    S::Value: Debug + PartialEq + Serialize + DeserializeOwned,
{
    survives(
        values,
        |value| postcard::to_allocvec(value).expect("fits a growing buffer"),
        |bytes| postcard::from_bytes(bytes).ok(),
    );
}
