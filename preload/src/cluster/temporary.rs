//! Names for temporary files, as `mkstemp` and its relatives make them.

use crate::sys;

/// The end of a template, which is replaced.
const MARK: &[u8] = b"XXXXXX";
const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-";
/// Most names that are tried. Of 64^6 names, hardly one is taken.
pub(super) const TRIES_MAX: usize = 100;

/// Returns where the mark begins in a template that ends with so many other bytes.
pub(super) fn mark(template: &[u8], suffix_bytes: usize) -> Option<usize> {
    let end = template.len().checked_sub(suffix_bytes)?;
    let at = end.checked_sub(MARK.len())?;
    (template.get(at..end)? == MARK).then_some(at)
}

/// Returns letters at random.
pub(super) fn letters() -> [u8; 6] {
    let mut letters = [0; 6];
    // Names that repeat are found to be taken.
    let _ = sys::random(&mut letters);
    letters.map(|byte| LETTERS[usize::from(byte % 64)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        assert_eq!(mark(b"/cluster/tmpXXXXXX", 0), Some(12));
        assert_eq!(mark(b"/cluster/tmpXXXXXX.c", 2), Some(12));
        assert_eq!(mark(b"/cluster/tmpXXXXX", 0), None);
        assert_eq!(mark(b"XXXXX", 0), None);
        assert_eq!(mark(b"XXXXXX", 9), None);
        assert_ne!(letters(), letters());
    }
}
