//! The names of nodes, by their keys and by whose events they are.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use worknode::history::Author;
use worknode::id::NodeId;
use worknode::key::Key;

/// The nodes that are or were in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<Key, (NodeId, bool)>);

impl Names {
    /// Takes the nodes by their keys, and whether they still are members.
    pub(super) fn new(nodes: HashMap<Key, (NodeId, bool)>) -> Self {
        Self(nodes)
    }

    /// Returns the names of all members.
    pub(crate) fn members(&self) -> BTreeSet<&NodeId> {
        self.0.values().filter(|(_, is_member)| *is_member).map(|(node, _)| node).collect()
    }

    /// Returns those of the authors who are members.
    pub(super) fn members_of(&self, authors: &[(Author, Key)]) -> impl Iterator<Item = Author> {
        let is_member = |key| self.0.get(key).is_some_and(|(_, is_member)| *is_member);
        authors.iter().filter(move |(_, key)| is_member(key)).map(|(author, _)| *author)
    }

    /// Returns the names of authors. `authors` says by which key each has stated that the events are its own.
    pub(crate) fn of_authors(&self, authors: &[(Author, Key)]) -> HashMap<Author, NodeId> {
        let named = authors.iter().filter_map(|(author, key)| Some((*author, self.0.get(key)?)));
        named.map(|(author, (node, _))| (author, node.clone())).collect()
    }
}

/// The names as they are now.
#[derive(Debug, Default)]
pub(super) struct Named(RwLock<Arc<Names>>);

impl Named {
    pub(super) fn set(&self, names: Names) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(names);
    }

    pub(super) fn now(&self) -> Arc<Names> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
