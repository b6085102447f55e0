//! [unsafe] Hooks on functions that make temporary files and directories.
#![expect(unsafe_code, reason = "the C interface of the hooks")]

use core::ffi::{CStr, c_char, c_int};

use super::streams::nothing;
use super::{Word, concerns, make, with_path};
use crate::cluster::temporary;
use crate::next;
use crate::strings::text;
use crate::sys;

const EEXIST: c_int = 17;
/// Opens a new file for reading and writing.
const O_CREATE_NEW: c_int = 0o302;
const OPENAT: usize = 257;
const MKDIRAT: usize = 258;

/// Functions that make a temporary file of a template, which ends with so many other bytes.
macro_rules! temporaries {
    ($($name:ident($($argument:ident: $type:ty),*) = $suffix:expr, $flags:expr;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name(template: *mut c_char $(, $argument: $type)*) -> c_int {
            let call = |dir: c_int, path: &CStr| -> c_int {
                // SAFETY: the path is a live C string.
                unsafe { make(OPENAT, arguments!(dir, path.as_ptr(), O_CREATE_NEW | $flags, 0o600)) }
            };
            // SAFETY: the caller's template.
            unsafe { make_temporary(template, $suffix, call) }
                .or_else(|| next!($name(template => *mut c_char $(, $argument => $type)*) -> c_int))
                .unwrap_or_else(|| next::fail(sys::ENOSYS))
        }
    )*};
}

temporaries! {
    mkstemp() = 0, 0;
    mkstemp64() = 0, 0;
    mkostemp(flags: c_int) = 0, flags;
    mkostemp64(flags: c_int) = 0, flags;
    mkstemps(suffix: c_int) = suffix, 0;
    mkstemps64(suffix: c_int) = suffix, 0;
    mkostemps(suffix: c_int, flags: c_int) = suffix, flags;
    mkostemps64(suffix: c_int, flags: c_int) = suffix, flags;
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn mkdtemp(template: *mut c_char) -> *mut c_char {
    let call = |dir: c_int, path: &CStr| -> c_int {
        // SAFETY: the path is a live C string.
        unsafe { make(MKDIRAT, arguments!(dir, path.as_ptr(), 0o700)) }
    };
    // SAFETY: the caller's template.
    match unsafe { make_temporary(template, 0, call) } {
        Some(0) => template,
        Some(_) => core::ptr::null_mut(),
        None => next!(mkdtemp(template => *mut c_char) -> *mut c_char)
            .unwrap_or_else(|| nothing().cast()),
    }
}

/// Writes names into the template until `call` makes one that is not taken.
unsafe fn make_temporary(
    template: *mut c_char,
    suffix: c_int,
    call: impl Fn(c_int, &CStr) -> c_int,
) -> Option<c_int> {
    // SAFETY: the caller's template.
    if !unsafe { concerns(template) } {
        return None;
    }
    // SAFETY: likewise.
    let mark =
        temporary::mark(unsafe { text(template) }?.to_bytes(), usize::try_from(suffix).ok()?)?;
    // SAFETY: the mark lies in the template.
    let place = unsafe { template.cast::<u8>().add(mark) };
    for _ in 0..temporary::TRIES_MAX {
        let letters = temporary::letters();
        // SAFETY: the mark is as long as that, and the caller lets this function write it.
        unsafe { place.copy_from_nonoverlapping(letters.as_ptr(), letters.len()) };
        // SAFETY: the caller's template.
        match unsafe { with_path(template, &call) } {
            None => {
                // It is not below the mount point: the next function finds the template as it was.
                // SAFETY: as above.
                unsafe { place.write_bytes(b'X', letters.len()) };
                return None;
            }
            Some(-1) if next::errno() == EEXIST => {}
            made => return made,
        }
    }
    Some(-1)
}
