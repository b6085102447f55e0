//! The stub's messages, each written to standard error at once.

use crate::sys::{self, Part};

const PARTS_MAX: usize = 8;
const STANDARD_ERROR: i32 = 2;

/// Writes one line that starts with `oswalk: `.
pub(crate) fn complain(parts: &[&[u8]]) {
    let mut line = [Part::of(b""); PARTS_MAX];
    let text = core::iter::once(b"oswalk: ".as_slice())
        .chain(parts.iter().copied().take(PARTS_MAX - 2))
        .chain(core::iter::once(b"\n".as_slice()));
    line.iter_mut().zip(text).for_each(|(slot, part)| *slot = Part::of(part));
    let _ = sys::write_parts(STANDARD_ERROR, &line);
}
