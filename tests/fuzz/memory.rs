//! Notices how much memory a decoder asks for at once: a length that a peer sent is no reason.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// What a decoder may take for a start, whatever it was given: serde reserves up to 1 MiB.
const BASE_BYTES: usize = 2 * 1024 * 1024;
/// What it may take for each byte it was given: a list's item is larger than its encoding.
const PER_BYTE: usize = 512;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which remembers the largest request of each thread.
struct Noticing;

#[global_allocator]
static ALLOCATOR: Noticing = Noticing;

fn notice(bytes: usize) {
    // A thread that ends has no such variable any more.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: all calls go to the system's allocator as they came.
unsafe impl GlobalAlloc for Noticing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: the caller keeps the rules of this very function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        notice(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs a decoder on `bytes`, which may not make it ask for absurd amounts of memory.
pub(crate) fn bounded<T>(bytes: &[u8], decode: impl FnOnce(&[u8]) -> T) -> T {
    LARGEST.set(0);
    let decoded = decode(bytes);
    let (largest, allowed) = (LARGEST.get(), BASE_BYTES + PER_BYTE * bytes.len());
    assert!(largest <= allowed, "{} bytes made it ask for {largest} at once", bytes.len());
    decoded
}

#[test]
fn absurd_requests_are_noticed() {
    let absurd = || bounded(b"x", |_| drop(Vec::<u8>::with_capacity(64 * 1024 * 1024)));
    assert!(std::panic::catch_unwind(absurd).is_err());
}
