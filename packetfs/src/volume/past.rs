//! The tree as it was: what the tables know of former moments, and what paths have led to.

use std::sync::Arc;

use nix::errno::Errno;
use worknode::history::{Hlc, Name};

use super::changes::failed;
use super::error::VolumeError;
use super::key::{self, Key};
use super::model::{Shared, State};
use super::node::{Entry, Node, ROOT, Xattr};
use super::row::Row;
use super::tree::Tree;

/// Most directories above a file: more would be a cycle.
const DEPTH_MAX: usize = 4096;

/// A value, and when it held.
#[derive(Debug, Clone)]
pub(super) struct Held<T> {
    pub(super) since: Hlc,
    /// None if it still holds.
    pub(super) until: Option<Hlc>,
    pub(super) value: T,
}

/// Most directories of one path whose files count as one.
const FORMER_MAX: usize = 64;

/// A name in a directory, whatever it leads to. That of the root is empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Spot {
    pub(super) dir: u64,
    pub(super) name: Name,
    /// Other directories that the path of the directory led to, and that have had the name: it was removed and made again.
    former: Vec<u64>,
}

impl Spot {
    pub(super) fn new(dir: u64, name: Name) -> Self {
        Self { dir, name, former: Vec::new() }
    }

    pub(super) fn root() -> Self {
        Self::new(ROOT, Name::new())
    }

    /// Returns all directories of the path, the present one first.
    pub(super) fn dirs(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.dir).chain(self.former.iter().copied())
    }

    pub(super) fn is_root(&self) -> bool {
        self.name.is_empty()
    }
}

impl Tree {
    /// Returns a file as it was at a moment.
    pub(super) fn find_at(&self, ino: u64, at: Hlc) -> Result<Option<Node>, VolumeError> {
        self.tables.get_at(&key::node(ino), at)?.map(|row| Node::decode(&row)).transpose()
    }

    /// Returns what a name led to at a moment.
    pub(super) fn entry_at(
        &self,
        dir: u64,
        name: &[u8],
        at: Hlc,
    ) -> Result<Option<Entry>, VolumeError> {
        self.tables.get_at(&key::entry(dir, name), at)?.map(|row| Entry::decode(&row)).transpose()
    }

    /// Returns the names in a directory, and what they lead to.
    pub(super) fn entries(&self, dir: u64) -> Result<Vec<(Name, Entry)>, VolumeError> {
        named(self.tables.all(&key::entries(dir))?)
    }

    /// Returns the names that were in a directory at a moment.
    pub(super) fn entries_at(&self, dir: u64, at: Hlc) -> Result<Vec<(Name, Entry)>, VolumeError> {
        named(self.tables.all_at(&key::entries(dir), at)?)
    }

    /// Returns all names that a directory has or had.
    pub(super) fn names_ever(&self, dir: u64) -> Result<Vec<Name>, VolumeError> {
        let keys = self.tables.keys_ever(&key::entries(dir))?;
        Ok(keys.iter().map(|key| key::name(key).to_vec()).collect())
    }

    /// Returns the extended attributes that a file has.
    pub(super) fn xattrs(&self, ino: u64) -> Result<Vec<(Name, Vec<u8>)>, VolumeError> {
        values(self.tables.all(&key::xattrs(ino))?)
    }

    /// Returns the extended attributes that a file had at a moment.
    pub(super) fn xattrs_at(&self, ino: u64, at: Hlc) -> Result<Vec<(Name, Vec<u8>)>, VolumeError> {
        values(self.tables.all_at(&key::xattrs(ino), at)?)
    }

    /// Returns all that a file was, the oldest first.
    pub(super) fn nodes_of(&self, ino: u64) -> Result<Vec<Held<Node>>, VolumeError> {
        self.held(&key::node(ino), Node::decode)
    }

    /// Returns all that a name led to, the oldest first.
    pub(super) fn bindings(&self, spot: &Spot) -> Result<Vec<Held<Entry>>, VolumeError> {
        let mut all = Vec::new();
        for dir in spot.dirs() {
            all.extend(self.held(&key::entry(dir, &spot.name), Entry::decode)?);
        }
        all.sort_by_key(|held| held.since);
        Ok(all)
    }

    fn held<T>(
        &self,
        key: &key::Key,
        decode: impl Fn(&[u8]) -> Result<T, VolumeError>,
    ) -> Result<Vec<Held<T>>, VolumeError> {
        let mut all = Vec::new();
        for (since, until, row) in self.tables.past(key)? {
            all.push(Held { since, until: Some(until), value: decode(&row)? });
        }
        if let (Some(since), Some(row)) = (self.tables.since(key)?, self.tables.get(key)?) {
            all.push(Held { since, until: None, value: decode(&row)? });
        }
        Ok(all)
    }

    /// Returns the directories that a name has led to, the latest first.
    pub(super) fn dirs_at(&self, spot: &Spot) -> Result<Vec<u64>, VolumeError> {
        if spot.is_root() {
            return Ok(vec![ROOT]);
        }
        let mut dirs = Vec::new();
        for held in self.bindings(spot)?.into_iter().rev() {
            let ino = held.value.ino;
            if !dirs.contains(&ino) && self.latest(ino)?.is_some_and(|node| node.is_dir()) {
                dirs.push(ino);
            }
        }
        Ok(dirs)
    }

    /// Returns a file as it is, or as it was at last.
    pub(super) fn latest(&self, ino: u64) -> Result<Option<Node>, VolumeError> {
        match self.find(ino)? {
            Some(node) => Ok(Some(node)),
            None => Ok(self.nodes_of(ino)?.pop().map(|held| held.value)),
        }
    }

    /// Returns a name below another one: in the latest of its directories that knows it, and in the others.
    pub(super) fn below(&self, spot: &Spot, name: &[u8]) -> Result<Option<Spot>, VolumeError> {
        let mut found: Option<Spot> = None;
        for dir in self.dirs_at(spot)? {
            let here = Spot::new(dir, name.to_vec());
            if self.bindings(&here)?.is_empty() {
                continue;
            }
            match &mut found {
                None => found = Some(here),
                Some(found) if found.former.len() < FORMER_MAX => found.former.push(dir),
                Some(_) => break,
            }
        }
        Ok(found)
    }

    /// Returns the name that a path leads to, or led to at last.
    pub(super) fn spot(&self, path: &[u8]) -> Result<Option<Spot>, VolumeError> {
        let mut spot = Spot::root();
        for name in components(path) {
            let Some(below) = self.below(&spot, name)? else { return Ok(None) };
            spot = below;
        }
        Ok(Some(spot))
    }

    /// Returns the name that a path leads to, or led to at last.
    pub(super) fn known_spot(&self, path: &[u8]) -> Result<Spot, Errno> {
        told(self.spot(path))?.ok_or(Errno::ENOENT)
    }

    /// Returns the file that a path led to at a moment.
    pub(super) fn walk_at(&self, path: &[u8], at: Hlc) -> Result<Option<u64>, VolumeError> {
        let mut ino = ROOT;
        for name in components(path) {
            let Some(entry) = self.entry_at(ino, name, at)? else { return Ok(None) };
            ino = entry.ino;
        }
        Ok(Some(ino))
    }

    /// Returns a path that a file has.
    pub(super) fn path(&self, mut ino: u64) -> Result<Option<Vec<u8>>, VolumeError> {
        let mut names = Vec::new();
        while let Some(spot) = self.spot_of(ino)? {
            if spot.is_root() || names.len() > DEPTH_MAX {
                let path = names.iter().rev().flat_map(|name: &Name| [b"/", &name[..]].concat());
                return Ok(Some(path.collect()));
            }
            names.push(spot.name);
            ino = spot.dir;
        }
        Ok(None)
    }

    /// Returns a name that a file has.
    pub(super) fn spot_of(&self, ino: u64) -> Result<Option<Spot>, VolumeError> {
        let Some(node) = self.find(ino)? else { return Ok(None) };
        if ino == ROOT {
            return Ok(Some(Spot::root()));
        }
        let names = self.entries(node.parent)?;
        let found = names.into_iter().find(|(_, entry)| entry.ino == ino);
        Ok(found.map(|(name, _)| Spot::new(node.parent, name)))
    }
}

impl Shared {
    /// Returns the tree as it is now, for what takes long: programs do not wait for it.
    pub(super) fn as_now(&self) -> Result<Tree, Errno> {
        told(self.lock().tree.as_now())
    }
}

impl State {
    /// Returns the file that a path leads to.
    pub(super) fn walk(&self, path: &[u8]) -> Result<u64, Errno> {
        components(path).try_fold(ROOT, |dir, name| {
            self.dir(dir)?;
            Ok(self.child(dir, name)?.ok_or(Errno::ENOENT)?.ino)
        })
    }
}

/// Returns the names of a path below the root.
pub(super) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Passes a failure on as an error number.
pub(super) fn told<T>(result: Result<T, VolumeError>) -> Result<T, Errno> {
    result.map_err(|error| failed(&error))
}

type Rows = Vec<(key::Key, std::sync::Arc<[u8]>)>;

fn named(rows: Rows) -> Result<Vec<(Name, Entry)>, VolumeError> {
    rows.iter().map(|(key, row)| Ok((key::name(key).to_vec(), Entry::decode(row)?))).collect()
}

fn values(rows: Rows) -> Result<Vec<(Name, Vec<u8>)>, VolumeError> {
    let xattr =
        |(key, row): &(Key, Arc<[u8]>)| Ok((key::name(key).to_vec(), Xattr::decode(row)?.value));
    rows.iter().map(xattr).collect()
}
