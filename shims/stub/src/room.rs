//! [unsafe] All buffers of the stub, in memory that is zero and not there until it is touched.
//! On the stack, clearing them would cost more page faults than all else the stub does.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};

use worknode::door::{DATA_BYTES_MAX, FD_ENTRY_BYTES, HEADER_BYTES};

/// More descriptors than this a walking process has not; if it has, it runs here.
pub(crate) const DESCRIPTORS_MAX: usize = 128;
const PATH_BYTES_MAX: usize = 4096;
/// Four of the longest frames: what comes together is read at once.
const INBOX_BYTES: usize = 4 * (HEADER_BYTES + DATA_BYTES_MAX);

/// The buffers, those that are hardly touched first, so that they share a page.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Room {
    /// Entries of `/proc/self/fd`.
    pub(crate) entries: [u8; 1024],
    /// The list of descriptors for the hello.
    pub(crate) descriptors: [u8; DESCRIPTORS_MAX * FD_ENTRY_BYTES],
    /// The working directory.
    pub(crate) directory: [u8; PATH_BYTES_MAX],
    /// What the agent sent.
    pub(crate) inbox: [u8; INBOX_BYTES],
    /// What goes to the agent.
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

/// Returns the room to the first who asks.
pub(crate) fn take() -> Option<&'static mut Room> {
    let first = !ROOM.taken.swap(true, Ordering::Relaxed);
    // SAFETY: nobody else has it, and nobody else will get it.
    first.then(|| unsafe { &mut *ROOM.room.get() })
}
