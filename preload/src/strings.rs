//! [unsafe] The C strings and arrays of C strings that callers hand over.

use core::ffi::{CStr, c_char};
use core::marker::PhantomData;

/// A null-terminated array of C strings, as in `argv` and `envp`. Null is an empty one, as Linux
/// has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strings<'a> {
    first: *const *const c_char,
    marker: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// Takes an array from a caller.
    ///
    /// # Safety
    /// `first` is null, or a null-terminated array of C strings that lives and rests for `'a`.
    pub(crate) unsafe fn new(first: *const *const c_char) -> Self {
        Self { first, marker: PhantomData }
    }

    /// Returns the array as C takes it.
    pub(crate) fn as_ptr(self) -> *const *const c_char {
        self.first
    }

    /// Returns the number of strings.
    pub(crate) fn count(self) -> usize {
        self.count_from(0)
    }

    fn count_from(self, mut index: usize) -> usize {
        while self.get(index).is_some() {
            index += 1;
        }
        index
    }

    /// Returns the strings. The index never passes the terminating null.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a CStr> {
        (0..).map_while(move |index| self.get(index))
    }

    /// Returns the string at an index not behind the terminating null.
    fn get(self, index: usize) -> Option<&'a CStr> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: the index is at most that of the terminating null, so inside the array.
        let slot = unsafe { self.first.add(index) };
        // SAFETY: `slot` lies in the array (see `new`).
        let string = unsafe { slot.read() };
        // SAFETY: the strings of the array live for `'a` (see `new`).
        unsafe { text(string) }
    }

    /// Returns the value of a variable in an environment; the last one, as the loader reads it.
    pub(crate) fn variable(self, name_equals: &[u8]) -> Option<&'a [u8]> {
        self.iter().filter_map(|entry| entry.to_bytes().strip_prefix(name_equals)).last()
    }
}

/// Returns the C string at a pointer that may be null.
///
/// # Safety
/// `pointer` is null or a C string that lives and rests for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a CStr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, so a live C string by this function's own contract.
    Some(unsafe { CStr::from_ptr(pointer) })
}
