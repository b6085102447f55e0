//! The index of names: which links say that they are at a name of a directory.

use std::collections::BTreeMap;

use super::super::event::{Dot, FileId, Name};
use super::super::register::Stamp;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) dir: FileId,
    pub(super) name: Name,
}

/// What one link says about a name. Greater ones win: directories before other files, so that what is below them
/// keeps its path; then the later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    pub(super) is_dir: bool,
    pub(super) stamp: Stamp,
    pub(super) file: FileId,
    pub(super) link: Dot,
}

/// The claims of each name, in their order.
pub(super) type Claims = Vec<Claim>;

/// All names that lead to something.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    dirs: BTreeMap<FileId, BTreeMap<Name, Claims>>,
    /// How many names have more than one directory. Usually none: then no directories are united.
    shared: usize,
}

impl Names {
    pub(super) fn add(&mut self, place: &Place, claim: Claim) {
        self.edit(place, |claims| {
            let at = claims.partition_point(|other| *other < claim);
            claims.insert(at, claim);
        });
    }

    pub(super) fn remove(&mut self, place: &Place, claim: Claim) {
        self.edit(place, |claims| claims.retain(|other| *other != claim));
    }

    fn edit(&mut self, place: &Place, edit: impl FnOnce(&mut Claims)) {
        let dir = self.dirs.entry(place.dir).or_default();
        let claims = dir.entry(place.name.clone()).or_default();
        self.shared -= usize::from(has_several_dirs(claims));
        edit(claims);
        self.shared += usize::from(has_several_dirs(claims));
        if claims.is_empty() {
            dir.remove(&place.name);
        }
        if dir.is_empty() {
            self.dirs.remove(&place.dir);
        }
    }

    /// Returns whether any directories may be united.
    pub(super) const fn unite(&self) -> bool {
        self.shared > 0
    }

    pub(super) fn at(&self, dir: FileId, name: &[u8]) -> &[Claim] {
        self.dirs.get(&dir).and_then(|names| names.get(name)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn of(&self, dir: FileId) -> impl Iterator<Item = (&Name, &Claims)> {
        self.dirs.get(&dir).into_iter().flatten()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (FileId, &BTreeMap<Name, Claims>)> {
        self.dirs.iter().map(|(dir, names)| (*dir, names))
    }
}

fn has_several_dirs(claims: &Claims) -> bool {
    claims.iter().filter(|claim| claim.is_dir).count() > 1
}
