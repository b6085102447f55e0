//! The tree of an origin as one of its runners knows it: directories that were fetched whole, the
//! manifests of files that were read, and a number for each path, which stays the same as long as the
//! kernel knows it. The names of a file that has several share a number.
//!
//! The mirror is pure: it says what it knows or what must be fetched, takes in what was fetched and
//! what changed, and says what the kernel has to forget.
//!
//! In reading order: `model` has the types; `item` is one path; `answers` and `paths` answer questions;
//! `learn` and `unlearn` take in what the origin says; `found` tells what a walk has found; `evict` keeps
//! the mirror small.

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

/// Names that a mirror knows before it evicts those that are not in use: several times what a large build
/// looks at, and about 100 MB.
pub const NAMES_MAX: usize = 200_000;

/// An origin's tree.
#[derive(Debug)]
pub struct Mirror {
    /// By path. Each in a box, because a table that grows and shrinks is half empty.
    items: HashMap<Node, Box<Item>>,
    links: Links,
    next: Node,
    /// Batches of changes so far.
    batches: u64,
    marks: Marks,
    gone: Gone,
    kernel: Kernel,
    /// What is too much for the kernel to remember.
    excess: BTreeSet<Invalidation>,
    names_max: usize,
    /// Names beyond which something is evicted.
    evict_beyond: usize,
    /// The kernel was asked to forget all names since something was last evicted.
    asked: bool,
}

impl Default for Mirror {
    fn default() -> Self {
        Self::new()
    }
}

impl Mirror {
    /// Makes a mirror that knows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::with_names_max(NAMES_MAX)
    }

    /// Makes a mirror that knows nothing, and evicts what is not in use when it knows more names than this.
    #[must_use]
    pub fn with_names_max(names_max: usize) -> Self {
        let time = Time { seconds: 0, nanos: 0 };
        // Until the root is fetched it is some directory; nobody sees these attributes, because
        // the first question about the root fetches it.
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
