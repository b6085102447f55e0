//! Which contents of files in conflict have been noted, so that a write to such a file reads only the rows of new ones.

use std::collections::HashMap;

use worknode::history::Dot;

/// Most contents that are remembered, for some ten megabytes. Beyond this, all are forgotten, and their rows read again.
const NOTED_MAX: usize = 200_000;

/// The contents of one file, and whether each was in conflict.
pub(super) type OfFile = HashMap<Dot, bool>;

/// What the rows say, by file.
#[derive(Debug, Default)]
pub(super) struct Noted {
    by_file: HashMap<u64, OfFile>,
    count: usize,
}

impl Noted {
    /// Takes what is known of a file, so that it can be added to.
    pub(super) fn take(&mut self, ino: u64) -> OfFile {
        let taken = self.by_file.remove(&ino).unwrap_or_default();
        self.count -= taken.len();
        taken
    }

    pub(super) fn put(&mut self, ino: u64, of_file: OfFile) {
        if self.count + of_file.len() > NOTED_MAX {
            (self.by_file, self.count) = (HashMap::new(), 0);
        }
        if of_file.len() <= NOTED_MAX {
            self.count += of_file.len();
            self.by_file.insert(ino, of_file);
        }
    }

    /// Forgets a file whose rows were changed otherwise.
    pub(super) fn forget(&mut self, ino: u64) {
        self.take(ino);
    }
}

#[cfg(test)]
mod tests {
    use worknode::history::Author;

    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut noted = Noted::default();
        let of_file = |count: u64| -> OfFile {
            (0..count).map(|seq| (Dot { author: Author([1; 16]), seq }, false)).collect()
        };
        noted.put(1, of_file(10));
        noted.put(2, of_file(NOTED_MAX as u64));
        assert_eq!((noted.by_file.len(), noted.count), (1, NOTED_MAX));
        noted.put(3, of_file(NOTED_MAX as u64 + 1));
        assert_eq!(noted.count, 0);
        noted.put(4, of_file(3));
        assert_eq!((noted.take(4).len(), noted.count), (3, 0));
    }
}
