//! [unsafe] Counts a stay of the session's first command in the tally behind the policy page.
#![expect(unsafe_code, reason = "shared memory")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::atomic::AtomicU64;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use worknode::page::Page;
use worknode::policy::base_name;
use worknode::reason::Reason;

/// Counts one stay of the program, if the session has a tally.
pub(crate) fn count(file: &File, page: &Page<'_>, program: &[u8], reason: Reason) {
    let Some(page_bytes) = page.page_bytes() else { return };
    let bytes = page.tally_bytes() / 8 * 8;
    let whole = file.metadata().is_ok_and(|meta| meta.len() >= (page_bytes + bytes) as u64);
    let (Some(length), Ok(offset)) = (NonZeroUsize::new(bytes), page_bytes.try_into()) else {
        return;
    };
    if !whole {
        return;
    }
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let mapped = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, file, offset) };
    let Ok(start) = mapped else { return };
    // SAFETY: the mapping has `bytes` bytes of the file, is page-aligned, and lives until the
    // munmap below; other processes access it only by atomics.
    let words = unsafe {
        std::slice::from_raw_parts(start.as_ptr().cast::<AtomicU64>().cast_const(), bytes / 8)
    };
    worknode::tally::count(words, base_name(program), reason);
    // SAFETY: `words` is not used any more.
    let _ = unsafe { munmap(start, bytes) };
}
