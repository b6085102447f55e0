//! The other authors: which of their events are applied, and the numbers of their files. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use worknode::history::{Author, Dot, FileId};

/// Bits of a file's number that count the events of its author.
const SEQ_BITS: u32 = 40;
/// Authors have indices below this: numbers of files stay below those of `.oswalk`.
const INDEX_END: u64 = 1 << (63 - SEQ_BITS);
/// The number of no file.
const NOBODYS: u64 = 0;

/// All other authors that are known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Others(BTreeMap<Author, Known>);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Known {
    /// The upper bits of the numbers of its files.
    index: u64,
    /// The number up to which its events are applied.
    applied: u64,
}

impl Others {
    /// Gives an author an index, if it has none. It follows from the author's name, so that files keep their numbers when
    /// tables are made again; of authors with one index, the later gets the next one.
    pub(super) fn meet(&mut self, author: Author) {
        if self.0.contains_key(&author) {
            return;
        }
        let is_used = |index: u64| self.0.values().any(|known| known.index == index);
        let mut index = first_index(author);
        while index == 0 || is_used(index) {
            index = (index + 1) % INDEX_END;
        }
        self.0.insert(author, Known { index, applied: 0 });
    }

    /// Returns the number of a file.
    pub(super) fn ino(&self, id: FileId) -> u64 {
        self.0.get(&id.author).map_or(NOBODYS, |known| (known.index << SEQ_BITS) + id.seq)
    }

    pub(super) fn applied(&self, author: Author) -> u64 {
        self.0.get(&author).map_or(0, |known| known.applied)
    }

    pub(super) fn note_applied(&mut self, dot: Dot) {
        if let Some(known) = self.0.get_mut(&dot.author) {
            known.applied = dot.seq;
        }
    }
}

fn first_index(author: Author) -> u64 {
    let bytes = author.0.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(bytes) % INDEX_END
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_different_authors_have_different_numbers() {
        let mut others = Others::default();
        let authors = [1, 2, 3].map(|last| {
            let mut bytes = [0; 16];
            bytes[15] = last;
            Author(bytes)
        });
        authors.iter().for_each(|author| others.meet(*author));
        others.meet(authors[0]);
        let mut numbers = authors.map(|author| others.ino(Dot { author, seq: 7 })).to_vec();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 3);
        assert!(numbers.iter().all(|ino| *ino > 7 && *ino < 1 << 63));
        assert_eq!(others.ino(Dot { author: Author([9; 16]), seq: 7 }), NOBODYS);
    }
}
