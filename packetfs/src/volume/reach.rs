//! Who may look back at what: whoever could reach a file then, and can reach it now.
//!
//! To reach a file is to search all directories above it. Where the tables do not tell, only the superuser may look back.

use std::collections::BTreeSet;

use worknode::history::Hlc;

use super::access::Access;
use super::error::VolumeError;
use super::key;
use super::node::{Node, ROOT};
use super::past::Spot;
use super::tree::Tree;
use super::versions::Version;
use crate::xattr::is_acl;

/// Most directories above a file: more would be a cycle.
const DEPTH_MAX: usize = 4096;

/// What the tables know of the directories above a file at a moment.
enum Reach {
    Known(Access),
    /// The row of this directory is not kept.
    Unknown(u64),
}

impl Tree {
    /// Returns who may read a version.
    pub(super) fn access_to(&self, version: &Version) -> Result<Option<Access>, VolumeError> {
        match version.is_lost {
            true => self.access_ever(version.ino),
            false => self.access_at(version.ino, version.since),
        }
    }

    /// Returns who could reach a file at a moment and can reach it now, if it is still there. None if it was not there.
    pub(super) fn access_at(&self, ino: u64, at: Hlc) -> Result<Option<Access>, VolumeError> {
        let Some(node) = self.find_at(ino, at)? else { return Ok(None) };
        let then = self.reached_at(ino, &node, at)?;
        let Some(now) = self.find(ino)?.filter(|now| now.links > 0) else {
            return Ok(Some(then));
        };
        let now = match self.reach(ino, &now, None)? {
            Reach::Known(access) => access,
            Reach::Unknown(_) => Access::NOBODY,
        };
        Ok(Some(then.and(now)))
    }

    /// Returns who could reach a file at all times, wherever it was. None if it was never there.
    pub(super) fn access_ever(&self, ino: u64) -> Result<Option<Access>, VolumeError> {
        let Some((mut access, mut todo)) = self.ever(ino)? else { return Ok(None) };
        let mut seen = BTreeSet::from([ino]);
        while let Some(dir) = todo.pop() {
            if seen.insert(dir) {
                let (of_dir, above) = self.ever(dir)?.unwrap_or((Access::NOBODY, Vec::new()));
                access = access.below(of_dir);
                todo.extend(above);
            }
        }
        Ok(Some(access))
    }

    /// Returns who may list the names of all directories that had a name. None if no directory had it.
    pub(super) fn access_to_dirs(&self, spot: &Spot) -> Result<Option<Access>, VolumeError> {
        let mut all: Option<Access> = None;
        for dir in self.dirs_at(spot)? {
            let access = self.access_ever(dir)?.unwrap_or(Access::NOBODY);
            all = Some(all.map_or(access, |all| all.and(access)));
        }
        Ok(all)
    }

    /// Returns what the permissions of a file gave at all times, and the directories that it was in.
    fn ever(&self, ino: u64) -> Result<Option<(Access, Vec<u64>)>, VolumeError> {
        let nodes = self.nodes_of(ino)?;
        let Some(last) = nodes.last() else { return Ok(None) };
        let is_unsure = self.is_unsure(ino, &last.value)?;
        let all = nodes.iter().rev().map(|held| Access::of(held.value.permissions, is_unsure));
        let dirs: BTreeSet<u64> = nodes.iter().map(|held| held.value.parent).collect();
        Ok(all.reduce(Access::and).map(|access| (access, dirs.into_iter().collect())))
    }

    /// Returns who could reach a file at a moment. If the rows of a directory above it are not kept, a later moment counts at
    /// which the file was still the same.
    fn reached_at(&self, ino: u64, node: &Node, mut at: Hlc) -> Result<Access, VolumeError> {
        loop {
            let dir = match self.reach(ino, node, Some(at))? {
                Reach::Known(access) => return Ok(access),
                Reach::Unknown(dir) => dir,
            };
            let next = self.nodes_of(dir)?.into_iter().map(|held| held.since).find(|it| *it > at);
            match next {
                Some(next) if self.find_at(ino, next)?.as_ref() == Some(node) => at = next,
                _ => return Ok(Access::NOBODY),
            }
        }
    }

    /// Returns who can search all directories above a file, and what it allows them: now, or at a moment.
    fn reach(&self, ino: u64, node: &Node, at: Option<Hlc>) -> Result<Reach, VolumeError> {
        let mut access = self.own(ino, node)?;
        let (mut below, mut dir) = (ino, node.parent);
        for _ in 0..DEPTH_MAX {
            if below == ROOT {
                return Ok(Reach::Known(access));
            }
            let above = match at {
                Some(at) => self.find_at(dir, at)?,
                None => self.find(dir)?,
            };
            let Some(above) = above.filter(Node::is_dir) else { return Ok(Reach::Unknown(dir)) };
            access = access.below(self.own(dir, &above)?);
            (below, dir) = (dir, above.parent);
        }
        Ok(Reach::Known(Access::NOBODY))
    }

    /// Returns what the permissions of a file give to those who reach it.
    fn own(&self, ino: u64, node: &Node) -> Result<Access, VolumeError> {
        Ok(Access::of(node.permissions, self.is_unsure(ino, node)?))
    }

    /// Tells whether only the owner's permissions are sure: the file had an access control list, or several names, of whose
    /// directories the tables know one.
    fn is_unsure(&self, ino: u64, node: &Node) -> Result<bool, VolumeError> {
        let xattrs = self.tables.keys_ever(&key::xattrs(ino))?;
        let has_acl = xattrs.iter().any(|key| is_acl(key::name(key)));
        Ok(has_acl || !node.is_dir() && self.nodes_of(ino)?.iter().any(|held| held.value.links > 1))
    }
}
