//! What an author does, as the events that say it: with the parents that they must name.

use super::super::event::{Dot, FileId, Kind, Name, Op};
use super::file::File;
use super::model::Tree;
use super::names::Claim;

/// An event without its name and moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is done.
    pub op: Op,
    /// What it replaces.
    pub parents: Vec<Dot>,
}

impl Tree {
    /// Returns the events that do something to this tree as it is, to be made in this order and together. The operation
    /// is allowed here, by the rules of POSIX: the names are there or free, directories to be removed are empty.
    ///
    /// Usually that is one event. There are more where united directories are concerned, because each of them has names
    /// of its own; and if the last name leaves a directory that was removed but came back. A rename of a file to
    /// itself is none.
    #[must_use]
    pub fn plan(&self, op: Op) -> Vec<Change> {
        match op {
            Op::Make { dir, ref name, .. } | Op::Link { dir, ref name, .. } => {
                vec![Change { parents: self.parents_at(dir, name), op }]
            }
            Op::Unlink { dir, name } => self.plan_unlink(dir, &name),
            Op::Move { dir, ref name, to, ref new, .. } if self.is_same((dir, name), (to, new)) => {
                Vec::new()
            }
            Op::Move { dir, name, to, new, exchange: true } => {
                self.plan_exchange((dir, name), (to, new))
            }
            Op::Move { dir, name, to, new, exchange: false } => {
                self.plan_move((dir, &name), (to, &new))
            }
            Op::Set { file, .. }
            | Op::Write { file, .. }
            | Op::Xattr { file, .. }
            | Op::Choose { file, .. } => {
                let parents = self.files.get(&file).map(|file| file.parents(&op));
                vec![Change { parents: parents.unwrap_or_default(), op }]
            }
        }
    }

    /// Returns a Write that ends conflicts of its file's content: those with some versions, or with all.
    #[must_use]
    pub fn plan_resolve(&self, op: Op, version: Option<Dot>) -> Vec<Change> {
        let Op::Write { file, .. } = op else { return self.plan(op) };
        let mut changes = self.plan(op);
        let content = self.files.get(&file).map(File::content);
        for (change, content) in changes.iter_mut().zip(content) {
            match version.and_then(|version| content.version(version)) {
                Some(lost) => change.parents.extend(content.parents_with(&lost.value)),
                None => change.parents.extend(content.parents()),
            }
            change.parents.sort_unstable();
            change.parents.dedup();
        }
        changes
    }

    /// Returns the removal of a file from the conflict versions of a name, or of its winner: what remains has the name.
    #[must_use]
    pub fn plan_dismiss(&self, dir: FileId, name: &Name, file: FileId) -> Vec<Change> {
        let dismiss = |dir: &FileId| {
            let parents = self.parents_of(*dir, name, |at| at == file);
            let op = Op::Unlink { dir: *dir, name: name.clone() };
            (!parents.is_empty()).then_some(Change { op, parents })
        };
        self.united(dir).iter().filter_map(dismiss).collect()
    }

    fn is_same(&self, (dir, name): (FileId, &Name), (to, new): (FileId, &Name)) -> bool {
        let file = |dir, name| self.entry(dir, name).map(|entry| entry.file);
        file(dir, name) == file(to, new)
    }

    fn plan_unlink(&self, dir: FileId, name: &Name) -> Vec<Change> {
        let unlink = |dir: &FileId| Change {
            parents: self.parents_at(*dir, name),
            op: Op::Unlink { dir: *dir, name: name.clone() },
        };
        let holders = self.holders(dir, name);
        self.keep(&holders, name).chain(holders.iter().map(unlink)).collect()
    }

    /// Moves what is shown last, so that it is shown there too.
    fn plan_move(&self, (dir, name): (FileId, &Name), (to, new): (FileId, &Name)) -> Vec<Change> {
        let (sources, targets) = (self.holders(dir, name), self.holders(to, new));
        let mut claims = self.claims_at(&sources, name);
        claims.sort_unstable_by_key(|(_, claim)| *claim);
        let mut replaced = self.replaced_at(to, (to, new));
        let moved = claims.into_iter().map(|(dir, claim)| {
            let parents = self.put_of(claim.link).into_iter().chain(replaced.drain(..)).collect();
            let (name, new) = (name.clone(), new.clone());
            Change { op: Op::Move { dir, name, to, new, exchange: false }, parents }
        });
        let others = targets.iter().filter(|dir| **dir != to).filter_map(|dir| {
            let parents = self.replaced_at(*dir, (to, new));
            let op = Op::Unlink { dir: *dir, name: new.clone() };
            (!parents.is_empty()).then_some(Change { parents, op })
        });
        self.keep(&sources, name).chain(moved).chain(others).collect()
    }

    /// Exchanges what is shown. What is united with it or lost against it stays.
    fn plan_exchange(&self, (dir, name): (FileId, Name), (to, new): (FileId, Name)) -> Vec<Change> {
        let shown = |dir, name| {
            let claims = self.claims_at(&self.holders(dir, name), name);
            claims.into_iter().max_by_key(|(_, claim)| *claim)
        };
        let Some(((dir, left), (to, right))) = shown(dir, &name).zip(shown(to, &new)) else {
            return Vec::new();
        };
        let parents = [left, right].iter().filter_map(|claim| self.put_of(claim.link)).collect();
        vec![Change { op: Op::Move { dir, name, to, new, exchange: true }, parents }]
    }

    fn claims_at(&self, dirs: &[FileId], name: &Name) -> Vec<(FileId, Claim)> {
        let claims =
            dirs.iter().flat_map(|dir| self.names.at(*dir, name).iter().map(|at| (*dir, *at)));
        claims.collect()
    }

    /// Returns those of united directories that have a name.
    fn holders(&self, dir: FileId, name: &Name) -> Vec<FileId> {
        let mut dirs = self.united(dir);
        dirs.retain(|dir| !self.names.at(*dir, name).is_empty());
        dirs
    }

    /// Puts directories where they are once more, if they were removed and are there only because of this name.
    fn keep(&self, dirs: &[FileId], name: &Name) -> impl Iterator<Item = Change> {
        let keep = |dir: &FileId| {
            let (place, _) = self.files[dir].back.as_ref()?;
            let is_last = self.names.of(*dir).all(|(other, _)| other == name);
            let op = Op::Link { dir: place.dir, name: place.name.clone(), file: *dir };
            is_last.then(|| Change { op, parents: self.put_of(*dir).into_iter().collect() })
        };
        dirs.iter().filter_map(keep).collect::<Vec<_>>().into_iter()
    }

    fn parents_at(&self, dir: FileId, name: &Name) -> Vec<Dot> {
        self.parents_of(dir, name, |_| true)
    }

    /// Returns the events that put links at a name, and all heads of their content.
    fn parents_of(&self, dir: FileId, name: &Name, of: impl Fn(FileId) -> bool) -> Vec<Dot> {
        self.parents_with(dir, name, of, |file| file.content().parents().collect())
    }

    /// Returns what a Move replaces in a directory: what is shown at the new name, and of its content what counts. Whoever
    /// saves a file has not seen what lost there. Only contents can be chosen, so other kinds of files go.
    fn replaced_at(&self, dir: FileId, (to, new): (FileId, &Name)) -> Vec<Dot> {
        let shown = self.entry(to, new).map(|entry| entry.file);
        let is_replaced = |file| Some(file) == shown || *self.files[&file].kind() != Kind::File;
        self.parents_with(dir, new, is_replaced, File::content_parents)
    }

    fn parents_with(
        &self,
        dir: FileId,
        name: &Name,
        of: impl Fn(FileId) -> bool,
        content: impl Fn(&File) -> Vec<Dot>,
    ) -> Vec<Dot> {
        let mut parents = Vec::new();
        for claim in self.names.at(dir, name).iter().filter(|claim| of(claim.file)) {
            parents.extend(self.put_of(claim.link));
            parents.extend(content(&self.files[&claim.file]));
        }
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    fn put_of(&self, link: Dot) -> Option<Dot> {
        self.links[&link].state.put.as_ref().map(|(_, stamp)| stamp.dot)
    }
}
