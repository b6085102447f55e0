//! The mode of `fopen` as flags of `open`.

use core::ffi::{CStr, c_int};

const O_RDONLY: c_int = 0;
const O_WRONLY: c_int = 1;
const O_RDWR: c_int = 2;
const O_CREAT: c_int = 0o100;
const O_EXCL: c_int = 0o200;
const O_TRUNC: c_int = 0o1000;
const O_APPEND: c_int = 0o2000;
const O_CLOEXEC: c_int = 0o2_000_000;

/// Returns the flags, or `None` for a mode that libc refuses.
pub(super) fn flags(mode: &CStr) -> Option<c_int> {
    let (first, more) = mode.to_bytes().split_first()?;
    let (mut access, mut flags) = match first {
        b'r' => (O_RDONLY, 0),
        b'w' => (O_WRONLY, O_CREAT | O_TRUNC),
        b'a' => (O_WRONLY, O_CREAT | O_APPEND),
        _ => return None,
    };
    for letter in more.iter().take_while(|&&letter| letter != b',') {
        match letter {
            b'+' => access = O_RDWR,
            b'x' => flags |= O_EXCL,
            b'e' => flags |= O_CLOEXEC,
            _ => {}
        }
    }
    Some(access | flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        assert_eq!(flags(c"r"), Some(O_RDONLY));
        assert_eq!(flags(c"rb+"), Some(O_RDWR));
        assert_eq!(flags(c"we"), Some(O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC));
        assert_eq!(flags(c"wx"), Some(O_WRONLY | O_CREAT | O_TRUNC | O_EXCL));
        assert_eq!(flags(c"a+,ccs=xe"), Some(O_RDWR | O_CREAT | O_APPEND));
        assert_eq!(flags(c"q"), None);
        assert_eq!(flags(c""), None);
    }
}
