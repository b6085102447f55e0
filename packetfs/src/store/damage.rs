//! Where packs are damaged.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::packet::Digest;

/// A place in a pack where there is no intact packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// The pack.
    pub path: PathBuf,
    /// Its number.
    pub(super) pack: u32,
    /// The first byte.
    pub from: u64,
    /// The byte after the last one.
    pub(super) to: u64,
    /// The key of the packet that was there, if it can still be read. It may be damaged, too.
    pub(super) key: Option<Digest>,
}

/// Damaged places, by what was there.
#[derive(Debug)]
pub struct Damages<'a> {
    pub(super) keyed: HashMap<Digest, Vec<&'a Damaged>>,
    pub(super) placed: HashMap<(u32, u64), &'a Damaged>,
}

impl<'a> Damages<'a> {
    /// Sorts damaged places.
    #[must_use]
    pub fn of(damaged: &'a [Damaged]) -> Self {
        let mut keyed = HashMap::<_, Vec<_>>::new();
        for place in damaged {
            if let Some(key) = place.key {
                keyed.entry(key).or_default().push(place);
            }
        }
        // The key may be what is damaged. The index has the one that was there.
        Self { keyed, placed: damaged.iter().map(|it| ((it.pack, it.from), it)).collect() }
    }
}
