//! [unsafe] Hides the session's variables from a program whose parent left them out of its environment.
#![expect(unsafe_code, reason = "writes the environment on the stack")]

use core::ffi::c_char;

use worknode::variables::ADDED_ENTRY;

use crate::environment::{self, Shown};
use crate::session;

/// Removes the session's variables from the program's environment if its parent had left them out.
/// They are added again to the environment of each program that it executes.
pub(crate) fn hide_what_was_added() {
    let Some(session) = session::current() else { return };
    let environment = session::environment();
    if environment.variable(ADDED_ENTRY).is_none() {
        return;
    }
    let first = environment.as_ptr().cast_mut();
    let mut kept = 0;
    for (index, entry) in environment.entries().enumerate() {
        let entry = entry.text();
        let start = entry.as_ptr().cast_mut();
        let shown = match environment::shown(&session, entry.to_bytes()) {
            Shown::Whole => Some(start),
            Shown::Nothing => None,
            // SAFETY: `bytes` is within this string, and nobody else refers to it before `main`.
            Shown::Before(bytes) => Some(unsafe { cut(start, bytes) }),
            // SAFETY: likewise, and the string starts with this name.
            Shown::Behind(bytes) => Some(unsafe { shift(start, environment::BEHIND, bytes) }),
        };
        // SAFETY: `index` is that of an entry, so inside the array.
        let slot = unsafe { first.add(index) };
        // SAFETY: as above; the array lies on the program's stack, which is writable.
        unsafe { slot.write(core::ptr::null()) };
        if let Some(start) = shown {
            // SAFETY: `kept` is at most `index`, so inside the array.
            let slot = unsafe { first.add(kept) };
            // SAFETY: as above.
            unsafe { slot.write(start) };
            kept += 1;
        }
    }
}

/// Cuts a string after so many bytes.
///
/// # Safety
/// The string is writable, and at least so long.
unsafe fn cut(start: *mut c_char, bytes: usize) -> *mut c_char {
    // SAFETY: inside the string.
    let end = unsafe { start.add(bytes) };
    // SAFETY: likewise, and it is writable.
    unsafe { end.write(0) };
    start
}

/// Removes the first `bytes` of a variable's value; returns the new start of the entry.
///
/// # Safety
/// The string starts with `name`, followed by at least `bytes` bytes, and is writable.
unsafe fn shift(start: *mut c_char, name: &[u8], bytes: usize) -> *mut c_char {
    // SAFETY: inside the string.
    let moved = unsafe { start.add(bytes) };
    for (index, &byte) in name.iter().enumerate() {
        // SAFETY: inside the string, before the part of the value that is kept.
        let place = unsafe { moved.add(index) };
        // SAFETY: likewise, and it is writable.
        unsafe { place.cast::<u8>().write(byte) };
    }
    moved
}
