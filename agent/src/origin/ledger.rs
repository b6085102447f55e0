//! What a runner may send of a walk's output: it was given so much credit for each descriptor, and what is
//! beyond is not taken.

use std::collections::HashMap;

use worknode::door::WINDOW_BYTES;
use worknode::spec::{FdKind, WalkSpec};

/// The credit of one attempt.
#[derive(Debug)]
pub(super) struct Ledger {
    left: HashMap<u8, usize>,
    /// A terminal's output may end between the two characters of a new line. The first is held then, and goes
    /// with what comes after it, one byte beyond the credit.
    terminal: Option<u8>,
    /// Bytes of input that the runner has asked for and the stub has not sent.
    asked: HashMap<u8, usize>,
}

/// Input that may be asked for at once; an honest runner asks for a megabyte.
const ASKED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Ledger {
    /// Opens it for all outputs of a walk.
    pub(super) fn of(spec: &WalkSpec) -> Self {
        let terminal = spec.terminal_output().and_then(|fd| u8::try_from(fd).ok());
        let outputs = spec.fds.iter().filter(|fd| matches!(fd.kind, FdKind::Output));
        let outputs = outputs.filter_map(|fd| u8::try_from(fd.fd).ok()).chain(terminal);
        Self {
            left: outputs.map(|fd| (fd, WINDOW_BYTES)).collect(),
            terminal,
            asked: HashMap::new(),
        }
    }

    /// The runner sent so much; false if it had no credit for it.
    pub(super) fn spend(&mut self, fd: u8, bytes: usize) -> bool {
        let held = usize::from(self.terminal == Some(fd));
        let Some(left) = self.left.get_mut(&fd) else { return false };
        if bytes > 0 && (*left == 0 || bytes > *left + held) {
            return false;
        }
        *left = left.saturating_sub(bytes);
        true
    }

    /// The stub has written so much. Returns how much of that it had been sent, which may be sent again.
    pub(super) fn give(&mut self, fd: u8, bytes: usize) -> usize {
        let Some(left) = self.left.get_mut(&fd) else { return 0 };
        let given = bytes.min(WINDOW_BYTES.saturating_sub(*left));
        *left += given;
        given
    }

    /// The runner asked for so much input.
    pub(super) fn ask(&mut self, fd: u8, bytes: usize) {
        let asked = self.asked.entry(fd).or_default();
        *asked = asked.saturating_add(bytes).min(ASKED_BYTES_MAX);
    }

    /// The stub sent so much input; false if it was not asked for.
    pub(super) fn answer(&mut self, fd: u8, bytes: usize) -> bool {
        let asked = self.asked.entry(fd).or_default();
        let left = asked.checked_sub(bytes);
        *asked = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(terminal: Option<u8>) -> Ledger {
        Ledger { left: HashMap::from([(1, WINDOW_BYTES)]), terminal, asked: HashMap::new() }
    }

    #[test]
    fn nothing_is_taken_beyond_the_credit() {
        let mut ledger = ledger(None);
        assert!(ledger.spend(1, WINDOW_BYTES) && ledger.spend(1, 0));
        assert!(!ledger.spend(1, 1));
        assert_eq!(ledger.give(1, 10), 10);
        assert!(!ledger.spend(1, 11) && ledger.spend(1, 10) && !ledger.spend(1, 1));
        assert!(!ledger.spend(7, 0), "it is no output");
    }

    #[test]
    fn a_stub_gives_no_more_than_it_got() {
        let mut ledger = ledger(None);
        assert_eq!(ledger.give(1, usize::MAX), 0);
        assert!(ledger.spend(1, 100));
        assert_eq!((ledger.give(1, usize::MAX), ledger.give(1, 1), ledger.give(9, 1)), (100, 0, 0));
    }

    #[test]
    fn input_is_sent_when_it_is_asked_for() {
        let mut ledger = ledger(None);
        assert!(ledger.answer(0, 0) && !ledger.answer(0, 1));
        ledger.ask(0, 100);
        assert!(ledger.answer(0, 60) && ledger.answer(0, 40) && !ledger.answer(0, 1));
    }

    #[test]
    fn a_terminal_may_hold_one_character() {
        let mut ledger = ledger(Some(1));
        assert!(ledger.spend(1, WINDOW_BYTES + 1));
        assert!(!ledger.spend(1, 1), "and only where there is credit");
    }
}
