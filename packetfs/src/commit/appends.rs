//! Tracks versions of files that differ only by appends of walks. A walk that found an earlier version and only appended
//! itself causes no conflict. Comparing content would not be enough: two walks that increment a counter write the same.

use std::collections::HashMap;

use crate::tree::Version;

/// Most tracked files. Beyond this, all are dropped, and their walks are repeated.
const FILES_MAX: usize = 1000;
/// Most versions of a file: as many walks may append to it while one runs.
const VERSIONS_MAX: usize = 256;

/// The last versions of files to which walks have appended, in order.
#[derive(Debug, Default)]
pub(super) struct Appends {
    files: HashMap<(u64, u64), Vec<Version>>,
}

impl Appends {
    /// Tells whether two versions differ only by appends.
    pub(super) fn lead(&self, from: Version, to: Version) -> bool {
        from == to
            || self
                .files
                .get(&(to.dev, to.ino))
                .is_some_and(|versions| versions.last() == Some(&to) && versions.contains(&from))
    }

    /// Records an append.
    pub(super) fn note(&mut self, before: Version, after: Version) {
        let file = (after.dev, after.ino);
        if self.files.len() >= FILES_MAX && !self.files.contains_key(&file) {
            self.files.clear();
        }
        let versions = self.files.entry(file).or_default();
        if versions.last() != Some(&before) {
            *versions = vec![before];
        }
        if versions.len() == VERSIONS_MAX {
            versions.remove(0);
        }
        versions.push(after);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Time;

    fn version(ino: u64, bytes: u64) -> Version {
        let time = Time { seconds: 1, nanos: 0 };
        Version { dev: 1, ino, bytes, mtime: time, ctime: time }
    }

    #[test]
    fn appends_connect_a_version_with_the_last() {
        let mut appends = Appends::default();
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(|bytes| version(7, bytes));
        assert!(appends.lead(a, a) && !appends.lead(a, b));
        appends.note(a, b);
        appends.note(b, c);
        assert!(appends.lead(a, c) && appends.lead(b, c));
        assert!(!appends.lead(c, a) && !appends.lead(a, b) && !appends.lead(a, d));
        // There was another change in between.
        appends.note(d, e);
        assert!(appends.lead(d, e) && !appends.lead(a, e) && !appends.lead(c, e));
    }

    #[test]
    fn tracked_versions_are_bounded() {
        let mut appends = Appends::default();
        let last = VERSIONS_MAX as u64 * 2;
        (0..last).for_each(|bytes| appends.note(version(7, bytes), version(7, bytes + 1)));
        assert_eq!(appends.files[&(1, 7)].len(), VERSIONS_MAX);
        assert!(appends.lead(version(7, last - 9), version(7, last)));
        (0..5 * FILES_MAX as u64).for_each(|ino| appends.note(version(ino, 1), version(ino, 2)));
        assert!(appends.files.len() <= FILES_MAX);
    }
}
