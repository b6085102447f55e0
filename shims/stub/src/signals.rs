//! The signals sent to the process: held back from the start, so that each can be forwarded.
//!
//! Job control (TSTP, TTIN, TTOU, CONT) keeps its default action: it stops and continues the stub,
//! which is the process that the shell knows.

use crate::sys::{self, Mask};

pub(crate) const SIGHUP: u32 = 1;
pub(crate) const SIGINT: u32 = 2;
pub(crate) const SIGQUIT: u32 = 3;
const SIGKILL: u32 = 9;
pub(crate) const SIGPIPE: u32 = 13;
pub(crate) const SIGTERM: u32 = 15;
const SIGCHLD: u32 = 17;
const SIGCONT: u32 = 18;
const SIGSTOP: u32 = 19;
const SIGTSTP: u32 = 20;
const SIGTTIN: u32 = 21;
const SIGTTOU: u32 = 22;
pub(crate) const SIGWINCH: u32 = 28;
const LAST: u32 = 64;

const LEFT_ALONE: u64 = bit(SIGKILL)
    | bit(SIGCHLD)
    | bit(SIGCONT)
    | bit(SIGSTOP)
    | bit(SIGTSTP)
    | bit(SIGTTIN)
    | bit(SIGTTOU);
/// A write to a closed pipe must fail, not kill; whether the walk dies of it is its own affair.
const HELD_BUT_NOT_FORWARDED: u64 = bit(SIGPIPE);
/// Bytes of the kernel's `struct signalfd_siginfo`; its first word is the signal's number.
const RECORD_BYTES: usize = 128;

/// The bit that stands for a signal in a set.
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
    /// Holds back all signals that can be forwarded.
    pub(crate) fn take() -> Self {
        let inherited_mask = sys::signal_mask(Mask::Block, !LEFT_ALONE);
        Self { inherited_mask, forwarded: 0, fd: None }
    }

    /// Returns the set of signals that are ignored.
    pub(crate) fn ignored(&self) -> u64 {
        (1..=LAST).filter(|&signal| sys::is_ignored(signal)).fold(0, |set, one| set | bit(one))
    }

    /// Returns the descriptor that is readable when a signal came. It is opened when first
    /// needed, which is after the process's own descriptors were counted.
    pub(crate) fn descriptor(&mut self) -> i32 {
        let open = || {
            let fd = sys::signal_fd(!LEFT_ALONE & !HELD_BUT_NOT_FORWARDED).ok()?;
            Some(sys::move_up(fd, crate::door::LEAST_DESCRIPTOR))
        };
        self.fd = self.fd.or_else(open);
        self.fd.unwrap_or(-1)
    }

    /// Returns the next signal that came.
    pub(crate) fn next(&mut self) -> Option<u32> {
        let mut record = [0; RECORD_BYTES];
        let length = sys::read(self.descriptor(), &mut record).ok()?;
        let number = record[..length].first_chunk().map(|word| u32::from_ne_bytes(*word))?;
        let known = (1..=LAST).contains(&number).then_some(number)?;
        self.forwarded |= bit(known);
        Some(known)
    }

    /// Makes all as it was inherited. Signals that came meanwhile take their course, also those
    /// that were forwarded in vain.
    pub(crate) fn restore(&self) {
        sys::discard(bit(SIGPIPE) & !self.inherited_mask);
        sys::signal_mask(Mask::Set, self.inherited_mask);
        (1..=LAST).filter(|&signal| self.forwarded & bit(signal) != 0).for_each(sys::raise);
    }
}
