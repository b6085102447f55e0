//! Open files and directories.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::listing::Listing;
use crate::tree;

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: Vec<u8>,
    /// The number of the file.
    pub ino: u64,
    /// What it is.
    pub kind: tree::Kind,
}

/// An open file or directory.
#[derive(Debug)]
pub(super) enum Handle {
    File {
        ino: u64,
        writes: bool,
        /// Who opened it.
        uid: u32,
    },
    Dir {
        ino: u64,
        /// Who opened it.
        uid: u32,
        listing: Listing,
    },
}

/// All open files.
#[derive(Debug, Default)]
pub(super) struct Handles {
    pub(super) open: HashMap<u64, Handle>,
    pub(super) last: u64,
    /// How many files and directories each user has open.
    pub(super) of_user: HashMap<u32, usize>,
    /// How many files each user has open for writing.
    pub(super) writers: HashMap<u32, usize>,
}

impl Handles {
    pub(super) fn add(&mut self, handle: Handle) -> u64 {
        *self.of_user.entry(handle.uid()).or_default() += 1;
        if let Handle::File { writes: true, uid, .. } = handle {
            *self.writers.entry(uid).or_default() += 1;
        }
        self.last += 1;
        self.open.insert(self.last, handle);
        self.last
    }

    pub(super) fn remove(&mut self, handle: u64) -> Option<Handle> {
        let removed = self.open.remove(&handle)?;
        lower(&mut self.of_user, removed.uid());
        if let Handle::File { writes: true, uid, .. } = removed {
            lower(&mut self.writers, uid);
        }
        Some(removed)
    }
}

impl Handle {
    fn uid(&self) -> u32 {
        match self {
            Self::File { uid, .. } | Self::Dir { uid, .. } => *uid,
        }
    }
}

fn lower(counts: &mut HashMap<u32, usize>, uid: u32) {
    if let Entry::Occupied(mut count) = counts.entry(uid) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}
