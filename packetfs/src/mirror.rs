//! The mirror of an origin's tree on a runner: listings of directories, manifests of files that were read, and
//! a node number for each path, which is stable while the kernel holds a reference to it. The hard links of
//! a file share a number.
//!
//! The mirror does no I/O. It answers from what it knows or names what must be fetched; it learns answers and
//! changes from the origin, and returns the invalidations for the kernel.
//!
//! In reading order: `model` has the types; `item` is one path; `answers` and `paths` answer questions;
//! `learn` and `unlearn` apply what the origin reports; `found` tells what a walk has found; `evict` bounds the
//! memory.

mod answers;
mod evict;
mod found;
mod gone;
mod item;
mod kernel;
mod learn;
mod links;
mod model;
mod paths;
mod unlearn;

use std::collections::{BTreeSet, HashMap};

use crate::path::Bytes;
use crate::tree::{Attr, Kind, Time};
use gone::Gone;
use item::Item;
use kernel::Kernel;
use links::Links;

pub use model::{Answer, Invalidation, Marks, Name, Need, Node, ROOT};

/// Number of names beyond which unused ones are evicted: several times what a large build looks up, about 100 MB.
pub const NAMES_MAX: usize = 200_000;

/// An origin's tree.
#[derive(Debug)]
pub struct Mirror {
    /// By path. Boxed, because a hash table is up to half empty.
    items: HashMap<Node, Box<Item>>,
    links: Links,
    next: Node,
    /// Number of batches of changes so far.
    batches: u64,
    marks: Marks,
    gone: Gone,
    kernel: Kernel,
    /// Names that the kernel should drop because it caches too many.
    excess: BTreeSet<Invalidation>,
    names_max: usize,
    /// Number of names beyond which some are evicted.
    evict_beyond: usize,
    /// Whether the kernel was asked to drop unused names since the last eviction.
    asked: bool,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// Makes an empty mirror.
    #[must_use]
    pub fn new() -> Self {
        Self::with_names_max(NAMES_MAX)
    }

    /// Makes an empty mirror that evicts unused names when it knows more than `names_max`.
    #[must_use]
    pub fn with_names_max(names_max: usize) -> Self {
        let time = Time { seconds: 0, nanos: 0 };
        // Placeholder attributes, which are never shown: the first question about the root fetches
        // it.
        let attr = Attr {
            kind: Kind::Dir,
            mode: 0o755,
            uid: 0,
            gid: 0,
            bytes: 0,
            blocks: 0,
            links: 2,
            rdev: 0,
            mtime: time,
            ctime: time,
            ino: 0,
            dev: 0,
        };
        let root = Item { attr: Some(attr), ..Item::new(ROOT, Bytes::new()) };
        Self {
            items: HashMap::from([(ROOT, Box::new(root))]),
            links: Links::default(),
            next: ROOT + 1,
            batches: 0,
            marks: Marks::default(),
            gone: Gone::default(),
            kernel: Kernel::default(),
            excess: BTreeSet::new(),
            names_max,
            evict_beyond: names_max,
            asked: false,
        }
    }

    /// Tells whether anything that was listed so far has extended attributes.
    #[must_use]
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Returns the number of batches of changes so far.
    #[must_use]
    pub fn batches(&self) -> u64 {
        self.batches
    }
}

#[cfg(test)]
mod tests;
