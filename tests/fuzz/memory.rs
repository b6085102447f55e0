//! Measures the largest allocation of a decoder, which must not allocate by a length that a peer sent.
#![expect(unsafe_code, reason = "an allocator that notices sizes")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Largest allocation allowed for any input: serde reserves up to 1 MiB.
const BASE_BYTES: usize = 2 * 1024 * 1024;
/// Further bytes allowed for each byte of input: items in memory are larger than their encodings.
const PER_BYTE: usize = 512;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, recording the largest allocation of each thread.
struct Noticing;

#[global_allocator]
static ALLOCATOR: Noticing = Noticing;

fn notice(bytes: usize) {
    // Fails only in a thread that is exiting.
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: all calls are passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Noticing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        notice(layout.size());
        // SAFETY: the caller upholds the contract of this function.
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

/// Runs a decoder on `bytes`, and checks that its allocations stay within the bounds above.
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
