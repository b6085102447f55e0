//! [unsafe] All buffers of the stub, in zeroed static memory whose pages are not mapped until they are
//! touched. On the stack, clearing them would cost more page faults than everything else.
#![expect(unsafe_code, reason = "a static buffer")]

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use worknode::door::{DATA_BYTES_MAX, FD_ENTRY_BYTES, HEADER_BYTES};

/// Most open descriptors of a process that walks; one with more runs here.
pub(crate) const DESCRIPTORS_MAX: usize = 128;
const PATH_BYTES_MAX: usize = 4096;
/// Room for four of the longest frames, so that frames that arrive together are read at once.
const INBOX_BYTES: usize = 4 * (HEADER_BYTES + DATA_BYTES_MAX);

/// The buffers. The small ones come first, so that they share a page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Room {
    /// Entries of `/proc/self/fd`.
    pub(crate) entries: [u8; 1024],
    /// The list of descriptors for the hello.
    pub(crate) descriptors: [u8; DESCRIPTORS_MAX * FD_ENTRY_BYTES],
    /// The working directory.
    pub(crate) directory: [u8; PATH_BYTES_MAX],
    /// Bytes from the agent.
    pub(crate) inbox: [u8; INBOX_BYTES],
    /// Bytes for the agent.
    pub(crate) data: [u8; DATA_BYTES_MAX],
}

struct Once {
    room: UnsafeCell<Room>,
    taken: AtomicBool,
}

// SAFETY: `take` gives the room to one caller only.
unsafe impl Sync for Once {}

static ROOM: Once = Once {
    room: UnsafeCell::new(Room {
        entries: [0; 1024],
        descriptors: [0; DESCRIPTORS_MAX * FD_ENTRY_BYTES],
        directory: [0; PATH_BYTES_MAX],
        inbox: [0; INBOX_BYTES],
        data: [0; DATA_BYTES_MAX],
    }),
    taken: AtomicBool::new(false),
};

/// Returns the room to the first caller.
pub(crate) fn take() -> Option<&'static mut Room> {
    let first = !ROOM.taken.swap(true, Ordering::Relaxed);
    // SAFETY: only the first caller gets a reference.
    first.then(|| unsafe { &mut *ROOM.room.get() })
}
