//! What a runner may send of a walk's output, and ask for of its input: it was given so much credit for each
//! output, and may ask for the inputs of the spec and no others. What is beyond is not taken, and not done.

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
    /// The descriptors that the stub may be asked to read: streams, and the terminal if the walk may read it.
    /// A runner opens files itself.
    inputs: HashMap<u8, Input>,
    /// The descriptor by which the terminal is set.
    settings: Option<u8>,
}

/// An input of the walk.
#[derive(Debug, Default)]
struct Input {
    /// Bytes that the runner has asked for and the stub has not sent.
    asked: usize,
    /// Bytes that were sent and that the walk has not taken. The terminal gives its input once.
    lent: Option<usize>,
}

/// Input that may be asked for at once; an honest runner asks for a megabyte.
const ASKED_BYTES_MAX: usize = 8 * 1024 * 1024;

impl Ledger {
    /// Opens it for all outputs of a walk.
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

    /// The runner asks for so much input; false if the descriptor is none that it may ask for.
    pub(super) fn ask(&mut self, fd: u8, bytes: usize) -> bool {
        let Some(input) = self.inputs.get_mut(&fd) else { return false };
        input.asked = input.asked.saturating_add(bytes).min(ASKED_BYTES_MAX);
        bytes <= ASKED_BYTES_MAX
    }

    /// The stub sent so much input; false if it was not asked for.
    pub(super) fn answer(&mut self, fd: u8, bytes: usize) -> bool {
        let Some(input) = self.inputs.get_mut(&fd) else { return bytes == 0 };
        let left = input.asked.checked_sub(bytes);
        input.asked = left.unwrap_or(0);
        input.lent = input.lent.map(|lent| lent.saturating_add(bytes));
        left.is_some()
    }

    /// The walk has read so much; false if it was not sent so much.
    pub(super) fn took(&mut self, fd: u8, bytes: usize) -> bool {
        let lent = self.inputs.get_mut(&fd).and_then(|input| input.lent.as_mut());
        let Some(lent) = lent else { return false };
        let left = lent.checked_sub(bytes);
        *lent = left.unwrap_or(*lent);
        left.is_some()
    }

    /// Tells whether the runner may set the terminal by this descriptor.
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
        assert!(ledger.ask(0, 100));
        assert!(ledger.answer(0, 60) && ledger.answer(0, 40) && !ledger.answer(0, 1));
        assert!(!ledger.ask(0, ASKED_BYTES_MAX + 1));
    }

    #[test]
    fn only_inputs_are_asked_for_and_taken_from() {
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
    fn a_terminal_may_hold_one_character() {
        let mut ledger = ledger(Some(1));
        assert!(ledger.spend(1, WINDOW_BYTES + 1));
        assert!(!ledger.spend(1, 1), "and only where there is credit");
    }
}
