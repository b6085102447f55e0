//! What a mirror says: numbers, answers, what must be fetched, what the kernel has to forget.

use crate::path::Bytes;
use crate::tree::Attr;

/// The number of a path, or of a file with several. The root is 1, as FUSE wants it.
pub type Node = u64;
/// The number of `/`.
pub const ROOT: Node = 1;

/// What must be fetched before a question can be answered.
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
    /// There is no such file.
    Absent,
    /// It is not known.
    Unknown(Need),
    /// It is in a directory that is not shown.
    Hidden,
}

impl<T> Answer<T> {
    pub(super) fn map<U>(self, make: impl FnOnce(T) -> U) -> Answer<U> {
        match self {
            Self::Known(value) => Answer::Known(make(value)),
            Self::Absent => Answer::Absent,
            Self::Unknown(need) => Answer::Unknown(need),
            Self::Hidden => Answer::Hidden,
        }
    }
}

/// What the kernel has to forget.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invalidation {
    /// A name of a directory, also if it was known to be absent.
    Entry(Node, Bytes),
    /// Attributes and content.
    Node(Node),
}

/// A name of a directory, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: Bytes,
    /// The inode number that is shown of what it names.
    pub ino: u64,
    /// Its place in the listing: those of later names are larger.
    pub place: Node,
    /// The attributes of what it names.
    pub attr: Attr,
}

/// Whether anything in a tree has, or had, what only a mount with extended attributes shows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Extended attributes.
    pub xattrs: bool,
    /// Access control lists.
    pub acls: bool,
}
