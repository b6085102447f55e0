//! The entries of an upper layer, and the changes that they represent: which name of a file keeps the
//! origin's inode, and what becomes of its other names.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::change::{Base, ChangeSet, Meta, Op, Placing, former_name, renamed};
use crate::packet::{Digest, Manifest};
use crate::path::{Bytes, PathError, TreePath, above, split};
use crate::tree::{Kind, Time, Xattr};

/// The entries of an upper layer.
#[derive(Debug, Default)]
pub(super) struct Found {
    removed: HashSet<Bytes>,
    /// Names that hide the lower layer: removed ones, and those that now name something else.
    covered: HashSet<Bytes>,
    /// Directories, parents first, each with its old path if it was renamed.
    pub(super) dirs: Vec<Op>,
    /// Directories with an unchanged modification time, and their attributes.
    pub(super) dirs_with_old_time: Vec<(Bytes, Meta)>,
    /// Directories in which names were added or removed.
    touched_dirs: HashSet<Bytes>,
    /// Everything but directories, by inode number in the upper layer.
    pub(super) nodes: HashMap<u64, Node>,
    pub(super) linked: Vec<TreePath>,
    /// What the walk found where it changed something, by names before the walk.
    pub(super) bases: BTreeMap<Bytes, Base>,
}

/// A file, symbolic link or device.
#[derive(Debug)]
pub(super) struct Node {
    /// Its names in the upper layer; empty if only a lower-layer name shows it.
    pub(super) names: Vec<Bytes>,
    /// Its names in the lower layer, if it was copied up.
    pub(super) below: Vec<Bytes>,
    /// Its extended attributes in the lower layer, as the walk saw them.
    pub(super) xattrs_below: Vec<Xattr>,
    pub(super) mtime: Time,
    pub(super) body: Body,
    pub(super) meta: Meta,
    /// Whether it equals its lower-layer file.
    pub(super) unchanged: bool,
}

/// Its type-specific data.
#[derive(Debug)]
pub(super) enum Body {
    /// A regular file.
    File(Manifest),
    /// A symbolic link's target.
    Symlink(Bytes),
    /// The device number of anything else.
    Special(Kind, u64),
}

/// Where a node is placed at the origin.
#[derive(Debug, PartialEq, Eq)]
struct Home {
    path: Bytes,
    /// The former name of the inode that it keeps, if any.
    was: Option<Bytes>,
    /// The name from which it must first be renamed, if any.
    from: Option<Bytes>,
}

impl Found {
    /// Records a removed name.
    pub(super) fn remove(&mut self, path: Bytes) {
        self.touch_parent(&path);
        self.covered.insert(path.clone());
        self.removed.insert(path);
    }

    /// Records that names in the parent directory of `path` changed.
    pub(super) fn touch_parent(&mut self, path: &[u8]) {
        self.touched_dirs.extend(split(path).map(|(dir, _)| dir.to_vec()));
    }

    /// Records a name that names something else than in the lower layer.
    pub(super) fn cover(&mut self, path: Bytes) {
        self.covered.insert(path);
    }

    /// Records what the walk found at a name that it changed, if it could find anything there.
    pub(super) fn note_base(&mut self, before: Option<Bytes>, base: &dyn Fn(&[u8]) -> Base) {
        self.bases.extend(before.map(|name| {
            let found = base(&name);
            (name, found)
        }));
    }

    /// Returns the changes to apply at the origin.
    pub(super) fn into_changes(
        mut self,
        base: &dyn Fn(&[u8]) -> Base,
        contents: &dyn Fn(&[u8]) -> Option<Digest>,
    ) -> Result<ChangeSet, PathError> {
        let (mut renames, mut others, mut links) = (Vec::new(), Vec::new(), Vec::new());
        for node in std::mem::take(&mut self.nodes).into_values() {
            let Some(Home { path, was, from }) = self.home(&node) else { continue };
            for name in node.names.iter().filter(|&name| *name != path || was.is_none()) {
                self.touch_parent(name);
            }
            self.touched_dirs.extend(from.as_ref().and(split(&path)).map(|(dir, _)| dir.to_vec()));
            let path = TreePath::new(path)?;
            let further = node.names.into_iter().filter(|name| **name != *path);
            for name in further {
                links.push(Op::Link { path: TreePath::new(name)?, to: path.clone() });
            }
            let stays = was.is_some();
            if let Some(was) = &was
                && (matches!(node.body, Body::File(_)) || node.unchanged && from.is_none())
            {
                // Its placing contains the base, or it does not change.
                self.bases.remove(was);
            }
            if let Some(from) = from {
                renames.push(Op::Rename { from: TreePath::new(from)?, to: path.clone() });
            }
            let mut meta = node.meta;
            if stays {
                leave_out(&mut meta, &node.xattrs_below);
            }
            let op = match node.body {
                _ if node.unchanged && stays => continue,
                Body::File(manifest) => {
                    let over = was.map(|was| Placing::Over { base: base(&was).version() });
                    Op::File { path, meta, manifest, placing: over.unwrap_or(Placing::Fresh) }
                }
                Body::Symlink(target) => Op::Symlink { path, target, meta, keeps: stays },
                Body::Special(kind, rdev) => Op::Special { path, kind, rdev, meta },
            };
            others.push((node.mtime, op));
        }
        // Applying in this order keeps the order of write times.
        others.sort_by_key(|&(mtime, _)| mtime);
        self.settle()?;
        let removes =
            self.removed.into_iter().map(|path| Ok(Op::Remove { path: TreePath::new(path)? }));
        let removes = removes.collect::<Result<Vec<_>, PathError>>()?;
        let ops = self.dirs.into_iter().chain(renames).chain(removes);
        let ops = ops.chain(others.into_iter().map(|(_, op)| op)).chain(links).collect::<Vec<_>>();
        let emptied = emptied(&ops, base, contents)?;
        let found = self.bases.into_iter().map(|(name, base)| Ok((TreePath::new(name)?, base)));
        let found = found.collect::<Result<_, PathError>>()?;
        Ok(ChangeSet { ops, found, emptied, linked: self.linked })
    }

    /// Adds the time of each directory in which names changed but whose time did not: the walk has set
    /// it explicitly.
    fn settle(&mut self) -> Result<(), PathError> {
        for (path, meta) in std::mem::take(&mut self.dirs_with_old_time) {
            if !self.touched_dirs.contains(&path) {
                continue;
            }
            let listed = self.dirs.iter_mut().find_map(|op| match op {
                Op::Dir { path: listed, meta, .. } if **listed == *path => Some(meta),
                _ => None,
            });
            match listed {
                Some(listed) => listed.mtime = meta.mtime,
                None => {
                    let path = TreePath::new(path)?;
                    self.dirs.push(Op::Dir { path, meta, replaces: false });
                }
            }
        }
        Ok(())
    }

    /// Finds where a node is placed. It keeps its inode if it still has one of its names, or if one of
    /// them was renamed. Returns `None` if no name is left.
    fn home(&self, node: &Node) -> Option<Home> {
        let below: Vec<_> = node.below.iter().map(|was| (was, self.renamed(was))).collect();
        let home = |(was, path): &(&Bytes, Bytes)| Home {
            path: path.clone(),
            was: Some((*was).clone()),
            from: None,
        };
        let kept = below.iter().find(|(_, now)| node.names.contains(now));
        let seen = || below.iter().find(|(_, now)| !self.is_covered(now));
        if let Some(kept) = kept.or_else(seen) {
            return Some(home(kept));
        }
        let path = node.names.first()?.clone();
        let lost = below.into_iter().find(|(_, now)| self.removed.contains(now));
        let was = lost.map(|(was, _)| was.clone());
        Some(Home { path, from: was.clone(), was })
    }

    /// Returns a path after the renames of directories.
    fn renamed(&self, path: &[u8]) -> Bytes {
        renamed(path, self.dirs.iter().filter_map(Op::as_rename))
    }

    fn is_covered(&self, path: &[u8]) -> bool {
        self.covered.contains(path) || above(path).any(|dir| self.covered.contains(dir))
    }
}

/// Returns the directories that are removed recursively, each with the digest of what was in them.
fn emptied(
    ops: &[Op],
    base: &dyn Fn(&[u8]) -> Base,
    contents: &dyn Fn(&[u8]) -> Option<Digest>,
) -> Result<Vec<(TreePath, Digest)>, PathError> {
    let was = |(at, op): (usize, &Op)| Some(former_name(&ops[..at], op.covers()?));
    let all = ops.iter().enumerate().filter_map(was);
    let dirs = all.filter(|was| matches!(base(was), Base::Dir { .. }));
    let known = dirs.filter_map(|was| contents(&was).map(|digest| (was, digest)));
    known.map(|(was, digest)| Ok((TreePath::new(was)?, digest))).collect()
}

/// Reduces the extended attributes to those that changed, and adds those to remove. Unchanged ones are not
/// set again, because permission to write a file does not imply permission to set its attributes.
pub(super) fn leave_out(meta: &mut Meta, before: &[Xattr]) {
    let gone =
        before.iter().filter(|(name, _)| !meta.xattrs.iter().any(|(known, _)| known == name));
    meta.without = gone.map(|(name, _)| name.clone()).collect();
    meta.xattrs.retain(|xattr| !before.contains(xattr));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Mtime;

    fn node(names: &[&str], below: &[&str]) -> Node {
        let all = |names: &[&str]| names.iter().map(|name| name.as_bytes().to_vec()).collect();
        let meta = Meta {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: None,
            xattrs: Vec::new(),
            without: Vec::new(),
        };
        let mtime = Time { seconds: 0, nanos: 0 };
        let body = Body::File(Manifest::default());
        let (names, below, xattrs_below) = (all(names), all(below), Vec::new());
        Node { names, below, xattrs_below, mtime, body, meta, unchanged: false }
    }

    fn found(removed: &[&str], covered: &[&str]) -> Found {
        let mut found = Found::default();
        removed.iter().for_each(|path| found.remove(path.as_bytes().to_vec()));
        covered.iter().for_each(|path| found.cover(path.as_bytes().to_vec()));
        found
    }

    fn home(found: &Found, node: &Node) -> Option<(String, Option<String>, Option<String>)> {
        let text = |bytes: Bytes| String::from_utf8(bytes).expect("names of the tests");
        found.home(node).map(|home| (text(home.path), home.was.map(text), home.from.map(text)))
    }

    fn at(
        path: &str,
        was: Option<&str>,
        from: Option<&str>,
    ) -> Option<(String, Option<String>, Option<String>)> {
        Some((path.into(), was.map(Into::into), from.map(Into::into)))
    }

    #[test]
    fn a_file_with_a_remaining_name_keeps_its_inode() {
        let written = node(&["/f"], &["/f", "/g"]);
        assert_eq!(home(&found(&[], &["/f"]), &written), at("/f", Some("/f"), None));
        let linked_anew = node(&["/d/h"], &["/f", "/g"]);
        let covered = found(&["/f"], &["/d/h"]);
        assert_eq!(home(&covered, &linked_anew), at("/g", Some("/g"), None));
        let seen_below_only = node(&[], &["/f", "/g"]);
        assert_eq!(home(&found(&["/f"], &[]), &seen_below_only), at("/g", Some("/g"), None));
        assert_eq!(home(&found(&["/f", "/g"], &[]), &seen_below_only), None);
    }

    #[test]
    fn a_file_that_lost_its_names_is_renamed_or_new() {
        let moved = node(&["/h"], &["/f"]);
        assert_eq!(home(&found(&["/f"], &["/h"]), &moved), at("/h", Some("/f"), Some("/f")));
        // Renames of files are not ordered: a file whose old name is in use again is created anew.
        assert_eq!(home(&found(&[], &["/f", "/h"]), &moved), at("/h", None, None));
        let fresh = node(&["/h"], &[]);
        assert_eq!(home(&found(&[], &["/h"]), &fresh), at("/h", None, None));
    }

    #[test]
    fn only_attributes_that_changed_are_set() {
        let xattr = |name: &str, value: &str| (name.into(), value.into());
        let before = [xattr("user.kept", "1"), xattr("user.new", "1"), xattr("user.gone", "1")];
        let mut meta = node(&[], &[]).meta;
        meta.xattrs = vec![xattr("user.kept", "1"), xattr("user.new", "2")];
        leave_out(&mut meta, &before);
        assert_eq!(meta.xattrs, [xattr("user.new", "2")]);
        assert_eq!(meta.without, [b"user.gone".to_vec()]);
    }

    #[test]
    fn a_directory_with_new_names_keeps_a_time_that_was_set() {
        let time = Mtime::Set(Time { seconds: 9, nanos: 0 });
        let still = |dir: &str| (dir.into(), Meta { mtime: Some(time), ..node(&[], &[]).meta });
        let mut found = found(&["/gone/f"], &["/new/f", "/written/f"]);
        found.dirs_with_old_time = ["/gone", "/new", "/written"].map(still).to_vec();
        found.nodes.insert(1, node(&["/new/f"], &[]));
        found.nodes.insert(2, node(&["/written/f"], &["/written/f"]));
        let ops = found.into_changes(&|_| Base::Unknown, &|_| None).expect("sound paths").ops;
        let given = ops.iter().filter_map(|op| match op {
            Op::Dir { path, meta, .. } => Some((&**path, meta.mtime)),
            _ => None,
        });
        let given: Vec<_> = given.collect();
        assert_eq!(given, [(b"/gone".as_slice(), Some(time)), (b"/new", Some(time))]);
    }

    #[test]
    fn names_below_follow_their_directories() {
        let mut found = found(&["/d"], &[]);
        found.dirs.push(Op::Rename {
            from: "/d".parse().expect("sound"),
            to: "/e".parse().expect("sound"),
        });
        let written = node(&["/e/f"], &["/d/f", "/g"]);
        assert_eq!(home(&found, &written), at("/e/f", Some("/d/f"), None));
    }
}
