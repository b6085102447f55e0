//! [unsafe] Scratch memory of variable size on the caller's stack. Between `vfork` and `execve` there
//! is no other memory: the heap is the parent's and may be locked.
#![expect(unsafe_code, reason = "memory on the stack")]

use core::arch::naked_asm;
use core::ffi::{c_char, c_int};
use core::mem::MaybeUninit;

/// Most bytes taken from a stack of unknown size. It only holds pointers and a few paths, so this
/// suffices for environments up to the usual `ARG_MAX` of 2 MiB.
const SCRATCH_BYTES_MAX: usize = 512 * 1024;
const POINTER_BYTES: usize = size_of::<*const c_char>();

/// Room for an array of C strings and for their text.
#[derive(Debug)]
pub(crate) struct Scratch<'a> {
    pub(crate) pointers: &'a mut [*const c_char],
    pub(crate) text: &'a mut [u8],
}

/// Calls `work` with room for so many pointers and bytes of text. Returns `None` without calling it if
/// that exceeds [`SCRATCH_BYTES_MAX`].
pub(crate) fn with<F>(pointers: usize, text_bytes: usize, work: F) -> Option<c_int>
where
    F: FnOnce(Scratch<'_>) -> c_int,
{
    let bytes = pointers.checked_mul(POINTER_BYTES)?.checked_add(text_bytes)?;
    if bytes > SCRATCH_BYTES_MAX {
        return None;
    }
    let mut task = Task { pointers, text_bytes, work: Some(work) };
    // SAFETY: `enter::<F>` gets a task of its own type.
    Some(unsafe { on_stack(bytes, enter::<F>, (&raw mut task).cast()) })
}

struct Task<F> {
    pointers: usize,
    text_bytes: usize,
    work: Option<F>,
}

/// # Safety
/// `task` is a `Task<F>`; `memory` is aligned to 16 and has the size that the task asks for.
unsafe extern "C" fn enter<F: FnOnce(Scratch<'_>) -> c_int>(
    memory: *mut u8,
    task: *mut u8,
) -> c_int {
    // SAFETY: `with` passed a task of this type, and nobody else refers to it.
    let task = unsafe { &mut *task.cast::<Task<F>>() };
    // SAFETY: the memory has room for both parts.
    let text = unsafe { memory.add(task.pointers * POINTER_BYTES) };
    // SAFETY: the bytes lie in the trampoline's frame, which outlives this call.
    let text = unsafe { cleared::<u8>(text.cast(), task.text_bytes) };
    // SAFETY: likewise, and the start is aligned to 16.
    let pointers = unsafe { cleared::<*const c_char>(memory.cast(), task.pointers) };
    let pointers = pointers.unwrap_or_default();
    task.work.take().map_or(0, |work| work(Scratch { pointers, text: text.unwrap_or_default() }))
}

/// Zeroes memory and returns it as a slice.
///
/// # Safety
/// For `'a` there is aligned room for `count` values that nobody else uses, and zeros are a valid `T`.
unsafe fn cleared<'a, T>(first: *mut MaybeUninit<T>, count: usize) -> Option<&'a mut [T]> {
    // SAFETY: the caller vouches for the room.
    unsafe { first.write_bytes(0, count) };
    // SAFETY: zeroed just now, and zeros are a value of the type.
    Some(unsafe { core::slice::from_raw_parts_mut(first.cast(), count) })
}

/// Makes room of `bytes` on the stack, and calls `callee` with it and `task`. Touches every page from
/// the top down, so that a stack that is too small hits its guard page.
///
/// # Safety
/// `callee` accepts the memory and `task`.
#[unsafe(naked)]
unsafe extern "C" fn on_stack(
    bytes: usize,
    callee: unsafe extern "C" fn(*mut u8, *mut u8) -> c_int,
    task: *mut u8,
) -> c_int {
    naked_asm!(
        "push rbp",
        "mov rbp, rsp",
        "2:",
        "cmp rdi, 4096",
        "jb 3f",
        "sub rsp, 4096",
        "or qword ptr [rsp], 0",
        "sub rdi, 4096",
        "jmp 2b",
        "3:",
        "sub rsp, rdi",
        "and rsp, -16",
        "mov rax, rsi",
        "mov rdi, rsp",
        "mov rsi, rdx",
        "call rax",
        "leave",
        "ret",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gives_the_room_that_was_asked_for() {
        for (pointers, text) in [(0, 0), (1, 1), (3, 17), (700, 5000), (20_000, 100_000)] {
            let result = with(pointers, text, |scratch| {
                assert_eq!((scratch.pointers.len(), scratch.text.len()), (pointers, text));
                scratch.text.fill(7);
                assert!(scratch.pointers.iter().all(|pointer| pointer.is_null()));
                scratch.pointers.fill(c"x".as_ptr());
                assert!(scratch.text.iter().all(|&byte| byte == 7));
                42
            });
            assert_eq!(result, Some(42));
        }
        assert_eq!(with(0, SCRATCH_BYTES_MAX + 1, |_| 42), None);
    }
}
