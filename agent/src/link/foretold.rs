//! Remembers which data was sent to the peer ahead of walks, so that it is sent only once.

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

/// Walks of this side, and the data that was sent ahead of them.
#[derive(Debug, Default)]
pub(crate) struct Foretold {
    /// Walks that run on the peer, by stream.
    walks: RefCell<HashMap<u32, Arc<Likeness>>>,
    /// Kinds of walks whose data was sent ahead.
    kinds: RefCell<HashSet<Arc<Likeness>>>,
    /// Hashes of the compile steps whose files were sent ahead.
    steps: RefCell<HashSet<u64>>,
}

impl Foretold {
    /// Records a walk on a stream. Returns whether it is the first of its kind.
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

    /// Returns the kinds of walks that run on the peer.
    pub(crate) fn walks(&self) -> Vec<Arc<Likeness>> {
        let mut kinds: Vec<Arc<Likeness>> = Vec::new();
        for walk in self.walks.borrow().values() {
            if !kinds.contains(walk) {
                kinds.push(Arc::clone(walk));
            }
        }
        kinds
    }

    /// Records the end of the walk on a stream.
    pub(crate) fn end_walk(&self, stream: u32) {
        self.walks.borrow_mut().remove(&stream);
    }
}
