//! What is left out of a share: files named `.oswalkignore` say it, in the syntax of `.gitignore`.
//!
//! Only a file that nobody but the owner of the shared directory can have written may take a name in again that others leave
//! out. A file that somebody else may have written only leaves out more. Where a file cannot be followed, nothing is shared.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use nix::errno::Errno;

use super::known::{Stamp, child};
use crate::path::{Bytes, join, split};

/// The name of the files that say what is left out.
pub(super) const FILE: &[u8] = b".oswalkignore";
/// Longest such file.
pub(super) const BYTES_MAX: u64 = 64 * 1024;
/// Most patterns of a file.
pub(super) const PATTERNS_MAX: usize = 1_000;
/// Most patterns of all files of a share: each may take 40 KB of memory.
pub(super) const ALL_PATTERNS_MAX: usize = 2_000;
/// Most bytes of these patterns: each may take 700 bytes of memory.
pub(super) const ALL_BYTES_MAX: usize = 64 * 1024;
/// The rights of others to write.
const OTHERS_WRITE: u32 = 0o022;

/// The rules of all directories that have some.
#[derive(Debug)]
pub(super) struct Rules {
    top: PathBuf,
    /// Whether others can change the modes of directories below, and have the owner make files there.
    is_written: bool,
    /// Whose directory is shared.
    owner: Option<u32>,
    dirs: BTreeMap<Bytes, Entry>,
    /// Directories that others than the owner may write.
    loose: BTreeSet<Bytes>,
    /// Directories whose rules cannot be followed.
    unclear: BTreeMap<Bytes, Unclear>,
    /// Patterns of all directories.
    size: Size,
    /// Whether there are fewer patterns than before.
    has_shrunk: bool,
}

/// What the file of a directory says.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) text: String,
    /// Attributes of the file.
    pub(super) stamp: Stamp,
}

#[derive(Debug)]
struct Entry {
    text: String,
    /// Whether only the owner can have written the file.
    is_own: bool,
    size: Size,
    globs: Gitignore,
}

/// How many patterns there are, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Size {
    patterns: usize,
    bytes: usize,
}

/// Why the rules of a directory cannot be followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unclear {
    /// The file cannot be read.
    Unread(Errno),
    /// The file is too long.
    Long,
    /// The file has too many patterns.
    Many,
    /// All files together have too many patterns.
    Full,
    /// The patterns are too complex.
    Complex,
}

impl Rules {
    pub(super) fn new(top: &Path, is_written: bool) -> Self {
        let (top, (dirs, loose, unclear, size)) = (top.to_owned(), Default::default());
        Self { top, is_written, owner: None, dirs, loose, unclear, size, has_shrunk: false }
    }

    /// Notes whose a directory is, and who may write it. Returns whether that has changed.
    pub(super) fn set_dir(&mut self, dir: &[u8], own: &Stamp) -> bool {
        let has_other_owner = dir.is_empty() && self.owner.replace(own.uid) != Some(own.uid);
        let is_other = self.is_other(dir, own);
        if self.may_others(own) {
            self.loose.insert(dir.to_vec());
        } else {
            self.loose.remove(dir);
        }
        is_other || has_other_owner
    }

    /// Tells whether others may write a directory that they might not, or the reverse.
    pub(super) fn is_other(&self, dir: &[u8], own: &Stamp) -> bool {
        self.may_others(own) != self.loose.contains(dir)
    }

    /// Tells whether others than the owner and the superuser may write a file.
    fn may_others(&self, stamp: &Stamp) -> bool {
        let is_own = stamp.uid == 0 || Some(stamp.uid) == self.owner;
        !is_own || stamp.mode & OTHERS_WRITE != 0
    }

    /// Sets the rules of a directory. Returns whether others hold from now on.
    pub(super) fn set(&mut self, dir: &[u8], text: Result<Option<Text>, Unclear>) -> bool {
        let former = self.unclear.remove(dir);
        let unclear = match text.map(|text| text.map(|text| self.replace(dir, text))) {
            Ok(None) => return self.remove(dir) || former.is_some(),
            Ok(Some(Ok(is_other))) => return is_other || former.is_some(),
            Ok(Some(Err(unclear))) | Err(unclear) => unclear,
        };
        self.remove(dir);
        self.unclear.insert(dir.to_vec(), unclear);
        former.is_none()
    }

    fn replace(&mut self, dir: &[u8], Text { text, stamp }: Text) -> Result<bool, Unclear> {
        let is_own = !self.may_others(&stamp);
        if let Some(entry) = self.dirs.get_mut(dir).filter(|entry| entry.text == text) {
            return Ok(std::mem::replace(&mut entry.is_own, is_own) != is_own);
        }
        let size = Size::of(&text);
        if size.patterns > PATTERNS_MAX {
            return Err(Unclear::Many);
        }
        let former = self.dirs.get(dir).map_or(Size::default(), |entry| entry.size);
        let all = self.size.less(former).plus(size);
        if all.patterns > ALL_PATTERNS_MAX || all.bytes > ALL_BYTES_MAX {
            return Err(Unclear::Full);
        }
        let mut builder = GitignoreBuilder::new(self.path(dir));
        for line in text.lines() {
            // A line that makes no sense leaves nothing out, as in git.
            let _ = builder.add_line(None, line);
        }
        let globs = builder.build().map_err(|_| Unclear::Complex)?;
        self.remove(dir);
        self.size = self.size.plus(size);
        self.dirs.insert(dir.to_vec(), Entry { text, is_own, size, globs });
        Ok(true)
    }

    fn remove(&mut self, dir: &[u8]) -> bool {
        let Some(entry) = self.dirs.remove(dir) else { return false };
        self.size = self.size.less(entry.size);
        self.has_shrunk = true;
        true
    }

    /// Forgets the rules of what is not in a directory any more, or is left out.
    pub(super) fn keep(&mut self, dir: &[u8], names: &BTreeSet<&[u8]>) {
        let is_gone = |path: &Bytes| {
            let below = if dir.is_empty() { path } else { &path[dir.len() + 1..] };
            let name = below.split(|byte| *byte == b'/').next().unwrap_or_default();
            !names.contains(name)
        };
        fn below<'a, T>(
            all: impl Iterator<Item = (&'a Bytes, T)>,
            start: &[u8],
            is_gone: impl Fn(&Bytes) -> bool,
        ) -> Vec<Bytes> {
            let within = all.take_while(|(path, _)| path.starts_with(start));
            let within = within.filter(|(path, _)| !path.is_empty() && is_gone(path));
            within.map(|(path, _)| path.clone()).collect()
        }
        let start = if dir.is_empty() { Bytes::new() } else { join(dir, b"") };
        for path in below(self.dirs.range(start.clone()..), &start, is_gone) {
            self.remove(&path);
        }
        for path in below(self.unclear.range(start.clone()..), &start, is_gone) {
            self.unclear.remove(&path);
        }
        let loose = self.loose.range(start.clone()..).map(|path| (path, ()));
        for path in below(loose, &start, is_gone) {
            self.loose.remove(&path);
        }
    }

    /// Returns the directories whose rules may have room now, because there are fewer others.
    pub(super) fn take_due(&mut self) -> Vec<Bytes> {
        if !std::mem::take(&mut self.has_shrunk) {
            return Vec::new();
        }
        let full = self.unclear.iter().filter(|(_, why)| **why == Unclear::Full);
        full.map(|(dir, _)| dir.clone()).collect()
    }

    /// Tells whether rules that hold in a directory cannot be followed, so that nothing in it is shared.
    pub(super) fn is_unclear(&self, dir: &[u8]) -> bool {
        !self.unclear.is_empty() && to_top(dir).any(|dir| self.unclear.contains_key(dir))
    }

    /// Returns a directory whose rules cannot be followed, with the cause.
    pub(super) fn unclear(&self) -> Option<(&Bytes, Unclear)> {
        self.unclear.iter().next().map(|(dir, why)| (dir, *why))
    }

    /// Tells whether a file is left out. The rules that are nearest to it count first.
    pub(super) fn leave_out(&self, dir: &[u8], name: &[u8], is_dir: bool) -> bool {
        if self.dirs.is_empty() {
            return false;
        }
        let path = self.path(&child(dir, name));
        for at in to_top(dir) {
            let Some(entry) = self.dirs.get(at) else { continue };
            match entry.globs.matched(&path, is_dir) {
                Match::Ignore(_) => return true,
                Match::Whitelist(_) if entry.is_own && self.is_own(at) => return false,
                Match::Whitelist(_) | Match::None => {}
            }
        }
        false
    }

    /// Tells whether only the owner can have put a file in a directory: others can write neither it nor one above it, and could
    /// not before.
    fn is_own(&self, dir: &[u8]) -> bool {
        if self.is_written && !dir.is_empty() {
            return false;
        }
        self.loose.is_empty() || !to_top(dir).any(|dir| self.loose.contains(dir))
    }

    fn path(&self, below: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(below))
    }
}

impl Size {
    fn of(text: &str) -> Self {
        let patterns =
            text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        patterns
            .fold(Self::default(), |all, line| all.plus(Self { patterns: 1, bytes: line.len() }))
    }

    fn plus(self, other: Self) -> Self {
        Self { patterns: self.patterns + other.patterns, bytes: self.bytes + other.bytes }
    }

    fn less(self, other: Self) -> Self {
        Self { patterns: self.patterns - other.patterns, bytes: self.bytes - other.bytes }
    }
}

impl fmt::Display for Unclear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread(errno) => write!(f, "cannot be read ({})", errno.desc()),
            Self::Long => write!(f, "is longer than {} KiB", BYTES_MAX / 1024),
            Self::Many => write!(f, "has more than {PATTERNS_MAX} patterns"),
            Self::Full => write!(
                f,
                "has no room, since all such files of a share have {ALL_PATTERNS_MAX} patterns of {} KiB at most",
                ALL_BYTES_MAX / 1024
            ),
            Self::Complex => f.write_str("has patterns that are too complex"),
        }
    }
}

/// Returns a directory and all above it.
fn to_top(dir: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(dir), |dir| {
        (!dir.is_empty()).then(|| split(dir).map_or(b"".as_slice(), |(above, _)| above))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANN: u32 = 1000;
    const BOB: u32 = 33;

    fn stamp(uid: u32, mode: u32) -> Stamp {
        Stamp { uid, mode, ..Stamp::default() }
    }

    fn text(text: &str, uid: u32) -> Result<Option<Text>, Unclear> {
        Ok(Some(Text { text: text.to_owned(), stamp: stamp(uid, 0o644) }))
    }

    fn rules() -> Rules {
        let mut rules = Rules::new(Path::new("/home/ann/src"), false);
        assert!(rules.set_dir(b"", &stamp(ANN, 0o755)));
        assert!(!rules.set_dir(b"", &stamp(ANN, 0o755)));
        rules
    }

    #[test]
    fn the_nearest_rules_count_first() {
        let mut rules = rules();
        assert!(!rules.leave_out(b"", b"a.o", false));
        assert!(rules.set(b"", text("*.o\n/build/\n# a comment\n", ANN)));
        assert!(rules.set(b"keep", text("!*.o", ANN)));
        let out = |dir: &[u8], name: &[u8], is_dir| rules.leave_out(dir, name, is_dir);
        assert!(out(b"", b"a.o", false) && out(b"x/y", b"a.o", false));
        assert!(!out(b"keep", b"a.o", false) && !out(b"keep/x", b"a.o", false));
        assert!(
            out(b"", b"build", true) && !out(b"", b"build", false) && !out(b"x", b"build", true)
        );
        let mut rules = rules;
        assert!(!rules.set(b"keep", text("!*.o", ANN)), "they are the same");
        assert!(rules.set(b"", Ok(None)) && !rules.set(b"", Ok(None)));
        assert!(!rules.leave_out(b"", b"a.o", false));
    }

    #[test]
    fn what_others_may_have_written_only_leaves_out_more() {
        let mut rules = rules();
        rules.set(b"", text("*.dat", ANN));
        let theirs = "*.txt\n!*.dat\n!keep.txt";
        rules.set(b"sub", text(theirs, BOB));
        let out = |rules: &Rules, name: &[u8]| rules.leave_out(b"sub", name, false);
        let all = |rules: &Rules| {
            [b"x.dat".as_slice(), b"x.txt", b"keep.txt", b"c"].map(|name| out(rules, name))
        };
        assert_eq!(all(&rules), [true, true, false, false]);
        // The same of the owner, or of the superuser.
        for uid in [ANN, 0] {
            assert!(rules.set(b"sub", text(theirs, uid)) == (uid == ANN));
            assert_eq!(all(&rules), [false, true, false, false]);
        }
        // Others may have put a file of the owner there, or a directory above it.
        for (dir, loose) in [
            (b"sub".as_slice(), stamp(BOB, 0o755)),
            (b"sub", stamp(ANN, 0o775)),
            (b"sub", stamp(ANN, 0o1777)),
            (b"", stamp(ANN, 0o757)),
        ] {
            assert!(rules.set_dir(dir, &loose));
            assert_eq!(all(&rules), [true, true, false, false], "{loose:?}");
            assert!(rules.set_dir(dir, &stamp(ANN, 0o755)));
            assert_eq!(all(&rules), [false, true, false, false]);
        }
        // Others may write the file.
        let text = Text { text: theirs.to_owned(), stamp: stamp(ANN, 0o664) };
        assert!(rules.set(b"sub", Ok(Some(text))));
        assert_eq!(all(&rules), [true, true, false, false]);
    }

    #[test]
    fn rules_beyond_a_bound_are_not_followed_in_part() {
        let mut rules = rules();
        let many = |count: usize| text(&"a?bc.c\n# comment\n\n".repeat(count), ANN);
        assert!(rules.set(b"d", many(PATTERNS_MAX)) && !rules.is_unclear(b"d"));
        assert!(rules.set(b"d", many(PATTERNS_MAX + 1)));
        assert!(!rules.set(b"d", many(PATTERNS_MAX + 2)), "it is unclear already");
        assert_eq!(rules.unclear(), Some((&b"d".to_vec(), Unclear::Many)));
        assert!(rules.is_unclear(b"d") && rules.is_unclear(b"d/e/f"));
        assert!(!rules.is_unclear(b"") && !rules.is_unclear(b"de"));
        assert!(rules.set(b"d", many(1)) && !rules.is_unclear(b"d"));
        assert!(rules.set(b"d", Err(Unclear::Long)) && rules.is_unclear(b"d"));
        assert!(rules.set(b"d", Ok(None)) && !rules.is_unclear(b"d"));
        assert_eq!(rules.size, Size::default());
        // All together.
        let dirs: Vec<Bytes> = (0..=ALL_PATTERNS_MAX / PATTERNS_MAX)
            .map(|number| format!("d/{number}").into_bytes())
            .collect();
        dirs.iter().for_each(|dir| assert!(rules.set(dir, many(PATTERNS_MAX))));
        let last = &dirs[dirs.len() - 1];
        assert_eq!(rules.unclear(), Some((last, Unclear::Full)));
        rules.take_due();
        assert!(rules.take_due().is_empty());
        rules.set(&dirs[0], many(1));
        assert_eq!(rules.take_due(), std::slice::from_ref(last));
        assert!(!rules.set(last, many(PATTERNS_MAX)), "there is still too little room");
        // What is gone takes no room.
        let names: BTreeSet<&[u8]> = [b"0".as_slice(), b"2"].into();
        rules.keep(b"d", &names);
        assert_eq!((rules.dirs.len(), rules.size.patterns), (1, 1));
        assert!(rules.set(last, many(PATTERNS_MAX)) && !rules.is_unclear(last));
        rules.keep(b"", &BTreeSet::new());
        assert!(rules.dirs.is_empty() && rules.size == Size::default());
        // Few, but long ones.
        let long = |bytes: usize| text(&"?".repeat(bytes), ANN);
        rules.set(b"a", long(ALL_BYTES_MAX / 2));
        rules.set(b"b", long(ALL_BYTES_MAX / 2 + 1));
        assert_eq!(rules.unclear(), Some((&b"b".to_vec(), Unclear::Full)));
        assert!(rules.set(b"b", long(ALL_BYTES_MAX / 2)) && rules.unclear().is_none());
    }
}
