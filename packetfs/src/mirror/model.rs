//! The types of a mirror: node numbers, answers, what must be fetched, invalidations.

use crate::path::Bytes;
use crate::tree::Attr;

/// The number of a path, or of a file with several hard links. The root is 1, as FUSE requires.
pub type Node = u64;
/// The number of `/`.
pub const ROOT: Node = 1;

/// Data that must be fetched before a question can be answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Need {
    /// The listing of the directory at this path.
    Listing(Bytes),
    /// The content of the file at this path.
    Content(Bytes),
}

/// The answer to a question about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer<T> {
    /// It is known.
    Known(T),
    /// The file does not exist.
    Absent,
    /// It is not known.
    Unknown(Need),
    /// It is in a hidden directory.
    Hidden,
    /// It is in a directory that is closed to the user at the origin, too.
    Closed,
}

impl<T> Answer<T> {
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Known(value) => Answer::Known(make(value)),
            Self::Absent => Answer::Absent,
            Self::Unknown(need) => Answer::Unknown(need),
            Self::Hidden => Answer::Hidden,
            Self::Closed => Answer::Closed,
        }
    }
}

/// An item to invalidate in the kernel's caches.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// A name of a directory, whether it existed or not.
    Entry(Node, Bytes),
    /// Attributes and content.
    Node(Node),
}

/// A name of a directory in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: Bytes,
    /// The inode number that programs see.
    pub ino: u64,
    /// Its place in the listing; places ascend.
    pub place: Node,
    /// The attributes of its file.
    pub attr: Attr,
}

/// Whether anything in a tree has, or had, attributes that only a mount with extended attributes shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Extended attributes.
    pub xattrs: bool,
    /// Access control lists.
    pub acls: bool,
}
