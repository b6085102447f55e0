//! What a share has taken over.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::seens::{Dirs, Seens};
use crate::path::{Bytes, is_within, join};
use crate::volume::Seen;

/// What tells that a file has not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub(super) dev: u64,
    pub(super) ino: u64,
    pub(super) bytes: u64,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) modified: i64,
    pub(super) changed: i64,
}

/// The files that were taken over, by directory and name. The top directory has an empty path.
#[derive(Debug, Default)]
pub(super) struct Known {
    dirs: HashMap<Bytes, BTreeMap<Bytes, Stamp>>,
    /// Where each file was seen last, by device and number: what tells a rename.
    places: HashMap<(u64, u64), (Bytes, Bytes)>,
    /// Device and number of the top directory at the first comparison.
    pub(super) top: Option<(u64, u64)>,
    /// What the volume had, if the directory is written, too.
    seens: Seens,
}

impl Known {
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (dirs, rest): (HashMap<Bytes, BTreeMap<Bytes, Stamp>>, _) =
            postcard::take_from_bytes(bytes).ok()?;
        // Earlier versions have not noted the top, nor what the volume had.
        let (top, rest) = postcard::take_from_bytes(rest).unwrap_or((None, &[]));
        let seens = Seens::new(postcard::from_bytes::<Dirs>(rest).unwrap_or_default());
        let mut places = HashMap::new();
        for (dir, names) in &dirs {
            for (name, stamp) in names {
                places.insert((stamp.dev, stamp.ino), (dir.clone(), name.clone()));
            }
        }
        Some(Self { dirs, places, top, seens })
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        postcard::to_extend(&(&self.dirs, self.top, &self.seens.dirs), Vec::new())
            .unwrap_or_default()
    }

    /// Returns where a file was seen last, if that is still known.
    pub(super) fn place(&self, stamp: &Stamp) -> Option<(Bytes, Bytes)> {
        let place = self.places.get(&(stamp.dev, stamp.ino))?;
        let known = self.stamp(&place.0, &place.1)?;
        ((known.dev, known.ino) == (stamp.dev, stamp.ino)).then(|| place.clone())
    }

    /// Notes that a file has another place, with all that is below it.
    pub(super) fn rename(&mut self, from: &(Bytes, Bytes), to: (&[u8], &[u8])) {
        let Some(stamp) = self.stamp(&from.0, &from.1).copied() else { return };
        let seen = self.seens.remove(&from.0, &from.1);
        self.remove(&from.0, &from.1);
        self.set(to.0, to.1, stamp);
        if let Some(seen) = seen {
            self.seens.set(to.0, to.1, seen);
        }
        let (before, after) = (child(&from.0, &from.1), child(to.0, to.1));
        let below: Vec<Bytes> =
            self.dirs.keys().filter(|dir| is_within(dir, &before)).cloned().collect();
        for dir in below {
            let names = self.dirs.remove(&dir).unwrap_or_default();
            let dir = [&after, &dir[before.len()..]].concat();
            for (name, stamp) in &names {
                self.places.insert((stamp.dev, stamp.ino), (dir.clone(), name.clone()));
            }
            self.dirs.insert(dir, names);
        }
        self.seens.rename_dir(&before, &after);
    }

    /// Forgets everything except which directory it is, unless it is known what the volume had.
    pub(super) fn keep_common(&mut self) {
        if self.seens.dirs.is_empty() {
            *self = Self { top: self.top, ..Self::default() };
        }
    }

    /// Forgets what the volume had.
    pub(super) fn forget_seens(&mut self) {
        self.seens = Seens::default();
    }

    /// Returns what both sides had.
    pub(super) fn common(&self, dir: &[u8], name: &[u8]) -> Option<(&Stamp, &Seen)> {
        Some((self.stamp(dir, name)?, self.seens.get(dir, name)?))
    }

    pub(super) fn seen(&self, dir: &[u8], name: &[u8]) -> Option<&Seen> {
        self.seens.get(dir, name)
    }

    pub(super) fn set_seen(&mut self, dir: &[u8], name: &[u8], seen: Seen) {
        self.seens.set(dir, name, seen);
    }

    /// Returns the names that a file of the volume has.
    pub(super) fn places_in_volume(&self, ino: u64) -> impl Iterator<Item = &(Bytes, Bytes)> {
        self.seens.places(ino)
    }

    /// Forgets a name, and all below it.
    pub(super) fn forget(&mut self, dir: &[u8], name: &[u8]) {
        let path = child(dir, name);
        for (above, below) in self.below(&path) {
            self.remove(&above, &below);
            self.remove_dir(&child(&above, &below));
        }
        self.remove(dir, name);
        self.remove_dir(&path);
    }

    pub(super) fn stamp(&self, dir: &[u8], name: &[u8]) -> Option<&Stamp> {
        self.dirs.get(dir)?.get(name)
    }

    pub(super) fn set(&mut self, dir: &[u8], name: &[u8], stamp: Stamp) {
        self.places.insert((stamp.dev, stamp.ino), (dir.to_vec(), name.to_vec()));
        match self.dirs.get_mut(dir) {
            Some(names) => drop(names.insert(name.to_vec(), stamp)),
            None => {
                drop(self.dirs.insert(dir.to_vec(), BTreeMap::from([(name.to_vec(), stamp)])));
            }
        }
    }

    /// Notes that a directory was compared.
    pub(super) fn add_dir(&mut self, dir: &[u8]) {
        if !self.dirs.contains_key(dir) {
            self.dirs.insert(dir.to_vec(), BTreeMap::new());
        }
    }

    pub(super) fn has_dir(&self, dir: &[u8]) -> bool {
        self.dirs.contains_key(dir)
    }

    pub(super) fn names(&self, dir: &[u8]) -> impl Iterator<Item = &Bytes> {
        self.dirs.get(dir).into_iter().flat_map(BTreeMap::keys)
    }

    pub(super) fn remove(&mut self, dir: &[u8], name: &[u8]) {
        self.seens.remove(dir, name);
        let Some(stamp) = self.dirs.get_mut(dir).and_then(|names| names.remove(name)) else {
            return;
        };
        let at = (stamp.dev, stamp.ino);
        if self.places.get(&at).is_some_and(|place| place.0 == dir && place.1 == name) {
            self.places.remove(&at);
        }
    }

    /// Forgets a directory.
    pub(super) fn remove_dir(&mut self, dir: &[u8]) {
        self.seens.remove_dir(dir);
        self.dirs.remove(dir);
    }

    /// Returns all names below a directory, those of a directory after what is in it.
    pub(super) fn below(&self, dir: &[u8]) -> Vec<(Bytes, Bytes)> {
        let mut found = Vec::new();
        let mut dirs = vec![dir.to_vec()];
        while let Some(dir) = dirs.pop() {
            for name in self.names(&dir) {
                let path = child(&dir, name);
                if self.dirs.contains_key(&path) {
                    dirs.push(path);
                }
                found.push((dir.clone(), name.clone()));
            }
        }
        found.reverse();
        found
    }
}

/// Returns the path of a name in a directory.
pub(super) fn child(dir: &[u8], name: &[u8]) -> Bytes {
    if dir.is_empty() { name.to_vec() } else { join(dir, name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_directory_comes_before_it() {
        let mut known = Known::default();
        for (dir, name) in [("", "a"), ("a", "b"), ("a/b", "c"), ("a", "d"), ("", "x")] {
            known.set(dir.as_bytes(), name.as_bytes(), Stamp::default());
        }
        let known = Known::decode(&known.encode()).expect("it was encoded");
        let below = known.below(b"a");
        let at = |dir: &str, name: &str| {
            below.iter().position(|it| *it == (dir.as_bytes().to_vec(), name.as_bytes().to_vec()))
        };
        assert_eq!(below.len(), 3);
        assert!(at("a/b", "c") < at("a", "b"));
    }

    #[test]
    fn a_renamed_directory_takes_along_what_is_below_it() {
        let stamp = |ino| Stamp { ino, ..Stamp::default() };
        let mut known = Known::default();
        for (dir, name, ino) in [("", "a", 1), ("a", "b", 2), ("a/b", "c", 3), ("", "ab", 4)] {
            known.set(dir.as_bytes(), name.as_bytes(), stamp(ino));
        }
        let from = known.place(&stamp(1)).expect("it is known");
        known.rename(&from, (b"ab", b"x"));
        assert_eq!(known.place(&stamp(1)), Some((b"ab".to_vec(), b"x".to_vec())));
        assert_eq!(known.place(&stamp(3)), Some((b"ab/x/b".to_vec(), b"c".to_vec())));
        assert_eq!(known.stamp(b"", b"a"), None);
        assert!(known.below(b"a").is_empty());
        known.remove(b"ab/x/b", b"c");
        assert_eq!(known.place(&stamp(3)), None);
    }
    #[test]
    fn what_earlier_versions_noted_is_read() {
        let mut known = Known::default();
        known.set(b"", b"a", Stamp { ino: 1, ..Stamp::default() });
        known.top = Some((1, 2));
        let former = postcard::to_extend(&(&known.dirs, known.top), Vec::new()).expect("memory");
        let oldest = postcard::to_extend(&known.dirs, Vec::new()).expect("memory");
        for (noted, top) in [(&former, Some((1, 2))), (&oldest, None), (&known.encode(), known.top)]
        {
            let read = Known::decode(noted).expect("it was encoded");
            assert_eq!((read.top, read.stamp(b"", b"a")), (top, known.stamp(b"", b"a")));
            assert!(read.seens.dirs.is_empty());
        }
    }
}
