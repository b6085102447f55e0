//! Conversion between node numbers and paths.

use super::Mirror;
use super::model::{Need, Node, ROOT};
use crate::path::{Bytes, join};
use crate::tree::Kind;

/// The number of no path.
pub(super) const NOWHERE: Node = 0;

impl Mirror {
    /// Returns the path of a node, or one of several.
    #[must_use]
    pub fn path(&self, node: Node) -> Bytes {
        self.path_at(self.one_path(node))
    }

    pub(super) fn path_at(&self, place: Node) -> Bytes {
        let mut names = Vec::new();
        let mut at = place;
        while at != ROOT {
            let Some(item) = self.items.get(&at) else { break };
            names.push(item.name.as_slice());
            at = item.parent;
        }
        names.iter().rev().fold(b"/".to_vec(), |path, name| join(&path, name))
    }

    /// Returns the paths of a node; none if it does not exist. Of several hard links only the listed ones, because
    /// the others may be outdated.
    #[must_use]
    pub fn known_paths(&self, node: Node) -> Vec<Bytes> {
        match self.links.sharing(node) {
            Some(paths) => {
                let listed = paths.iter().filter(|&&path| self.is_listed(path));
                listed.map(|&path| self.path_at(path)).collect()
            }
            None => {
                let place = self.one_path(node);
                self.items.get(&place).map(|_| self.path_at(place)).into_iter().collect()
            }
        }
    }

    /// Returns the number that a path shows, if it is known and exists.
    #[must_use]
    pub fn node(&self, path: &[u8]) -> Option<Node> {
        let place = self.place(path)?;
        self.items.get(&place)?.attr?;
        Some(self.links.shown(place))
    }

    /// Returns the path's own number, if it is known.
    pub(super) fn place(&self, path: &[u8]) -> Option<Node> {
        path.split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(ROOT, |dir, name| self.items.get(&dir)?.children.get(name).copied())
    }

    /// Returns the own number of a path of a node, preferably a listed one. The path that the node's number was
    /// made for may show another one by now.
    pub(super) fn one_path(&self, node: Node) -> Node {
        let Some(paths) = self.links.sharing(node) else {
            return if self.links.shown(node) == node { node } else { NOWHERE };
        };
        let listed = paths.iter().find(|&&path| self.is_listed(path));
        listed.or(paths.first()).copied().unwrap_or(node)
    }

    /// Tells whether a path is in the known listing of its directory.
    pub(super) fn is_listed(&self, path: Node) -> bool {
        let dir = self.items.get(&path).and_then(|item| self.items.get(&item.parent));
        dir.is_some_and(|dir| dir.listed)
    }

    /// Returns the first unknown listing on the path to a directory, including its own.
    #[must_use]
    pub fn lacks(&self, dir: &[u8]) -> Option<Need> {
        let mut node = ROOT;
        let mut names = dir.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
        loop {
            let item = self.items.get(&node)?;
            item.attr.filter(|attr| attr.kind == Kind::Dir)?;
            if !item.listed {
                return Some(Need::Listing(self.path(node)));
            }
            node = *item.children.get(names.next()?)?;
        }
    }
}
