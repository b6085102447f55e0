//! The names of files that have several: what is written through one of them changes what the others have, and the kernel tells it
//! of that one only.

use std::collections::{BTreeSet, HashMap};

use super::known::Stamp;
use crate::path::Bytes;

/// Directory and name of each, by device and number of the file.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<(u64, u64), BTreeSet<(Bytes, Bytes)>>);

impl Links {
    /// Notes a name of a file, which has so many in all. `is_there` tells whether a name still leads to it.
    pub(super) fn note(
        &mut self,
        (dir, name): (&[u8], &[u8]),
        (stamp, links): (&Stamp, u64),
        is_there: impl Fn(&(Bytes, Bytes)) -> bool,
    ) {
        let key = (stamp.dev, stamp.ino);
        if links < 2 {
            if !self.0.is_empty() {
                self.0.remove(&key);
            }
            return;
        }
        let places = self.0.entry(key).or_default();
        places.insert((dir.to_vec(), name.to_vec()));
        if places.len() as u64 > links {
            places.retain(is_there);
        }
    }

    /// Returns the directories in which a file has other names.
    pub(super) fn dirs(&self, stamp: &Stamp) -> impl Iterator<Item = &Bytes> {
        self.0.get(&(stamp.dev, stamp.ino)).into_iter().flatten().map(|(dir, _)| dir)
    }
}
