//! Files and directories as machines describe them to each other: attributes, entries, listings, and the
//! changes that an origin reports to runners that have read them.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::OwnedFd;

use nix::dir::Dir;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::packet::Manifest;
use crate::path::{Bytes, FileName, TreePath};

/// A file type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A unix socket.
    Socket,
    /// A character device.
    Char,
    /// A block device.
    Block,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "(i64, u32)")]
pub struct Time {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

/// A time with more nanoseconds than a second has.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("{0} nanoseconds are a second or more")]
pub struct TimeError(u32);

/// As it is decoded: a tuple is encoded as the fields of a structure are.
impl TryFrom<(i64, u32)> for Time {
    type Error = TimeError;

    fn try_from((seconds, nanos): (i64, u32)) -> Result<Self, TimeError> {
        if nanos < 1_000_000_000 { Ok(Self { seconds, nanos }) } else { Err(TimeError(nanos)) }
    }
}

impl Time {
    /// Returns the nanoseconds from `earlier` to this time, or `None` if it is later or they overflow.
    #[must_use]
    pub fn nanos_since(self, earlier: Self) -> Option<u64> {
        let seconds = u64::try_from(self.seconds.checked_sub(earlier.seconds)?).ok()?;
        let nanos = seconds.checked_mul(1_000_000_000)?.checked_add(u64::from(self.nanos))?;
        nanos.checked_sub(u64::from(earlier.nanos))
    }

    /// Returns the time so many nanoseconds before this one.
    #[must_use]
    pub fn before(self, nanos: u64) -> Self {
        self.shifted(-i128::from(nanos))
    }

    /// Returns the time so many nanoseconds after this one.
    #[must_use]
    pub fn after(self, nanos: u64) -> Self {
        self.shifted(i128::from(nanos))
    }

    fn shifted(self, nanos: i128) -> Self {
        const SECOND: i128 = 1_000_000_000;
        let total = i128::from(self.seconds) * SECOND + i128::from(self.nanos) + nanos;
        let seconds = i64::try_from(total.div_euclid(SECOND)).unwrap_or(0);
        Self { seconds, nanos: u32::try_from(total.rem_euclid(SECOND)).unwrap_or(0) }
    }

    /// Converts a moment of the system clock.
    #[must_use]
    pub fn of(moment: std::time::SystemTime) -> Self {
        let since = moment.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seconds = i64::try_from(since.as_secs()).unwrap_or(0);
        Self { seconds, nanos: since.subsec_nanos() }
    }
}

/// The attributes of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// What it is.
    pub kind: Kind,
    /// Permission bits, with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub bytes: u64,
    /// Size on disk, in blocks of 512 bytes.
    pub blocks: u64,
    /// Number of hard links.
    pub links: u32,
    /// Device number, for device nodes.
    pub rdev: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
    /// Inode number at the origin.
    pub ino: u64,
    /// File system at the origin.
    pub dev: u64,
}

impl Attr {
    /// Returns the attributes in a result of `fstat` or `lstat`.
    #[must_use]
    pub fn of(stat: &libc::stat) -> Self {
        Self {
            kind: kind_of(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            bytes: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            rdev: stat.st_rdev,
            mtime: time(stat.st_mtime, stat.st_mtime_nsec),
            ctime: time(stat.st_ctime, stat.st_ctime_nsec),
            ino: stat.st_ino,
            dev: stat.st_dev,
        }
    }

    /// Returns the attributes in what `statx` gave.
    #[must_use]
    pub fn of_statx(found: &rustix::fs::Statx) -> Self {
        let mode = u32::from(found.stx_mode);
        Self {
            kind: kind_of(mode),
            mode: mode & 0o7777,
            uid: found.stx_uid,
            gid: found.stx_gid,
            bytes: found.stx_size,
            blocks: found.stx_blocks,
            links: found.stx_nlink,
            rdev: rustix::fs::makedev(found.stx_rdev_major, found.stx_rdev_minor),
            mtime: Time { seconds: found.stx_mtime.tv_sec, nanos: found.stx_mtime.tv_nsec },
            ctime: Time { seconds: found.stx_ctime.tv_sec, nanos: found.stx_ctime.tv_nsec },
            ino: found.stx_ino,
            dev: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        }
    }

    /// Returns the version of the content: equal versions mean equal content.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            dev: self.dev,
            ino: self.ino,
            bytes: self.bytes,
            mtime: self.mtime,
            ctime: self.ctime,
        }
    }
}

/// Identifies the state of a file's content. Any write changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    /// File system.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size.
    pub bytes: u64,
    /// Last change of the content.
    pub mtime: Time,
    /// Last change of content or attributes.
    pub ctime: Time,
}

fn time(seconds: i64, nanos: i64) -> Time {
    Time { seconds, nanos: u32::try_from(nanos).unwrap_or(0) }
}

fn kind_of(mode: u32) -> Kind {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => Kind::Dir,
        libc::S_IFLNK => Kind::Symlink,
        libc::S_IFIFO => Kind::Fifo,
        libc::S_IFSOCK => Kind::Socket,
        libc::S_IFCHR => Kind::Char,
        libc::S_IFBLK => Kind::Block,
        _ => Kind::File,
    }
}

/// An extended attribute: its name and its value.
pub type Xattr = (Bytes, Bytes);

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The name.
    pub name: FileName,
    /// What it names.
    pub attr: Attr,
    /// Where it points, if it is a symbolic link.
    #[serde(with = "serde_bytes")]
    pub target: Option<Bytes>,
    /// Its extended attributes that walks may see.
    pub xattrs: Vec<Xattr>,
}

/// Most names of a directory in one message.
pub const NAMES_MAX: usize = 1 << 20;
/// Most entries of a listing. A larger directory is not exported.
const ENTRIES_MAX: usize = 1 << 22;

/// Deserializes a list of at most `MAX` items. A longer one is refused before all of it is in memory, where items
/// take many times their encoded bytes.
pub(crate) fn at_most<'de, D, T, const MAX: usize>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct List<T, const MAX: usize>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for List<T, MAX> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "at most {MAX}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            const AT_ONCE_MAX: usize = 1024;
            let hint = items.size_hint().unwrap_or(0);
            let mut list = Vec::with_capacity(hint.min(AT_ONCE_MAX));
            while let Some(item) = items.next_element()? {
                if list.len() == MAX {
                    return Err(serde::de::Error::invalid_length(MAX + 1, &self));
                }
                list.push(item);
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(List::<T, MAX>(PhantomData))
}

/// A complete directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The directory itself.
    pub attr: Attr,
    /// All its names.
    #[serde(deserialize_with = "at_most::<_, _, ENTRIES_MAX>")]
    pub entries: Vec<Entry>,
    /// Whether these are its names.
    pub names: Names,
}

/// What is told of a directory's names. Without them, reading it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Names {
    /// All of them.
    Told,
    /// None: they are hidden from runners.
    Hidden,
    /// None: the users whose walks could ask may not look them up at the origin either.
    Closed,
}

/// A file's content at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// The file itself.
    pub attr: Attr,
    /// Its packets.
    pub manifest: Manifest,
}

/// A change of an origin's tree. Changes are applied in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Entries of a directory were added, removed or changed.
    Names {
        /// The directory.
        dir: TreePath,
        /// Its new attributes; `None` if it is gone.
        attr: Option<Attr>,
        /// The names, each with its new entry, if it exists.
        #[serde(deserialize_with = "at_most::<_, _, NAMES_MAX>")]
        names: Vec<(FileName, Option<Entry>)>,
    },
    /// Everything known of the directory and those below it is invalid.
    Forget {
        /// The directory.
        dir: TreePath,
    },
}

/// Returns the names in an open directory.
pub(crate) fn names_in(dir: &OwnedFd) -> io::Result<Vec<Bytes>> {
    let mut names = Vec::new();
    for item in Dir::from_fd(dir.try_clone()?)?.iter() {
        let name = item?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    Ok(names)
}
