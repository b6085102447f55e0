//! Room for paths. The stack may be that of a small thread, or of a signal handler: a call needs less than a page of it.

use crate::path::{PATH_BYTES_MAX, PathBuffer};
use crate::sys;

/// A buffer in memory of either kind.
pub(crate) type Room<'m> = PathBuffer<&'m mut [u8]>;

/// Where the buffers of a call lie.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Memory {
    /// In memory mapped for the call.
    Mapped,
    /// On the stack: a call that executes a program does not return, and after a `vfork` its memory would stay the parent's.
    Stack,
}

impl Memory {
    /// Calls `work` with buffers, in which nothing fits if there is no memory.
    pub(crate) fn with<const N: usize, R>(self, work: impl FnOnce([Room<'_>; N]) -> R) -> R {
        match self {
            Self::Mapped => sys::with_memory(N * PATH_BYTES_MAX, |bytes| work(rooms(bytes))),
            Self::Stack => on_stack(work),
        }
    }
}

/// Not inlined, so that only calls for it pay with their stack.
#[inline(never)]
fn on_stack<const N: usize, R>(work: impl FnOnce([Room<'_>; N]) -> R) -> R {
    work(rooms([[0; PATH_BYTES_MAX]; N].as_flattened_mut()))
}

fn rooms<const N: usize>(bytes: &mut [u8]) -> [Room<'_>; N] {
    let mut parts = bytes.chunks_mut(PATH_BYTES_MAX);
    core::array::from_fn(|_| PathBuffer::in_room(parts.next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_as_long_as_a_path() {
        let long = [b'x'; PATH_BYTES_MAX];
        for memory in [Memory::Mapped, Memory::Stack] {
            memory.with(|[mut one, mut other]| {
                assert_eq!(one.join(&[b"/a", b"/b"]), Some(c"/a/b"));
                assert!(other.join(&[&long[1..]]).is_some());
                assert_eq!(one.path(), Some(c"/a/b"));
                assert_eq!(other.join(&[&long]), None);
            });
        }
        let [mut none] = rooms(&mut []);
        assert_eq!(none.join(&[b""]), None);
    }
}
