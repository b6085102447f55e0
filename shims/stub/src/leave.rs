//! Exits as the walk did: with its exit status, or killed by its signal.

use crate::signals::bit;
use crate::sys::{self, Mask};

/// Exit status when OS Walk itself failed.
pub(crate) const FAILED: i32 = 125;
const CORE_FLAG: i32 = 0x80;

/// Ends the process with a wait status.
pub(crate) fn like(status: i32) -> ! {
    match u32::try_from(status & 0x7f) {
        Ok(signal @ 1..=0x7e) => by_signal(signal, status & CORE_FLAG != 0),
        _ => sys::exit((status >> 8) & 0xff),
    }
}

/// Ends the process by a signal, so that its parent sees the same wait status.
pub(crate) fn by_signal(signal: u32, dumped_core: bool) -> ! {
    if !dumped_core {
        sys::forbid_core();
    }
    sys::reset_signal(signal);
    sys::raise(signal);
    sys::signal_mask(Mask::Unblock, bit(signal));
    // Some processes survive that, such as pid 1 of a container.
    sys::exit(i32::try_from(128 + signal).unwrap_or(FAILED))
}
