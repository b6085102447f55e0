//! The signals sent to the process: blocked from the start, so that each can be forwarded.
//!
//! TTIN and TTOU keep their default action, since the stub is the process that reads and sets the
//! terminal. TSTP goes to the walk first, since the program may catch it.

use crate::sys::{self, Mask};

pub(crate) const SIGHUP: u32 = 1;
pub(crate) const SIGINT: u32 = 2;
pub(crate) const SIGQUIT: u32 = 3;
const SIGKILL: u32 = 9;
pub(crate) const SIGPIPE: u32 = 13;
pub(crate) const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;
pub(crate) const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
const SIGTTIN: u32 = 21;
const SIGTTOU: u32 = 22;
pub(crate) const SIGWINCH: u32 = 28;
const LAST: u32 = 64;

const LEFT_ALONE: u64 = bit(SIGKILL) | bit(SIGCHLD) | bit(SIGSTOP) | bit(SIGTTIN) | bit(SIGTTOU);
/// A write to a closed pipe must fail, not kill the stub; the walk decides whether it dies.
const HELD_BUT_NOT_FORWARDED: u64 = bit(SIGPIPE);
/// Bytes of the kernel's `struct signalfd_siginfo`: `u32` number, `i32` error, `i32` code, …
const RECORD_BYTES: usize = 128;
/// The code of a signal that the kernel sent, as for a key pressed at the terminal.
const SI_KERNEL: u32 = 0x80;

/// Returns the bit of a signal in a set.
pub(crate) const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

/// The signals of the process.
#[derive(Debug)]
pub(crate) struct Signals {
    /// The mask that the process was started with.
    pub(crate) inherited_mask: u64,
    /// Signals that were forwarded.
    pub(crate) forwarded: u64,
    fd: Option<i32>,
}

impl Signals {
    /// Blocks all signals that can be forwarded.
    pub(crate) fn take() -> Self {
        let inherited_mask = sys::signal_mask(Mask::Block, !LEFT_ALONE);
        Self { inherited_mask, forwarded: 0, fd: None }
    }

    /// Returns the set of signals that are ignored.
    pub(crate) fn ignored(&self) -> u64 {
        (1..=LAST).filter(|&signal| sys::is_ignored(signal)).fold(0, |set, one| set | bit(one))
    }

    /// Returns the descriptor that is readable when a signal is pending. It is opened on first use,
    /// after the process's own descriptors were listed.
    pub(crate) fn descriptor(&mut self) -> i32 {
        let open = || {
            let fd = sys::signal_fd(!LEFT_ALONE & !HELD_BUT_NOT_FORWARDED).ok()?;
            Some(sys::move_up(fd, crate::door::LEAST_DESCRIPTOR))
        };
        self.fd = self.fd.or_else(open);
        self.fd.unwrap_or(-1)
    }

    /// Returns the next pending signal, and whether it came from the terminal.
    pub(crate) fn next(&mut self) -> Option<(u32, bool)> {
        let mut record = [0; RECORD_BYTES];
        let length = sys::read(self.descriptor(), &mut record).ok()?;
        let word = |at: usize| -> Option<u32> {
            let bytes = record[..length].get(at..at + 4)?.first_chunk()?;
            Some(u32::from_ne_bytes(*bytes))
        };
        let known = word(0).filter(|number| (1..=LAST).contains(number))?;
        self.forwarded |= bit(known);
        Some((known, word(8) == Some(SI_KERNEL)))
    }

    /// Stops the process by a signal; returns when it is continued.
    pub(crate) fn stop_by(&mut self, signal: u32) {
        if !(1..=LAST).contains(&signal) {
            return;
        }
        sys::raise(signal);
        let held = sys::signal_mask(Mask::Unblock, bit(signal));
        sys::signal_mask(Mask::Set, held);
        self.forwarded &= !bit(signal);
    }

    /// Restores the inherited mask. Pending signals are delivered, and so are those that were forwarded
    /// in vain.
    pub(crate) fn restore(&self) {
        sys::discard(bit(SIGPIPE) & !self.inherited_mask);
        sys::signal_mask(Mask::Set, self.inherited_mask);
        (1..=LAST).filter(|&signal| self.forwarded & bit(signal) != 0).for_each(sys::raise);
    }
}
