//! What a directory holds, as one digest of all names in it and below: another one as soon as somebody
//! adds, removes or renames anything there. What the files contain is not part of it.

use crate::packet::Digest;
use crate::tree::{Bytes, join};

/// The names in a directory, and whether each is a directory itself.
pub type Names = Vec<(Bytes, bool)>;

/// Directories within each other, at most: what is deeper has no digest.
const DEPTH_MAX: u32 = 1000;

/// Returns the digest of a directory that holds nothing.
#[must_use]
pub fn nothing() -> Digest {
    Digest::of(b"")
}

/// Returns the digest of a directory; nothing if something of it is not known. `list` gives the names in
/// one.
pub fn digest(dir: &[u8], list: &mut dyn FnMut(&[u8]) -> Option<Names>) -> Option<Digest> {
    below(dir, list, 0)
}

fn below(dir: &[u8], list: &mut dyn FnMut(&[u8]) -> Option<Names>, depth: u32) -> Option<Digest> {
    if depth > DEPTH_MAX {
        return None;
    }
    let mut names = list(dir)?;
    names.sort_unstable();
    let mut all = Vec::new();
    for (name, is_dir) in names {
        // No name holds a zero byte.
        all.extend_from_slice(&name);
        all.extend_from_slice(&[0, u8::from(is_dir)]);
        if is_dir {
            all.extend_from_slice(&below(&join(dir, &name), list, depth + 1)?.0);
        }
    }
    Some(Digest::of(&all))
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
        let endless = &mut |_: &[u8]| Some(vec![(b"x".to_vec(), true)]);
        assert_eq!(digest(b"/", endless), None);
    }
}
