//! What is left out of a share: files named `.oswalkignore` say it, in the syntax of `.gitignore`.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::path::{Bytes, join, split};

/// The name of the files that say what is left out.
pub(super) const FILE: &[u8] = b".oswalkignore";
/// Longest such file that is read.
pub(super) const BYTES_MAX: u64 = 1024 * 1024;

/// The rules of all directories that have some.
#[derive(Debug)]
pub(super) struct Rules {
    top: PathBuf,
    /// Their text, and what it means.
    dirs: HashMap<Bytes, (String, Gitignore)>,
}

impl Rules {
    pub(super) fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), dirs: HashMap::new() }
    }

    /// Sets the rules of a directory. Returns whether others hold from now on.
    pub(super) fn set(&mut self, dir: &[u8], text: Option<&str>) -> bool {
        let Some(text) = text else { return self.dirs.remove(dir).is_some() };
        if self.dirs.get(dir).is_some_and(|(former, _)| former == text) {
            return false;
        }
        let mut builder = GitignoreBuilder::new(self.path(dir));
        for line in text.lines() {
            // A line that makes no sense leaves nothing out, as in git.
            let _ = builder.add_line(None, line);
        }
        let Ok(rules) = builder.build() else { return false };
        self.dirs.insert(dir.to_vec(), (text.to_owned(), rules));
        true
    }

    /// Tells whether a file is left out. The rules that are nearest to it count first.
    pub(super) fn leave_out(&self, dir: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.dirs.is_empty() {
            return false;
        }
        let path = self.path(&if dir.is_empty() { name.to_vec() } else { join(dir, name) });
        let mut at = Some(dir);
        while let Some(dir) = at {
            match self.dirs.get(dir).map(|(_, rules)| rules.matched(&path, is_dir)) {
                Some(Match::Ignore(_)) => return true,
                Some(Match::Whitelist(_)) => return false,
                Some(Match::None) | None => {}
            }
            at = if dir.is_empty() { None } else { Some(above(dir)) };
        }
        false
    }

    fn path(&self, below: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(below))
    }
}

fn above(dir: &[u8]) -> &[u8] {
    split(dir).map_or(b"", |(above, _)| above)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_rules_count_first() {
        let mut rules = Rules::new(Path::new("/home/ann/src"));
        assert!(!rules.leave_out(b"", b"a.o", false));
        assert!(rules.set(b"", Some("*.o\n/build/\n# a comment\n")));
        assert!(rules.set(b"keep", Some("!*.o")));
        let out = |dir: &[u8], name: &[u8], is_dir| rules.leave_out(dir, name, is_dir);
        assert!(out(b"", b"a.o", false) && out(b"x/y", b"a.o", false));
        assert!(!out(b"keep", b"a.o", false) && !out(b"keep/x", b"a.o", false));
        assert!(
            out(b"", b"build", true) && !out(b"", b"build", false) && !out(b"x", b"build", true)
        );
        let mut rules = rules;
        assert!(!rules.set(b"keep", Some("!*.o")), "they are the same");
        assert!(rules.set(b"", None) && !rules.set(b"", None));
        assert!(!rules.leave_out(b"", b"a.o", false));
    }
}
