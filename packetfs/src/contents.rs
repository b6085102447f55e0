//! A digest of all names in a directory and below. It changes when anything there is added, removed or
//! renamed, but not when file contents change.

use crate::packet::Digest;
use crate::path::{Bytes, join};

/// The names in a directory, each with whether it is a directory.
pub type Names = Vec<(Bytes, bool)>;

/// Deepest nesting of directories: a deeper tree has no digest.
const DEPTH_MAX: usize = 1000;

/// Returns the digest of an empty directory.
#[must_use]
pub fn nothing() -> Digest {
    Digest::of(b"")
}

/// Returns the digest of a directory, or `None` if some of it is unknown. `list` returns the names in a
/// directory.
pub fn digest(dir: &[u8], list: &mut dyn FnMut(&[u8]) -> Option<Names>) -> Option<Digest> {
    let mut level = Level::of(dir.to_vec(), list)?;
    let mut above: Vec<Level> = Vec::new();
    loop {
        match level.names.next() {
            Some((name, is_dir)) => {
                // No name contains a zero byte.
                level.all.extend_from_slice(&name);
                level.all.extend_from_slice(&[0, u8::from(is_dir)]);
                if is_dir {
                    let below = Level::of(join(&level.path, &name), list)?;
                    above.push(std::mem::replace(&mut level, below));
                }
            }
            None => {
                let digest = Digest::of(&level.all);
                let Some(parent) = above.pop() else { return Some(digest) };
                level = parent;
                level.all.extend_from_slice(&digest.0);
            }
        }
        if above.len() > DEPTH_MAX {
            return None;
        }
    }
}

/// A directory whose names are partly processed.
struct Level {
    path: Bytes,
    /// The names that remain, in order.
    names: std::vec::IntoIter<(Bytes, bool)>,
    /// The text to digest.
    all: Vec<u8>,
}

impl Level {
    fn of(path: Bytes, list: &mut dyn FnMut(&[u8]) -> Option<Names>) -> Option<Self> {
        let mut names = list(&path)?;
        names.sort_unstable();
        Some(Self { path, names: names.into_iter(), all: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(names: &[(&str, &[(&str, bool)])]) -> Option<Digest> {
        digest(b"/d", &mut |dir| {
            let (_, names) = names.iter().find(|(name, _)| name.as_bytes() == dir)?;
            Some(names.iter().map(|(name, is_dir)| (name.as_bytes().to_vec(), *is_dir)).collect())
        })
    }

    #[test]
    fn all_names_count_in_any_order() {
        let full = of(&[("/d", &[("a", false), ("e", true)]), ("/d/e", &[("b", false)])]);
        assert!(full.is_some());
        assert_eq!(full, of(&[("/d", &[("e", true), ("a", false)]), ("/d/e", &[("b", false)])]));
        assert_ne!(full, of(&[("/d", &[("a", false), ("e", true)]), ("/d/e", &[])]));
        assert_ne!(full, of(&[("/d", &[("a", false), ("e", false)])]));
        assert_ne!(full, of(&[("/d", &[("e", true)]), ("/d/e", &[("b", false)])]));
        assert_eq!(of(&[("/d", &[("a", false), ("e", true)])]), None, "its contents are unknown");
        assert_eq!(of(&[("/d", &[])]), Some(nothing()));
        let mut endless = |_: &[u8]| Some(vec![(b"x".to_vec(), true)]);
        assert_eq!(crate::deep::on_a_small_stack(|| digest(b"/", &mut endless)), None);
    }
}
