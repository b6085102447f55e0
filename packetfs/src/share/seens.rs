//! What the volume had of each file when that was the same on both sides, for a share that also writes its directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::path::{Bytes, is_within};
use crate::volume::Seen;

/// Directories, with the names in them.
pub(super) type Dirs = HashMap<Bytes, BTreeMap<Bytes, Seen>>;

/// The volume's side, by directory and name.
#[derive(Debug, Default)]
pub(super) struct Seens {
    pub(super) dirs: Dirs,
    /// The names of each number.
    places: HashMap<u64, BTreeSet<(Bytes, Bytes)>>,
}

impl Seens {
    pub(super) fn new(dirs: Dirs) -> Self {
        let mut places: HashMap<u64, BTreeSet<(Bytes, Bytes)>> = HashMap::new();
        for (dir, names) in &dirs {
            for (name, seen) in names {
                places.entry(seen.ino).or_default().insert((dir.clone(), name.clone()));
            }
        }
        Self { dirs, places }
    }

    pub(super) fn get(&self, dir: &[u8], name: &[u8]) -> Option<&Seen> {
        self.dirs.get(dir)?.get(name)
    }

    /// Returns the names that a file of the volume has.
    pub(super) fn places(&self, ino: u64) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.places.get(&ino).into_iter().flatten()
    }

    pub(super) fn set(&mut self, dir: &[u8], name: &[u8], seen: Seen) {
        self.remove(dir, name);
        self.places.entry(seen.ino).or_default().insert((dir.to_vec(), name.to_vec()));
        self.dirs.entry(dir.to_vec()).or_default().insert(name.to_vec(), seen);
    }

    pub(super) fn remove(&mut self, dir: &[u8], name: &[u8]) -> Option<Seen> {
        let seen = self.dirs.get_mut(dir)?.remove(name)?;
        if let Some(places) = self.places.get_mut(&seen.ino) {
            places.remove(&(dir.to_vec(), name.to_vec()));
            if places.is_empty() {
                self.places.remove(&seen.ino);
            }
        }
        Some(seen)
    }

    pub(super) fn remove_dir(&mut self, dir: &[u8]) {
        let names: Vec<Bytes> =
            self.dirs.get(dir).into_iter().flat_map(|names| names.keys().cloned()).collect();
        names.iter().for_each(|name| drop(self.remove(dir, name)));
        self.dirs.remove(dir);
    }

    /// Notes that what is below a directory is below another one now.
    pub(super) fn rename_dir(&mut self, before: &[u8], after: &[u8]) {
        let below: Vec<Bytes> =
            self.dirs.keys().filter(|dir| is_within(dir, before)).cloned().collect();
        for dir in below {
            let to = [after, &dir[before.len()..]].concat();
            let names: Vec<Bytes> = self.dirs[&dir].keys().cloned().collect();
            for name in names {
                let Some(seen) = self.remove(&dir, &name) else { continue };
                self.set(&to, &name, seen);
            }
            self.dirs.remove(&dir);
        }
    }
}
