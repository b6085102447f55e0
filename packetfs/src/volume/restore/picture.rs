//! What is below a directory, now or at a moment.

use std::collections::{HashMap, HashSet, VecDeque};

use worknode::history::{Hlc, Name};

use super::super::error::VolumeError;
use super::super::node::Node;
use super::super::tree::Tree;

/// A name in a directory.
pub(in crate::volume) type Place = (u64, Name);

/// Names and files.
#[derive(Debug, Default)]
pub(in crate::volume) struct Picture {
    /// All names with what they lead to; a directory comes before what is in it.
    pub(in crate::volume) names: Vec<(Place, u64)>,
    pub(in crate::volume) nodes: HashMap<u64, Node>,
}

impl Picture {
    /// Takes a picture below a directory. `chain` are the only names of interest in it and in the directories that they lead to;
    /// everything below the last one is taken.
    pub(in crate::volume) fn take(
        tree: &Tree,
        at: Option<Hlc>,
        dir: u64,
        chain: &[Name],
    ) -> Result<Self, VolumeError> {
        let mut picture = Self::default();
        let mut seen = HashSet::from([dir]);
        let mut dirs = VecDeque::from([(dir, 0)]);
        while let Some((dir, depth)) = dirs.pop_front() {
            for (name, ino) in names(tree, at, dir, chain.get(depth))? {
                let node = match at {
                    Some(at) => tree.find_at(ino, at)?,
                    None => tree.find(ino)?,
                };
                let Some(node) = node else { continue };
                if node.is_dir() && seen.insert(ino) {
                    dirs.push_back((ino, depth + 1));
                }
                picture.nodes.insert(ino, node);
                picture.names.push(((dir, name), ino));
            }
        }
        Ok(picture)
    }
}

fn names(
    tree: &Tree,
    at: Option<Hlc>,
    dir: u64,
    only: Option<&Name>,
) -> Result<Vec<(Name, u64)>, VolumeError> {
    let found = match (at, only) {
        (Some(at), None) => tree.entries_at(dir, at)?,
        (None, None) => tree.entries(dir)?,
        (Some(at), Some(name)) => {
            tree.entry_at(dir, name, at)?.map(|entry| (name.clone(), entry)).into_iter().collect()
        }
        (None, Some(name)) => {
            tree.entry(dir, name)?.map(|entry| (name.clone(), entry)).into_iter().collect()
        }
    };
    Ok(found.into_iter().map(|(name, entry)| (name, entry.ino)).collect())
}
