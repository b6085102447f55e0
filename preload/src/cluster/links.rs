//! Absolute links in the volume that name the mount point: the kernel looks for that where it is not mounted.

use core::ffi::{CStr, c_int};

use super::memory::Room;
use super::place::{self, Place};
use crate::sys;

/// Replaces the first link in a path, relative to the mount's root, whose target lies below the mount point, by that target.
/// Returns whether there is one. The other rooms are written over.
pub(super) fn follow_first(
    root: c_int,
    path: &mut Room<'_>,
    [whole, name, target]: &mut [Room<'_>; 3],
    point: &[u8],
) -> bool {
    if whole.join(&[path.written()]).is_none() {
        return false;
    }
    let whole = whole.written();
    let ends = (0..=whole.len()).filter(|&at| at > 0 && matches!(whole.get(at), Some(b'/') | None));
    for end in ends {
        let Some(name) = name.join(&[whole.get(..end).unwrap_or_default()]) else { return false };
        let Some(target) = read(root, name, target) else { continue };
        let Place::Below { above: None, rest } = place::of(target, point) else { continue };
        let after = whole.get(end..).unwrap_or_default();
        let rest = if rest.is_empty() { b"." } else { rest.to_bytes() };
        return !place::leaves(rest) && path.join(&[rest, after]).is_some();
    }
    false
}

fn read<'b>(root: c_int, name: &CStr, buffer: &'b mut Room<'_>) -> Option<&'b CStr> {
    let length = sys::read_link_at(root, name, buffer.room())?.len();
    buffer.cut(length)
}
