//! Open files and directories.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::key::Key;
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

/// Some entries of a directory, and the position of the first.
#[derive(Debug, Clone)]
pub struct Page {
    pub(super) first: u64,
    pub(super) entries: Arc<[DirEntry]>,
}

impl Page {
    /// Returns the entries from a position on, each with the position behind it.
    pub fn from(&self, position: u64) -> impl Iterator<Item = (&DirEntry, u64)> {
        let skip = usize::try_from(position.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.entries.iter().zip(self.first + 1..).skip(skip)
    }

    /// Returns all entries of a directory.
    pub(super) fn all(entries: Arc<[DirEntry]>) -> Self {
        Self { first: 0, entries }
    }

    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }
}

/// How far an open directory is listed.
#[derive(Debug)]
pub(super) struct Listing {
    /// The position of each page, and the key before its first row.
    pub(super) begins: Vec<(u64, Option<Key>)>,
    /// Whether there is nothing behind the last page.
    pub(super) is_whole: bool,
    /// The page that was read last.
    pub(super) last: Option<(usize, Page)>,
}

impl Listing {
    pub(super) fn new() -> Self {
        Self { begins: vec![(0, None)], is_whole: false, last: None }
    }

    /// Returns the page that has a position.
    pub(super) fn page_of(&self, position: u64) -> usize {
        self.begins.partition_point(|(first, _)| *first <= position).saturating_sub(1)
    }
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
