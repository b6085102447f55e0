//! Change sets: what a walk did to the tree. The origin applies each once, completely or not at all.

use serde::{Deserialize, Serialize};

use crate::packet::{Digest, Manifest};
use crate::path::{Bytes, TreePath, is_within};
use crate::tree::{Attr, Kind, Time, Version, Xattr};

/// Mode, ownership and times of something that a walk created or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The modification time; `None` for a directory whose time follows from changes of its entries.
    pub mtime: Option<Mtime>,
    /// Extended attributes that the walk set, access control lists among them.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub xattrs: Vec<Xattr>,
    /// Names of extended attributes that the walk removed.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub without: Vec<Bytes>,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mtime {
    /// The walk set this absolute time.
    Set(Time),
    /// A write set it, so many nanoseconds after the walk began. It is relative because the origin's clock differs.
    Since(u64),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A rename. Renames precede all other changes, and take effect simultaneously.
    Rename {
        /// Its name before the walk.
        from: TreePath,
        /// Its name now.
        to: TreePath,
    },
    /// A name is removed, with everything below it.
    Remove {
        /// The name.
        path: TreePath,
    },
    /// A directory exists with these attributes.
    Dir {
        /// Its name.
        path: TreePath,
        /// Mode, owner, times.
        meta: Meta,
        /// Whether it replaces what the origin has under this name.
        replaces: bool,
    },
    /// A file has this content.
    File {
        /// Its name.
        path: TreePath,
        /// Mode, owner, times.
        meta: Meta,
        /// Its content, or the part of it that is to be written.
        manifest: Manifest,
        /// What happens to the file that the origin has under this name.
        placing: Placing,
    },
    /// A symbolic link.
    Symlink {
        /// Its name.
        path: TreePath,
        /// Where it points.
        target: Bytes,
        /// Owner and times.
        meta: Meta,
        /// Whether the origin's link with this target keeps its inode. Otherwise a new one replaces it.
        keeps: bool,
    },
    /// A hard link to a file. The file is part of this change set unless nothing else of it changed.
    Link {
        /// The name.
        path: TreePath,
        /// The file.
        to: TreePath,
    },
    /// A fifo, socket or device.
    Special {
        /// Its name.
        path: TreePath,
        /// What it is.
        kind: Kind,
        /// Device number.
        rdev: u64,
        /// Mode, owner, times.
        meta: Meta,
    },
}

impl Op {
    /// Returns the name whose former content the change replaces completely.
    pub(crate) fn covers(&self) -> Option<&TreePath> {
        match self {
            Self::Rename { to: path, .. }
            | Self::Remove { path }
            | Self::Dir { path, replaces: true, .. }
            | Self::File { path, placing: Placing::Fresh, .. }
            | Self::Symlink { path, .. }
            | Self::Link { path, .. }
            | Self::Special { path, .. } => Some(path),
            Self::Dir { .. } | Self::File { .. } => None,
        }
    }

    /// Returns the names before and after, if this is a rename.
    pub(crate) fn as_rename(&self) -> Option<(&[u8], &[u8])> {
        match self {
            Self::Rename { from, to } => Some((from, to)),
            _ => None,
        }
    }
}

/// Returns the name that a path had before the renames.
pub(crate) fn former_name(ops: &[Op], path: &[u8]) -> Bytes {
    renamed(path, ops.iter().filter_map(Op::as_rename).map(|(from, to)| (to, from)))
}

/// Returns the name that a path gets by simultaneous renames: the rename of its nearest ancestor (or
/// itself) applies.
pub(crate) fn renamed<'a>(
    path: &[u8],
    renames: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Bytes {
    let nearest =
        renames.filter(|(from, _)| is_within(path, from)).max_by_key(|(from, _)| from.len());
    nearest.map_or_else(|| path.to_vec(), |(from, to)| [to, &path[from.len()..]].concat())
}

/// How a file's content is put in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placing {
    /// As a new file that replaces the existing one.
    Fresh,
    /// Into the existing file, which keeps its inode.
    Over {
        /// The version of that file that the walk found; `None` if it changed while the walk ran.
        base: Option<Version>,
    },
    /// Appended to the existing file, after so many bytes.
    Behind(u64),
}

/// What a walk found under a name before it changed it: the basis of conflict detection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Nothing existed.
    Nothing,
    /// A directory. Changes of its entries do not count as changes of the directory.
    Dir {
        /// File system.
        dev: u64,
        /// Inode number.
        ino: u64,
        /// Permission bits.
        mode: u32,
        /// Owner.
        uid: u32,
        /// Group.
        gid: u32,
    },
    /// Anything else.
    Other(Version),
    /// Unknown, or it changed while the walk ran.
    Unknown,
}

impl Base {
    /// Returns the base that these attributes describe.
    #[must_use]
    pub fn of(attr: &Attr) -> Self {
        match *attr {
            Attr { kind: Kind::Dir, dev, ino, mode, uid, gid, .. } => {
                Self::Dir { dev, ino, mode, uid, gid }
            }
            _ => Self::Other(attr.version()),
        }
    }

    /// Tells whether what exists now is what the walk found, as far as removing or replacing it is
    /// concerned. A new hard link elsewhere does not matter.
    pub(crate) fn is(&self, now: Option<&Attr>) -> bool {
        match (self, now.map(Self::of)) {
            (Self::Nothing, None) => true,
            (Self::Other(then), Some(Self::Other(now))) => {
                Version { ctime: then.ctime, ..now } == *then
            }
            (Self::Dir { .. }, Some(now)) => now == *self,
            _ => false,
        }
    }

    /// Returns the version of the file.
    pub(crate) fn version(self) -> Option<Version> {
        if let Self::Other(version) = self { Some(version) } else { None }
    }
}

/// All changes of a walk, in the order in which they are applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeSet {
    /// The changes.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub ops: Vec<Op>,
    /// What the walk found where it changed something, by names before the walk. Files whose placing
    /// contains it and entries of new directories are left out.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub found: Vec<(TreePath, Base)>,
    /// Directories that are removed recursively, by names before the walk, each with the digest of what
    /// the walk found there ([`contents`](crate::contents)). Anything else in them belongs to others.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub emptied: Vec<(TreePath, Digest)>,
    /// Files that had several hard links before. Whether they were written or replaced is not known, so
    /// they are treated as written.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub linked: Vec<TreePath>,
}
