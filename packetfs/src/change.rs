//! Change sets: what a walk did to the tree, to be applied at the origin once and whole.

use serde::{Deserialize, Serialize};

use crate::packet::{Digest, Manifest};
use crate::path::TreePath;
use crate::tree::{Attr, Bytes, Kind, Time, Version, Xattr, is_within};

/// Mode, ownership and times of something that a walk made or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The modification time; nothing for a directory whose time follows from what happens in it.
    pub mtime: Option<Mtime>,
    /// Extended attributes that the walk set, access control lists among them.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub xattrs: Vec<Xattr>,
    /// Names of those that it removed.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub without: Vec<Bytes>,
}

/// A modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mtime {
    /// The walk set it: it is the same everywhere.
    Set(Time),
    /// It came about by writing, so many nanoseconds after the walk began: the origin has its own clock.
    Since(u64),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Something got another name. Renames come before other changes, and happen all at once.
    Rename {
        /// Its name before the walk.
        from: TreePath,
        /// Its name now.
        to: TreePath,
    },
    /// A name is gone, with all below it.
    Remove {
        /// The name.
        path: TreePath,
    },
    /// A directory is there.
    Dir {
        /// Its name.
        path: TreePath,
        /// Mode, owner, times.
        meta: Meta,
        /// It takes the place of what the origin has under this name.
        replaces: bool,
    },
    /// A file has this content.
    File {
        /// Its name.
        path: TreePath,
        /// Mode, owner, times.
        meta: Meta,
        /// Its content, or the part of it that is written.
        manifest: Manifest,
        /// What becomes of the file that the origin has under this name.
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
    },
    /// Another name of a file, which is of this change set unless nothing else of it changed.
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
    /// Returns the name under which it leaves nothing of what was there.
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

/// Returns the name that a path gets by renames, each from one name to another and all made at once:
/// it goes with the nearest thing above it.
pub(crate) fn renamed<'a>(
    path: &[u8],
    renames: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> Bytes {
    let nearest =
        renames.filter(|(from, _)| is_within(path, from)).max_by_key(|(from, _)| from.len());
    nearest.map_or_else(|| path.to_vec(), |(from, to)| [to, &path[from.len()..]].concat())
}

/// How a file's content gets to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placing {
    /// As a new file, which replaces what is there.
    Fresh,
    /// In the file that is there: its inode stays.
    Over {
        /// That file as the walk found it; nothing if it changed while the walk ran.
        base: Option<Version>,
    },
    /// Behind so many bytes of the file that is there.
    Behind(u64),
}

/// What a walk found under a name, before it changed what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Nothing: that is a version, too.
    Nothing,
    /// A directory. What happens in it is not its own change.
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
    /// It changed while the walk ran, or is not known.
    Unknown,
}

impl Base {
    /// Returns what somebody finds who sees these attributes.
    #[must_use]
    pub fn of(attr: &Attr) -> Self {
        match *attr {
            Attr { kind: Kind::Dir, dev, ino, mode, uid, gid, .. } => {
                Self::Dir { dev, ino, mode, uid, gid }
            }
            _ => Self::Other(attr.version()),
        }
    }

    /// Tells whether what is there now, if anything, is what the walk found, as far as that matters
    /// to whoever removes or replaces it: another name of the file somewhere else does not.
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
    /// What the walk found where it changed something, by the names before the walk: all but files
    /// that say it in their placing, and what is in directories that are new.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub found: Vec<(TreePath, Base)>,
    /// Directories that go with all that is in them, by their names before the walk, and the digest of
    /// what the walk found there ([`contents`](crate::contents)). Whatever else is there is somebody
    /// else's.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub emptied: Vec<(TreePath, Digest)>,
    /// Files that had several names before: whether they were written or replaced is not known.
    /// They are taken for written.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub linked: Vec<TreePath>,
}
