//! What a live file system remembers of its own events, to name the parents of the next one: of each name the event that
//! put it there, of each file the last Write and the last Set, of each extended attribute the last Xattr.

use std::collections::BTreeMap;

use worknode::history::{Change, Dot, FileId, Name, Op};

#[derive(Default)]
pub(crate) struct Live {
    names: BTreeMap<(FileId, Name), (Dot, FileId)>,
    written: BTreeMap<FileId, Dot>,
    set: BTreeMap<FileId, Dot>,
    xattrs: BTreeMap<(FileId, Name), Dot>,
}

impl Live {
    /// Returns a change with its parents, which has the name `dot` then.
    pub(crate) fn change(&mut self, dot: Dot, op: Op) -> Change {
        let parents = match &op {
            Op::Make { dir, name, .. } => self.bind(*dir, name, (dot, dot)),
            Op::Link { dir, name, file } => self.bind(*dir, name, (dot, *file)),
            Op::Unlink { dir, name } => self.unbind(*dir, name),
            Op::Move { dir, name, to, new, exchange } => {
                let (put, file) = self.names.remove(&(*dir, name.clone())).expect("it is there");
                let mut parents = vec![put];
                if *exchange {
                    let at = &(*to, new.clone());
                    let (other, other_file) = self.names.remove(at).expect("it is there");
                    parents.push(other);
                    self.bind(*dir, name, (dot, other_file));
                } else {
                    parents.extend(self.unbind(*to, new));
                }
                self.bind(*to, new, (dot, file));
                parents
            }
            Op::Set { file, .. } => self.set.insert(*file, dot).into_iter().collect(),
            Op::Write { file, .. } | Op::Choose { file, .. } => {
                self.written.insert(*file, dot).into_iter().collect()
            }
            Op::Xattr { file, name, .. } => {
                self.xattrs.insert((*file, name.clone()), dot).into_iter().collect()
            }
        };
        Change { op, parents }
    }

    fn bind(&mut self, dir: FileId, name: &Name, put: (Dot, FileId)) -> Vec<Dot> {
        self.names.insert((dir, name.clone()), put);
        Vec::new()
    }

    fn unbind(&mut self, dir: FileId, name: &Name) -> Vec<Dot> {
        let removed = self.names.remove(&(dir, name.clone()));
        let parents = |(put, file)| [Some(put), self.written.get(&file).copied()];
        removed.map(parents).into_iter().flatten().flatten().collect()
    }
}
