//! Events: what one author did to the file system, once.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::hlc::Hlc;

/// Longest name of a file.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest target of a symbolic link.
pub const TARGET_BYTES_MAX: usize = 4095;

/// A file's name in its directory: any bytes except NUL and `/`.
pub type Name = Vec<u8>;
/// Nanoseconds since 1970.
pub type Nanos = i64;
/// A BLAKE3 digest.
pub type Hash = [u8; 32];

/// Who makes events: the first half of the BLAKE3 digest of a node's public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Author(pub [u8; 16]);

impl fmt::Debug for Author {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The name of an event: the `seq`-th of its author, from 1 on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Dot {
    /// Who made it.
    pub author: Author,
    /// Its number.
    pub seq: u64,
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:{}", self.author, self.seq)
    }
}

/// A file is named by the event that made it. The root of the tree is the default: no event makes it.
pub type FileId = Dot;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its name.
    pub dot: Dot,
    /// Its place in time.
    pub hlc: Hlc,
    /// The wall-clock time of its author, for the times of files.
    pub time: Nanos,
    /// The events whose effect it replaces: those that set what it sets.
    pub parents: Vec<Dot>,
    /// What was done.
    pub op: Op,
}

/// What was done. All names and files are those at the author's, at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A file was made; the event is its id.
    Make {
        /// Its directory.
        dir: FileId,
        /// Its name there.
        name: Name,
        /// What it is.
        kind: Kind,
        /// Its permissions.
        permissions: Permissions,
    },
    /// A file got another name.
    Link {
        /// The directory of the name.
        dir: FileId,
        /// The name.
        name: Name,
        /// The file.
        file: FileId,
    },
    /// A name was removed; of a directory, an empty one.
    Unlink {
        /// The directory of the name.
        dir: FileId,
        /// The name.
        name: Name,
    },
    /// A name was moved, in place of what had the new name.
    Move {
        /// The former directory.
        dir: FileId,
        /// The former name.
        name: Name,
        /// The new directory.
        to: FileId,
        /// The new name.
        new: Name,
        /// Whether what had the new name got the former one.
        exchange: bool,
    },
    /// Attributes were set.
    Set {
        /// The file.
        file: FileId,
        /// The new attributes.
        attrs: Attrs,
    },
    /// The content was replaced as a whole.
    Write {
        /// The file.
        file: FileId,
        /// The content.
        content: Content,
        /// The time of its last modification.
        modified: Nanos,
    },
    /// An extended attribute was set, or removed.
    Xattr {
        /// The file.
        file: FileId,
        /// The attribute.
        name: Name,
        /// The value; none if it was removed.
        value: Option<Vec<u8>>,
    },
    /// A user chose a version of the content.
    Choose {
        /// The file.
        file: FileId,
        /// The event that wrote it.
        version: Dot,
    },
}

/// The type of a file, with what never changes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device with its number.
    Char(u64),
    /// A block device with its number.
    Block(u64),
}

/// Who may do what with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions {
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Attributes that are set at once; those that are `None` stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attrs {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of the last access.
    pub accessed: Option<Nanos>,
    /// Time of the last modification.
    pub modified: Option<Nanos>,
}

/// The content of a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    /// Its size in bytes.
    pub bytes: u64,
    /// The packet that is the content, or that lists its packets; none, if there are no bytes except zeros.
    pub packet: Option<Packet>,
}

/// A reference to a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packet {
    /// The digest of its bytes.
    pub digest: Hash,
    /// The number of its bytes.
    pub bytes: u32,
    /// Whether it lists the packets of the content, instead of being the content.
    pub is_list: bool,
}
