//! Enforces flow control on a runner: it may send output within its credit, and request only inputs that the
//! spec contains. Anything else is refused.

use std::collections::HashMap;

use worknode::door::WINDOW_BYTES;
use worknode::spec::{FdKind, WalkSpec};

/// The credit of one attempt.
#[derive(Debug)]
pub(super) struct Ledger {
    left: HashMap<u8, usize>,
    /// A terminal's output may end between the two characters of a newline. The runner then withholds the first and sends
    /// it with the next output, one byte beyond the credit.
    terminal: Option<u8>,
    /// The descriptors that the stub may be asked to read: streams, and the terminal if the walk may read it. Files are
    /// opened by the runner itself.
    inputs: HashMap<u8, Input>,
    /// The descriptor for terminal settings.
    settings: Option<u8>,
}

/// An input of the walk.
#[derive(Debug, Default)]
struct Input {
    /// Bytes that the runner has requested and the stub has not sent.
    asked: usize,
    /// Bytes that were sent and that the walk has not consumed. Not used for the terminal, which cannot be peeked.
    lent: Option<usize>,
}

/// Most input that may be requested at once. An honest runner requests a megabyte.
const ASKED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Ledger {
    /// Makes the ledger of a walk.
    pub(super) fn of(spec: &WalkSpec) -> Self {
        let terminal = spec.terminal_output().and_then(|fd| u8::try_from(fd).ok());
        let outputs = spec.fds.iter().filter(|fd| matches!(fd.kind, FdKind::Output));
        let outputs = outputs.filter_map(|fd| u8::try_from(fd.fd).ok()).chain(terminal);
        let streams = spec.fds.iter().filter(|fd| matches!(fd.kind, FdKind::Input));
        let streams = streams.filter_map(|fd| u8::try_from(fd.fd).ok());
        let settings = spec.terminal_input().and_then(|fd| u8::try_from(fd).ok());
        let settings = settings.filter(|_| spec.terminal.is_some());
        let is_read = spec.terminal.as_ref().is_some_and(|terminal| terminal.reads);
        let typed = settings.filter(|_| is_read).map(|fd| (fd, Input::default()));
        let streams = streams.map(|fd| (fd, Input { asked: 0, lent: Some(0) }));
        Self {
            left: outputs.map(|fd| (fd, WINDOW_BYTES)).collect(),
            terminal,
            inputs: streams.chain(typed).collect(),
            settings,
        }
    }

    /// Records output from the runner. Returns false if it exceeds the credit.
    pub(super) fn spend(&mut self, fd: u8, bytes: usize) -> bool {
        let held = usize::from(self.terminal == Some(fd));
        let Some(left) = self.left.get_mut(&fd) else { return false };
        if bytes > 0 && (*left == 0 || bytes > *left + held) {
            return false;
        }
        *left = left.saturating_sub(bytes);
        true
    }

    /// Records output that the stub has written. Returns the credit to give, which is limited to what it had been sent.
    pub(super) fn give(&mut self, fd: u8, bytes: usize) -> usize {
        let Some(left) = self.left.get_mut(&fd) else { return 0 };
        let given = bytes.min(WINDOW_BYTES.saturating_sub(*left));
        *left += given;
        given
    }

    /// Records a request for input. Returns false if the descriptor must not be requested.
    pub(super) fn ask(&mut self, fd: u8, bytes: usize) -> bool {
        let Some(input) = self.inputs.get_mut(&fd) else { return false };
        input.asked = input.asked.saturating_add(bytes).min(ASKED_BYTES_MAX);
        bytes <= ASKED_BYTES_MAX
    }

    /// Records input from the stub. Returns false if it was not requested.
    pub(super) fn answer(&mut self, fd: u8, bytes: usize) -> bool {
        let Some(input) = self.inputs.get_mut(&fd) else { return bytes == 0 };
        let left = input.asked.checked_sub(bytes);
        input.asked = left.unwrap_or(0);
        input.lent = input.lent.map(|lent| lent.saturating_add(bytes));
        left.is_some()
    }

    /// Records input that the walk has read. Returns false if it was not sent so much.
    pub(super) fn took(&mut self, fd: u8, bytes: usize) -> bool {
        let lent = self.inputs.get_mut(&fd).and_then(|input| input.lent.as_mut());
        let Some(lent) = lent else { return false };
        let left = lent.checked_sub(bytes);
        *lent = left.unwrap_or(*lent);
        left.is_some()
    }

    /// Tells whether the runner may change the terminal's settings through this descriptor.
    pub(super) fn may_set(&self, fd: u8) -> bool {
        self.settings == Some(fd)
    }
}

#[cfg(test)]
mod tests {
    use worknode::spec::{FdSpec, TerminalSpec};

    use super::*;

    fn ledger(terminal: Option<u8>) -> Ledger {
        let inputs = [(0, Input { asked: 0, lent: Some(0) }), (9, Input::default())];
        Ledger {
            left: HashMap::from([(1, WINDOW_BYTES)]),
            terminal,
            inputs: HashMap::from(inputs),
            settings: terminal,
        }
    }

    #[test]
    fn output_beyond_the_credit_is_refused() {
        let mut ledger = ledger(None);
        assert!(ledger.spend(1, WINDOW_BYTES) && ledger.spend(1, 0));
        assert!(!ledger.spend(1, 1));
        assert_eq!(ledger.give(1, 10), 10);
        assert!(!ledger.spend(1, 11) && ledger.spend(1, 10) && !ledger.spend(1, 1));
        assert!(!ledger.spend(7, 0), "it is no output");
    }

    #[test]
    fn a_stub_returns_no_more_credit_than_it_was_sent() {
        let mut ledger = ledger(None);
        assert_eq!(ledger.give(1, usize::MAX), 0);
        assert!(ledger.spend(1, 100));
        assert_eq!((ledger.give(1, usize::MAX), ledger.give(1, 1), ledger.give(9, 1)), (100, 0, 0));
    }

    #[test]
    fn unrequested_input_is_refused() {
        let mut ledger = ledger(None);
        assert!(ledger.answer(0, 0) && !ledger.answer(0, 1));
        assert!(ledger.ask(0, 100));
        assert!(ledger.answer(0, 60) && ledger.answer(0, 40) && !ledger.answer(0, 1));
        assert!(!ledger.ask(0, ASKED_BYTES_MAX + 1));
    }

    #[test]
    fn only_inputs_may_be_requested_and_read() {
        let mut ledger = ledger(Some(1));
        for fd in [1, 3, 255] {
            assert!(!ledger.ask(fd, 0) && !ledger.took(fd, 0), "{fd} is no input");
            assert!(!ledger.answer(fd, 1));
        }
        assert!(!ledger.took(0, 1), "nothing was sent");
        assert!(ledger.ask(0, 100) && ledger.answer(0, 60));
        assert!(ledger.took(0, 50) && !ledger.took(0, 11) && ledger.took(0, 10));
        assert!(ledger.ask(9, 100) && ledger.answer(9, 10) && !ledger.took(9, 1), "typed once");
        assert!(ledger.may_set(1) && !ledger.may_set(0));
    }

    #[test]
    fn the_spec_says_what_is_an_input() {
        let fd = |fd, kind| FdSpec { fd, kind };
        let file = FdKind::File { path: b"/etc/shadow".to_vec(), offset: 0 };
        let fds = vec![
            fd(0, FdKind::Terminal),
            fd(1, FdKind::Output),
            fd(2, FdKind::Terminal),
            fd(3, file),
            fd(4, FdKind::Input),
            fd(5, FdKind::Null { flags: 0 }),
            fd(6, FdKind::Same { fd: 1 }),
        ];
        let terminal = |reads| {
            let termios = vec![0; worknode::door::TERMIOS_BYTES];
            Some(TerminalSpec { termios, window: [0; 4], reads })
        };
        let asked = |spec: &WalkSpec| -> Vec<u8> {
            let mut ledger = Ledger::of(spec);
            (0..=255).filter(|&fd| ledger.ask(fd, 1)).collect()
        };
        let spec =
            WalkSpec { fds, terminal: terminal(true), ..super::super::vet::tests::spec(0, false) };
        assert_eq!(asked(&spec), [0, 4]);
        let set: Vec<_> = (0..=255).filter(|&fd| Ledger::of(&spec).may_set(fd)).collect();
        assert_eq!(set, [0]);
        let unread = WalkSpec { terminal: terminal(false), ..spec };
        assert_eq!(asked(&unread), [4]);
        let without = WalkSpec { terminal: None, ..unread };
        assert!((0..=255).all(|fd| !Ledger::of(&without).may_set(fd)));
    }

    #[test]
    fn a_terminal_may_withhold_one_character() {
        let mut ledger = ledger(Some(1));
        assert!(ledger.spend(1, WINDOW_BYTES + 1));
        assert!(!ledger.spend(1, 1), "and only where there is credit");
    }
}
