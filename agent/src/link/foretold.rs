//! What the other side of a link was told ahead of this side's walks, so that it is told once.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use worknode::command::Files;

use crate::compile;
use crate::exporter::profile::Likeness;

/// Most kinds of walks whose data was sent ahead that are remembered; beyond this, data is sent again.
const KINDS_MAX: usize = 1000;
/// The same for compile steps.
const STEPS_MAX: usize = 50_000;

/// Walks of this side, and what was told ahead of them.
#[derive(Debug, Default)]
pub(crate) struct Foretold {
    /// Walks that run on the other side, by stream.
    walks: RefCell<HashMap<u32, Arc<Likeness>>>,
    /// Kinds of walks of which it was told ahead of the first.
    kinds: RefCell<HashSet<Arc<Likeness>>>,
    /// Hashes of the compile steps whose files it was told of.
    steps: RefCell<HashSet<u64>>,
}

impl Foretold {
    /// Notes a walk on a stream; true if it is the first of its kind.
    pub(crate) fn note_walk(&self, stream: u32, walk: &Arc<Likeness>) -> bool {
        self.walks.borrow_mut().insert(stream, Arc::clone(walk));
        let mut kinds = self.kinds.borrow_mut();
        if kinds.len() >= KINDS_MAX {
            kinds.clear();
        }
        kinds.insert(Arc::clone(walk))
    }

    /// Records the files of a compile step. Returns whether they, or the current versions of its sources, have not been
    /// sent ahead yet.
    pub(crate) fn note_step(&self, walk: &Likeness, files: &Files) -> bool {
        let mut hasher = DefaultHasher::new();
        (walk, files, compile::versions(files, &walk.cwd)).hash(&mut hasher);
        let mut steps = self.steps.borrow_mut();
        if steps.len() >= STEPS_MAX {
            steps.clear();
        }
        steps.insert(hasher.finish())
    }

    /// Returns the kinds of walks that run on the other side.
    pub(crate) fn walks(&self) -> Vec<Arc<Likeness>> {
        let mut kinds: Vec<Arc<Likeness>> = Vec::new();
        for walk in self.walks.borrow().values() {
            if !kinds.contains(walk) {
                kinds.push(Arc::clone(walk));
            }
        }
        kinds
    }

    /// The walk on a stream has ended.
    pub(crate) fn end_walk(&self, stream: u32) {
        self.walks.borrow_mut().remove(&stream);
    }
}
