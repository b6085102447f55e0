//! What is to be seen of a tree.

use std::collections::BTreeMap;

use blake3::Hasher;

use super::super::event::{Dot, FileId, Hash, Name};
use super::file::{Dispute, File};
use super::model::Tree;
use super::names::{Claim, Place};

/// Distinguishes digests of trees from others.
const ROOT_CONTEXT: &str = "oswalk 2026 visible tree";

/// What is at a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The file that the name leads to.
    pub file: FileId,
    /// Directories that are united with it, because they were made under one name concurrently.
    pub united: Vec<FileId>,
    /// Files that lost the name against a concurrent one: conflict versions of this name.
    pub others: Vec<FileId>,
}

/// Something that concurrent events set to different values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// Different files got one name.
    Name {
        /// The directory.
        dir: FileId,
        /// The name.
        name: Name,
        /// What is there.
        entry: Entry,
    },
    /// A file's content or attributes.
    File {
        /// The file.
        file: FileId,
        /// Which of them.
        dispute: Dispute,
    },
}

impl Tree {
    /// Returns what is at a name.
    #[must_use]
    pub fn entry(&self, dir: FileId, name: &[u8]) -> Option<Entry> {
        Entry::of(self.united(dir).iter().flat_map(|dir| self.names.at(*dir, name)))
    }

    /// Returns all names of a directory.
    #[must_use]
    pub fn entries(&self, dir: FileId) -> BTreeMap<&Name, Entry> {
        let mut names: BTreeMap<&Name, Vec<&Claim>> = BTreeMap::new();
        for (name, claims) in self.united(dir).into_iter().flat_map(|dir| self.names.of(dir)) {
            names.entry(name).or_default().extend(claims);
        }
        let entry = |(name, claims)| Some(name).zip(Entry::of(claims));
        names.into_iter().filter_map(entry).collect()
    }

    /// Returns what is known of a file, whether any name leads to it or not.
    #[must_use]
    pub fn file(&self, id: FileId) -> Option<&File> {
        self.files.get(&id)
    }

    /// Returns the names of a file with their directories, those first that lead to it. At the others it is a conflict
    /// version, or a directory that is united with another one. Their number is that of its hard links.
    #[must_use]
    pub fn names(&self, id: FileId) -> Vec<(FileId, &Name)> {
        let here =
            |place: &Place| self.entry(place.dir, &place.name).is_some_and(|at| at.file == id);
        let mut places: Vec<_> = self.claims(id).map(|(place, _)| place).collect();
        places.sort_by_key(|place| !here(place));
        let mut names = Vec::new();
        for place in places {
            let name = (self.shown(place.dir), &place.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Returns the names from the root to a file; none if no name leads to it.
    #[must_use]
    pub fn path(&self, id: FileId) -> Option<Vec<&Name>> {
        let mut path = Vec::new();
        let mut at = id;
        while at != FileId::default() {
            let (dir, name) = *self.names(at).first()?;
            path.push(name);
            at = dir;
        }
        path.reverse();
        Some(path)
    }

    /// Returns all conflicts of files that a name leads to.
    #[must_use]
    pub fn conflicts(&self) -> Vec<Conflict> {
        let shown = self.names.all().map(|(dir, _)| dir).filter(|dir| self.shown(*dir) == *dir);
        let at_names = shown.flat_map(|dir| {
            let disputed =
                self.entries(dir).into_iter().filter(|(_, entry)| !entry.others.is_empty());
            disputed.map(move |(name, entry)| Conflict::Name { dir, name: name.clone(), entry })
        });
        let of_files = self.named().flat_map(|(id, file)| {
            file.disputes().into_iter().map(move |dispute| Conflict::File { file: id, dispute })
        });
        at_names.chain(of_files).collect()
    }

    /// Returns a digest of all that is to be seen. Trees of the same events have the same.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut hasher = Hasher::new_derive_key(ROOT_CONTEXT);
        let mut add = |bytes: Result<Vec<u8>, postcard::Error>| {
            hasher.update(&bytes.expect("a vector takes any length"));
        };
        for (dir, names) in self.names.all() {
            for (name, claims) in names {
                let claims: Vec<_> = claims.iter().map(|claim| (claim.stamp, claim.file)).collect();
                add(postcard::to_allocvec(&(dir, name, claims)));
            }
        }
        for (id, file) in self.named() {
            add(postcard::to_allocvec(&(id, file.visible())));
        }
        *hasher.finalize().as_bytes()
    }

    /// Returns the directories that are shown as one with a directory, the one whose attributes count last. Directories
    /// are united if they have one name in one directory, or in united ones.
    pub(super) fn united(&self, dir: FileId) -> Vec<FileId> {
        if !self.names.unite() {
            return vec![dir];
        }
        let mut names = Vec::new();
        let mut at = dir;
        while at != FileId::default() {
            let Some((place, _)) = self.claims(at).next() else { return vec![dir] };
            names.push(&place.name);
            at = place.dir;
        }
        let below = |dirs: Vec<FileId>, name: &Name| {
            let mut claims: Vec<&Claim> = dirs
                .iter()
                .flat_map(|dir| self.names.at(*dir, name))
                .filter(|at| at.is_dir)
                .collect();
            claims.sort_unstable();
            claims.iter().map(|claim| claim.file).collect()
        };
        names.into_iter().rev().fold(vec![FileId::default()], below)
    }

    /// Returns the directory as which a directory is shown.
    fn shown(&self, dir: FileId) -> FileId {
        self.united(dir).last().copied().unwrap_or(dir)
    }

    /// Returns where a file says that it is.
    pub(super) fn claims(&self, id: FileId) -> impl Iterator<Item = &(Place, Claim)> {
        let file = self.files.get(&id);
        let links = file.into_iter().flat_map(|file| &file.links);
        links
            .filter_map(|link| self.links[link].claim.as_ref())
            .chain(file.and_then(|file| file.back.as_ref()))
    }

    fn named(&self) -> impl Iterator<Item = (FileId, &File)> {
        let is_named = |(id, file): &(&Dot, &File)| **id == FileId::default() || file.is_named();
        self.files.iter().filter(is_named).map(|(id, file)| (*id, file))
    }
}

impl Entry {
    fn of<'a>(claims: impl IntoIterator<Item = &'a Claim>) -> Option<Self> {
        let mut claims: Vec<&Claim> = claims.into_iter().collect();
        claims.sort_unstable();
        let winner = claims.pop()?;
        let mut entry = Self { file: winner.file, united: Vec::new(), others: Vec::new() };
        for claim in claims.into_iter().rev() {
            let lost = if claim.is_dir { &mut entry.united } else { &mut entry.others };
            if claim.file != winner.file && !lost.contains(&claim.file) {
                lost.push(claim.file);
            }
        }
        Some(entry)
    }
}
