//! [unsafe] C strings and arrays of C strings from callers.
#![expect(unsafe_code, reason = "reads C arrays")]

use core::ffi::{CStr, c_char};
use core::marker::PhantomData;

/// A null-terminated array of C strings, such as `argv` and `envp`. As on Linux, a null pointer is an
/// empty array.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strings<'a> {
    first: *const *const c_char,
    marker: PhantomData<&'a CStr>,
}

impl<'a> Strings<'a> {
    /// Takes an array from a caller.
    ///
    /// # Safety
    /// `first` is null, or a null-terminated array of C strings that is valid and unchanged for `'a`.
    pub(crate) unsafe fn new(first: *const *const c_char) -> Self {
        Self { first, marker: PhantomData }
    }

    /// Returns the array as a C pointer.
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

    /// Returns the strings.
    pub(crate) fn iter(self) -> impl Iterator<Item = &'a CStr> {
        self.entries().map(Entry::text)
    }

    /// Returns the strings without computing their lengths.
    pub(crate) fn entries(self) -> impl Iterator<Item = Entry<'a>> {
        (0..).map_while(move |index| self.get(index))
    }

    /// Returns the string at `index`, which is at most that of the terminating null.
    fn get(self, index: usize) -> Option<Entry<'a>> {
        if self.first.is_null() {
            return None;
        }
        // SAFETY: all callers stop at the first `None`, so the index is inside the array.
        let slot = unsafe { self.first.add(index) };
        // SAFETY: `slot` is inside the array (see `new`).
        let first = unsafe { slot.read() };
        (!first.is_null()).then_some(Entry { first, marker: PhantomData })
    }

    /// Returns the value of a variable in an environment. Of several, the last counts, as for the
    /// loader.
    pub(crate) fn variable(self, name_equals: &[u8]) -> Option<&'a [u8]> {
        let found = self.entries().filter(|entry| entry.starts_with(name_equals)).last();
        found?.strip_prefix(name_equals).map(CStr::to_bytes)
    }
}

/// A C string of unknown length. The environment is searched at every exec, and most entries differ
/// from the name sought in their first byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry<'a> {
    first: *const c_char,
    marker: PhantomData<&'a CStr>,
}

impl<'a> Entry<'a> {
    /// Returns the string as a C pointer.
    pub(crate) fn as_ptr(self) -> *const c_char {
        self.first
    }

    pub(crate) fn text(self) -> &'a CStr {
        // SAFETY: a string of an array, so valid for `'a` (see `Strings::new`).
        unsafe { CStr::from_ptr(self.first) }
    }

    /// Tells whether the string starts with `prefix`.
    pub(crate) fn starts_with(self, prefix: &[u8]) -> bool {
        self.behind(prefix).is_some()
    }

    /// Returns the rest of the string after `prefix`, which contains no zeros.
    pub(crate) fn strip_prefix(self, prefix: &[u8]) -> Option<&'a CStr> {
        // SAFETY: a suffix of a C string is a C string.
        self.behind(prefix).map(|rest| unsafe { CStr::from_ptr(rest) })
    }

    fn behind(self, prefix: &[u8]) -> Option<*const c_char> {
        let mut rest = self.first;
        for &wanted in prefix {
            // SAFETY: inside the string, since no byte before it was the terminating zero.
            let byte = unsafe { rest.cast::<u8>().read() };
            if byte != wanted || wanted == 0 {
                return None;
            }
            // SAFETY: likewise; at most at the terminating zero.
            rest = unsafe { rest.add(1) };
        }
        Some(rest)
    }
}

/// Returns the C string at a pointer that may be null.
///
/// # Safety
/// `pointer` is null, or a C string that is valid and unchanged for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char) -> Option<&'a CStr> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: not null, so a valid C string by this function's contract.
    Some(unsafe { CStr::from_ptr(pointer) })
}
