//! What a directory holds, as one digest of all names in it and below: another one as soon as somebody
//! adds, removes or renames anything there. What the files contain is not part of it.

use crate::packet::Digest;
use crate::tree::{Bytes, join};

/// The names in a directory, and whether each is a directory itself.
pub type Names = Vec<(Bytes, bool)>;

/// Directories within each other, at most: what is deeper has no digest.
const DEPTH_MAX: usize = 1000;

/// Returns the digest of a directory that holds nothing.
#[must_use]
pub fn nothing() -> Digest {
    Digest::of(b"")
}

/// Returns the digest of a directory; nothing if something of it is not known. `list` gives the names in
/// one.
pub fn digest(dir: &[u8], list: &mut dyn FnMut(&[u8]) -> Option<Names>) -> Option<Digest> {
    let mut level = Level::of(dir.to_vec(), list)?;
    let mut above: Vec<Level> = Vec::new();
    loop {
        match level.names.next() {
            Some((name, is_dir)) => {
                // No name holds a zero byte.
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

/// A directory of which some names are taken in.
struct Level {
    path: Bytes,
    /// Names that are not, in order.
    names: std::vec::IntoIter<(Bytes, bool)>,
    /// What the digest is of.
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
    fn every_name_at_every_depth_counts_and_their_order_does_not() {
        let full = of(&[("/d", &[("a", false), ("e", true)]), ("/d/e", &[("b", false)])]);
        assert!(full.is_some());
        assert_eq!(full, of(&[("/d", &[("e", true), ("a", false)]), ("/d/e", &[("b", false)])]));
        assert_ne!(full, of(&[("/d", &[("a", false), ("e", true)]), ("/d/e", &[])]));
        assert_ne!(full, of(&[("/d", &[("a", false), ("e", false)])]));
        assert_ne!(full, of(&[("/d", &[("e", true)]), ("/d/e", &[("b", false)])]));
        assert_eq!(of(&[("/d", &[("a", false), ("e", true)])]), None, "what is in it is not known");
        assert_eq!(of(&[("/d", &[])]), Some(nothing()));
        let mut endless = |_: &[u8]| Some(vec![(b"x".to_vec(), true)]);
        assert_eq!(crate::deep::on_a_small_stack(|| digest(b"/", &mut endless)), None);
    }
}
