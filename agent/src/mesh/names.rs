//! The names of nodes, by their keys and by whose events they are. Pure.

use std::collections::{BTreeSet, HashMap};

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

    /// Returns the names of authors. `authors` says by which key each has stated that the events are its own.
    pub(crate) fn of_authors(&self, authors: &[(Author, Key)]) -> HashMap<Author, NodeId> {
        let named = authors.iter().filter_map(|(author, key)| Some((*author, self.0.get(key)?)));
        named.map(|(author, (node, _))| (author, node.clone())).collect()
    }
}
