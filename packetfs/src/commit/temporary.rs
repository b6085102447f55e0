//! The temporary names of commits. They are random, so that nobody can create them in advance, and recorded in the
//! journal, so that an interrupted commit can find its files.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// The random key of one commit's temporary names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Temporary(u128);

impl Temporary {
    /// Returns the name of something that was moved aside.
    pub(super) fn aside(self, number: usize) -> String {
        format!(".oswalk-{:032x}-{number}", self.0)
    }

    /// Returns the name of the new file of the change with this number, before it replaces another.
    pub(super) fn fresh(self, number: usize) -> String {
        format!(".oswalk-{:032x}-f{number}", self.0)
    }
}

/// Generates keys, each once.
#[derive(Debug)]
pub(super) struct Temporaries {
    key: [u8; 32],
    made: Cell<u64>,
}

impl Temporaries {
    /// Draws a random seed.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub(super) fn new() -> io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { key, made: Cell::new(0) })
    }

    /// Returns the key of the next commit.
    pub(super) fn next(&self) -> Temporary {
        let number = self.made.replace(self.made.get() + 1);
        let hash = blake3::keyed_hash(&self.key, &number.to_le_bytes());
        let half = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        Temporary(u128::from_le_bytes(*half))
    }
}
