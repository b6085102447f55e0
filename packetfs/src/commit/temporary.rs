//! The temporary names of commits: random, so that nobody has made them beforehand, and noted in the journal,
//! so that an interrupted commit finds what it left.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};

use serde::{Deserialize, Serialize};

/// What the temporary names of one commit have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Temporary(u128);

impl Temporary {
    /// Returns the name under which something waits that has left its own.
    pub(super) fn aside(self, number: usize) -> String {
        format!(".oswalk-{:032x}-{number}", self.0)
    }

    /// Returns the name of a file that will take the place of another: that of the change with this number.
    pub(super) fn fresh(self, number: usize) -> String {
        format!(".oswalk-{:032x}-f{number}", self.0)
    }
}

/// Makes them, each once.
#[derive(Debug)]
pub(super) struct Temporaries {
    key: [u8; 32],
    made: Cell<u64>,
}

impl Temporaries {
    /// Takes a random key.
    ///
    /// # Errors
    /// The kernel has no random numbers.
    pub(super) fn new() -> io::Result<Self> {
        let mut key = [0; 32];
        File::open("/dev/urandom")?.read_exact(&mut key)?;
        Ok(Self { key, made: Cell::new(0) })
    }

    /// Returns those of the next commit.
    pub(super) fn next(&self) -> Temporary {
        let number = self.made.replace(self.made.get() + 1);
        let hash = blake3::keyed_hash(&self.key, &number.to_le_bytes());
        let half = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        Temporary(u128::from_le_bytes(*half))
    }
}
