//! Canonical paths and file names. Every constructor and decoder checks its input, so values can be
//! compared byte by byte: `//etc/shadow` and `/tmp/../etc/shadow` are refused.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A path or name: any bytes except NUL.
pub type Bytes = Vec<u8>;

/// Longest path. A system call accepts 4096 bytes, and programs that change directory step by step create
/// longer ones; 16 times that is longer than in any real tree.
pub const PATH_BYTES_MAX: usize = 64 * 1024;
/// Longest path that a system call accepts (`PATH_MAX` without its NUL). Commits change nothing beyond it.
pub const CALL_PATH_BYTES_MAX: usize = 4095;
/// Longest name: the kernel's `NAME_MAX`.
pub const NAME_BYTES_MAX: usize = 255;

/// Why bytes are not a canonical path or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with a slash.
    #[error("the path is not absolute")]
    NotAbsolute,
    /// A component is empty, `.` or `..`, too long, or contains a slash or a NUL.
    #[error("a name in the path is empty, '.', '..', too long, or contains a slash or a NUL")]
    Name,
    /// It is longer than [`PATH_BYTES_MAX`].
    #[error("the path is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
}

impl From<PathError> for std::io::Error {
    fn from(error: PathError) -> Self {
        Self::new(std::io::ErrorKind::InvalidInput, error)
    }
}

/// An absolute path without empty, `.` or `..` components: the only spelling of its file, except through
/// symbolic links.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TreePath(Bytes);

impl TreePath {
    /// Checks that bytes are a canonical path.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        if bytes.len() > PATH_BYTES_MAX {
            return Err(PathError::TooLong);
        }
        let names = bytes.strip_prefix(b"/").ok_or(PathError::NotAbsolute)?;
        let is_sound =
            names.is_empty() || names.split(|&byte| byte == b'/').all(is_name_without_slash);
        is_sound.then_some(Self(bytes)).ok_or(PathError::Name)
    }

    /// Returns `/`.
    #[must_use]
    pub fn root() -> Self {
        Self(b"/".to_vec())
    }

    /// Returns the path's bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Bytes);

impl FileName {
    /// Checks that bytes are a name.
    ///
    /// # Errors
    /// See [`PathError::Name`].
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        let is_sound = is_name_without_slash(&bytes) && !bytes.contains(&b'/');
        is_sound.then_some(Self(bytes)).ok_or(PathError::Name)
    }
}

fn is_name_without_slash(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && name.len() <= NAME_BYTES_MAX && !name.contains(&0)
}

/// Implements what both types share: access as bytes, and decoding with the check.
macro_rules! checked_bytes {
    ($type:ident) => {
        impl Deref for $type {
            type Target = [u8];

            fn deref(&self) -> &[u8] {
                &self.0
            }
        }

        impl Borrow<[u8]> for $type {
            fn borrow(&self) -> &[u8] {
                &self.0
            }
        }

        impl AsRef<[u8]> for $type {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", self.0.escape_ascii())
            }
        }

        impl TryFrom<&[u8]> for $type {
            type Error = PathError;

            fn try_from(bytes: &[u8]) -> Result<Self, PathError> {
                Self::new(bytes)
            }
        }

        impl std::str::FromStr for $type {
            type Err = PathError;

            fn from_str(text: &str) -> Result<Self, PathError> {
                Self::new(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let bytes: &[u8] = serde_bytes::deserialize(deserializer)?;
                Self::new(bytes).map_err(de::Error::custom)
            }
        }
    };
}

checked_bytes!(TreePath);
checked_bytes!(FileName);

/// Joins a directory and a name.
#[must_use]
pub fn join(dir: &[u8], name: &[u8]) -> Bytes {
    let mut path = Vec::with_capacity(dir.len() + name.len() + 1);
    path.extend(dir);
    if !dir.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend(name);
    path
}

/// Returns the canonical path of a name in a directory. `..` is resolved lexically.
#[must_use]
pub fn normal(dir: &[u8], name: &[u8]) -> Bytes {
    let mut path = if name.starts_with(b"/") { b"/".to_vec() } else { dir.to_vec() };
    for part in name.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                let up = split(&path).map(|(dir, _)| dir.len());
                path.truncate(up.unwrap_or(path.len()));
            }
            part => {
                if !path.ends_with(b"/") {
                    path.push(b'/');
                }
                path.extend(part);
            }
        }
    }
    path
}

/// Splits a path into its directory and its last component. Returns `None` for the root.
#[must_use]
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let slash = path.iter().rposition(|&byte| byte == b'/')?;
    let (dir, name) = (&path[..slash.max(1)], &path[slash + 1..]);
    (!name.is_empty()).then_some((dir, name))
}

/// Returns the directories above a path, nearest first.
pub fn above(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let dir = |path| split(path).map(|(dir, _)| dir);
    std::iter::successors(dir(path), move |&path| dir(path))
}

/// Tells whether `path` is `dir` or below it.
#[must_use]
pub fn is_within(path: &[u8], dir: &[u8]) -> bool {
    dir == b"/"
        || path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_spelling() {
        for sound in ["/", "/a", "/a/b", "/...", "/a/..b", "/.a/b.", "/a b/\u{fc}"] {
            let path = TreePath::new(sound).expect(sound);
            let bytes = postcard::to_allocvec(&path).expect("it fits");
            assert_eq!(postcard::from_bytes(&bytes), Ok(path), "{sound}");
        }
        let long = format!("/{}", "x".repeat(NAME_BYTES_MAX + 1));
        let deep = "/x".repeat(PATH_BYTES_MAX / 2 + 1);
        for other in [
            "",
            "a",
            "a/b",
            ".",
            "..",
            "//",
            "//etc/shadow",
            "/a//b",
            "/a/",
            "/.",
            "/..",
            "/./a",
            "/a/.",
            "/a/..",
            "/tmp/../etc/shadow",
            "/a\0b",
            "\0",
            &long,
            &deep,
        ] {
            assert!(TreePath::new(other).is_err(), "{other:?}");
            let bytes = postcard::to_allocvec(other).expect("it fits");
            assert!(postcard::from_bytes::<TreePath>(&bytes).is_err(), "decoded: {other:?}");
        }
    }

    #[test]
    fn names_cannot_escape_their_directory() {
        let long = "x".repeat(NAME_BYTES_MAX);
        for sound in ["a", "...", ".a", "a.", "..b", &long] {
            let name = FileName::new(sound).expect(sound);
            let bytes = postcard::to_allocvec(&name).expect("it fits");
            assert_eq!(postcard::from_bytes(&bytes), Ok(name), "{sound}");
        }
        let long = format!("{long}x");
        for other in ["", ".", "..", "/", "a/b", "/a", "a/", "../a", "a\0", &long] {
            assert!(FileName::new(other).is_err(), "{other:?}");
            let bytes = postcard::to_allocvec(other).expect("it fits");
            assert!(postcard::from_bytes::<FileName>(&bytes).is_err(), "decoded: {other:?}");
        }
    }

    #[test]
    fn paths_are_joined_and_split() {
        assert_eq!(join(b"/", b"usr"), b"/usr");
        assert_eq!(join(b"/usr", b"bin"), b"/usr/bin");
        assert_eq!(split(b"/usr/bin"), Some((b"/usr".as_slice(), b"bin".as_slice())));
        assert_eq!(split(b"/usr"), Some((b"/".as_slice(), b"usr".as_slice())));
        assert_eq!(split(b"/"), None);
        let normals = [b"./x//a.o".as_slice(), b"/x/a.o", b"../a", b"../../../a", b"..", b""];
        let normals = normals.map(|name| String::from_utf8(normal(b"/w/v", name)).expect("text"));
        assert_eq!(normals.join(" "), "/w/v/x/a.o /x/a.o /w/a /a /w /w/v");
        assert!(is_within(b"/usr/bin", b"/usr"));
        assert!(is_within(b"/usr", b"/usr"));
        assert!(!is_within(b"/usr2", b"/usr"));
        assert!(is_within(b"/x", b"/"));
    }
}
