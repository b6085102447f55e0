//! The first phase of a commit: moves replaced directories, and files whose old name is in the way of
//! another change, aside to temporary names, from which they are renamed or removed later. So all renames of a
//! commit take effect as if simultaneous, and a failed commit can restore the old names.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat2};

use super::place::Place;
use super::temporary::Temporary;
use crate::change::Op;
use crate::path::{Bytes, above, is_within, join, split};
use crate::tree::{Attr, Kind};

/// What is moved aside, in descending order of names, so that children precede their parents.
#[derive(Debug)]
pub(super) struct Moves(Vec<Move>);

#[derive(Debug)]
struct Move {
    /// The name before the walk.
    from: Bytes,
    temporary: Bytes,
    /// Whether it is renamed. Otherwise it is a directory that is replaced.
    stays: bool,
}

impl Moves {
    /// Finds what must be moved aside.
    pub(super) fn of(ops: &[Op], names: Temporary) -> Self {
        let renames: Vec<_> = ops.iter().filter_map(Op::as_rename).collect();
        let old: HashSet<_> = renames.iter().map(|&(from, _)| from).collect();
        // Names that will name something else.
        let mut new: HashSet<_> = renames.iter().map(|&(_, to)| to).collect();
        new.extend(ops.iter().filter_map(|op| match op {
            Op::Dir { path, replaces: true, .. } => Some(&**path),
            _ => None,
        }));
        if new.is_empty() {
            return Self(Vec::new());
        }
        let goes = |path: &&[u8]| old.contains(path) || new.contains(path);
        // Anything below a renamed directory moves with it, and is not in the way.
        let goes_along = |path: &[u8]| above(path).any(|dir| old.contains(dir));
        let in_the_way = |path: &&[u8]| !old.contains(path) && !goes_along(path);
        let mut aside: HashSet<_> = new.iter().copied().filter(in_the_way).collect();
        for &(from, to) in &renames {
            aside.extend(above(from).filter(|dir| old.contains(dir)));
            if new.contains(from) || is_within(to, from) || above(from).any(|dir| goes(&dir)) {
                aside.insert(from);
            }
        }
        let mut aside: Vec<_> = aside.into_iter().collect();
        aside.sort_unstable_by(|a, b| b.cmp(a));
        let moved = |(number, from): (usize, &[u8])| {
            // In the directory of its outermost moved ancestor, which itself stays.
            let outermost = above(from).filter(goes).last().unwrap_or(from);
            let dir = split(outermost).map_or(b"/".as_slice(), |(dir, _)| dir);
            let temporary = join(dir, names.aside(number).as_bytes());
            Move { from: from.to_vec(), temporary, stays: old.contains(from) }
        };
        Self(aside.into_iter().enumerate().map(moved).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the current name of something that had this name before the walk.
    pub(super) fn now<'a>(&'a self, from: &'a [u8]) -> &'a [u8] {
        let found = self.0.binary_search_by(|moved| from.cmp(&moved.from));
        found.map_or(from, |at| &self.0[at].temporary)
    }

    /// Moves aside what must be. Anything moved before an interruption stays.
    ///
    /// # Errors
    /// Something cannot be renamed. Then all old names are restored.
    pub(super) fn take_aside(&self) -> io::Result<()> {
        self.0.iter().try_for_each(Move::take_aside).inspect_err(|_| self.put_back())
    }

    /// Restores the names of everything that is still aside, where they are free.
    pub(super) fn put_back(&self) {
        for Move { from, temporary, .. } in self.0.iter().rev() {
            let Ok(Some(_)) = Place::of(temporary).and_then(|place| place.attr()) else { continue };
            // Removes a directory that has replaced it, if it is still empty.
            let _ = std::fs::remove_dir(OsStr::from_bytes(from));
            if let Err(error) = rename_to_nothing(temporary, from) {
                let [path, now] = [from, temporary].map(|path| String::from_utf8_lossy(path));
                tracing::error!(%path, %now, %error, "a commit failed and left a file under a temporary name: rename it from 'now' to 'path'");
            }
        }
    }

    /// Removes the replaced directories.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn remove_rest(&self) -> io::Result<()> {
        let mut rest = self.0.iter().filter(|moved| !moved.stays);
        rest.try_for_each(|Move { temporary, .. }| Place::of(temporary)?.clear())
    }
}

impl Move {
    fn take_aside(&self) -> io::Result<()> {
        let attr = match Place::of(&self.from).and_then(|place| place.attr()) {
            // The parent is gone, so anything below that name is new.
            Err(error) if !self.stays && is_absent(&error) => None,
            attr => attr?,
        };
        match attr {
            Some(Attr { kind: Kind::Dir, .. }) => {}
            Some(_) if self.stays => {}
            None if self.stays && Place::of(&self.temporary)?.attr()?.is_none() => {
                return Err(io::ErrorKind::NotFound.into());
            }
            // Nothing is in the way, or it was moved aside before the interruption.
            _ => return Ok(()),
        }
        rename_to_nothing(&self.from, &self.temporary)
    }
}

fn is_absent(error: &io::Error) -> bool {
    // If a symbolic link is in the place of a directory, an earlier change replaces it.
    let absent = [Errno::ENOENT, Errno::ENOTDIR, Errno::ELOOP];
    absent.iter().any(|&errno| error.raw_os_error() == Some(errno as i32))
}

fn rename_to_nothing(from: &[u8], to: &[u8]) -> io::Result<()> {
    let (from, to) = (Place::of(from)?, Place::of(to)?);
    Ok(renameat2(&from.dir, from.name, &to.dir, to.name, RenameFlags::RENAME_NOREPLACE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Meta;

    fn rename(from: &str, to: &str) -> Op {
        Op::Rename { from: from.parse().expect("sound"), to: to.parse().expect("sound") }
    }

    /// Returns the renamed files that are moved aside, each with the directory it is moved to.
    fn aside(ops: &[Op]) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("names of the tests");
        let dir = |path: &[u8]| text(split(path).expect("not the root").0);
        let renamed =
            Moves::of(ops, Temporary::default()).0.into_iter().filter(|moved| moved.stays);
        renamed.map(|moved| (text(&moved.from), dir(&moved.temporary))).collect()
    }

    fn expected(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|&(from, dir)| (from.into(), dir.into())).collect()
    }

    #[test]
    fn files_that_are_not_in_the_way_are_renamed_directly() {
        let ops = [rename("/a/b", "/a/c"), rename("/a/bc", "/x/bc"), rename("/d", "/a/d")];
        assert_eq!(aside(&ops), expected(&[]));
    }

    #[test]
    fn a_swap_uses_temporary_names() {
        let ops = [rename("/x/a", "/x/b"), rename("/x/b", "/x/a")];
        assert_eq!(aside(&ops), expected(&[("/x/b", "/x"), ("/x/a", "/x")]));
    }

    #[test]
    fn a_directory_renamed_below_its_own_name_is_moved_aside() {
        let ops = [rename("/x/d", "/x/d/e")];
        assert_eq!(aside(&ops), expected(&[("/x/d", "/x")]));
        let all = Moves::of(&ops, Temporary::default()).0;
        assert_eq!(all.len(), 1, "what it has of the name `e` goes along: {all:?}");
    }

    #[test]
    fn nested_files_are_moved_aside_before_their_parents() {
        let ops = [rename("/p", "/q"), rename("/p/c", "/z"), rename("/p/c/d/e", "/p")];
        let all = [("/p/c/d/e", "/"), ("/p/c", "/"), ("/p", "/")];
        assert_eq!(aside(&ops), expected(&all));
    }

    #[test]
    fn files_are_moved_out_of_a_replaced_directory() {
        let meta = Meta {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: None,
            xattrs: Vec::new(),
            without: Vec::new(),
        };
        let replaced = Op::Dir { path: "/x/d".parse().expect("sound"), meta, replaces: true };
        let ops = [replaced, rename("/x/d/e", "/y")];
        assert_eq!(aside(&ops), expected(&[("/x/d/e", "/x")]));
        let room: Vec<_> = Moves::of(&ops, Temporary::default())
            .0
            .into_iter()
            .filter(|moved| !moved.stays)
            .collect();
        let names: Vec<_> = room.iter().map(|moved| moved.from.as_slice()).collect();
        assert_eq!(names, [b"/y".as_slice(), b"/x/d"]);
    }
}
