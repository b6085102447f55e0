//! Shows something every second until the user has seen enough: in place on a terminal, else one after the other.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::error::Failure;
use crate::process;

const INTERVAL: Duration = Duration::from_secs(1);
/// Signals that end the watch, so that the terminal is restored.
const ENDS: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];
/// Signals that are ignored: a stopped watch would leave the terminal in its own mode.
const IGNORED: [Signal; 1] = [Signal::SIGTSTP];

const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Shows the first answer, then one each second. What fails meanwhile is shown, too, since it may be well again soon.
pub(crate) fn run<T>(
    first: T,
    ask: impl Fn() -> Result<T, Failure>,
    show: fn(&T) -> String,
) -> Result<ExitCode, Failure> {
    let failed = |error: io::Error| Failure::new(format!("failed to watch: {error}"));
    let mut input = Input::open().map_err(failed)?;
    let screen = Screen::open().map_err(failed)?;
    let mut text = show(&first);
    loop {
        match screen.draw(&text) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
            drawn => drawn.map_err(failed)?,
        }
        if input.ends_within(INTERVAL).map_err(failed)? {
            break;
        }
        text = ask().map_or_else(|failure| format!("{failure}\n"), |answer| show(&answer));
    }
    Ok(ExitCode::SUCCESS)
}

/// What the user types, and signals.
struct Input {
    signals: SignalFd,
    /// Standard input, unless it is no terminal or has ended.
    keys: Option<File>,
}

impl Input {
    fn open() -> io::Result<Self> {
        let mut signals = SigSet::from_iter(ENDS);
        signals.extend(IGNORED);
        signals.thread_block()?;
        let signals =
            SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let keys = io::stdin().is_terminal().then(|| process::duplicate(0)).transpose()?;
        Ok(Self { signals, keys: keys.map(File::from) })
    }

    /// Waits for this long. Returns whether the user has ended the watch meanwhile.
    fn ends_within(&mut self, wait: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let (has_signal, has_key) = self.wait(left)?;
            let ended = has_signal
                && self.signals.read_signal()?.is_some_and(|it| {
                    ENDS.iter().any(|&end| u32::try_from(end as i32) == Ok(it.ssi_signo))
                });
            if ended || has_key && self.is_quit()? {
                return Ok(true);
            }
        }
    }

    /// Waits for a signal or a key.
    fn wait(&self, left: Duration) -> io::Result<(bool, bool)> {
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.keys.as_ref().map(|keys| PollFd::new(keys, PollFlags::IN)));
        let left = Timespec::try_from(left).expect("a second at most");
        match poll(&mut fds, Some(&left)) {
            Err(rustix::io::Errno::INTR) => return Ok((false, false)),
            ready => ready?,
        };
        let is_ready = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok((is_ready(0), is_ready(1)))
    }

    /// Reads what was typed. Input that has ended is not read again.
    fn is_quit(&mut self) -> io::Result<bool> {
        let mut typed = [0; 64];
        let Some(keys) = &mut self.keys else { return Ok(false) };
        let bytes = keys.read(&mut typed)?;
        if bytes == 0 {
            self.keys = None;
        }
        Ok(typed[..bytes].iter().any(|key| matches!(key, b'q' | b'Q')))
    }
}

/// Where it is shown.
enum Screen {
    /// A terminal, with its modes from before if keys are read there.
    Terminal(Option<Termios>),
    Lines,
}

impl Screen {
    fn open() -> io::Result<Self> {
        if !io::stdout().is_terminal() {
            return Ok(Self::Lines);
        }
        let modes = io::stdin().is_terminal().then(|| tcgetattr(io::stdin())).transpose()?;
        if let Some(modes) = &modes {
            let mut keys = modes.clone();
            keys.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            tcsetattr(io::stdin(), OptionalActions::Now, &keys)?;
        }
        let screen = Self::Terminal(modes);
        io::stdout().write_all(ENTER.as_bytes())?;
        Ok(screen)
    }

    fn draw(&self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self {
            Self::Lines => out.write_all(text.as_bytes())?,
            Self::Terminal(_) => {
                let size = tcgetwinsize(io::stdout().as_fd())?;
                out.write_all(frame(text, size.ws_row.into(), size.ws_col.into()).as_bytes())?;
            }
        }
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let Self::Terminal(modes) = self else { return };
        if let Some(modes) = modes {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
        }
        let mut out = io::stdout().lock();
        let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    }
}

/// Returns what redraws a terminal of this size with the text, of which it shows as much as it has room for.
fn frame(text: &str, rows: usize, columns: usize) -> String {
    const LAST: &str = "q: quit";
    // A terminal that does not tell its size.
    let (rows, columns) = if rows == 0 { (24, 80) } else { (rows, columns) };
    let lines = text.lines().take(rows.saturating_sub(1)).chain([LAST]);
    let cut = |line: &str| line.chars().take(columns).collect::<String>();
    let lines: Vec<_> = lines.map(|line| cut(line) + "\x1b[K").collect();
    format!("\x1b[H{}\x1b[J", lines.join("\r\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal() {
        let clear = "\x1b[K";
        let expected = format!("\x1b[Hone{clear}\r\ntwo{clear}\r\nq: quit{clear}\x1b[J");
        assert_eq!(frame("one\ntwo\n", 24, 80), expected);
        let expected = format!("\x1b[Hon{clear}\r\nq:{clear}\x1b[J");
        assert_eq!(frame("one\ntwo\n", 2, 2), expected);
        assert!(frame("one", 0, 0).contains("one"));
    }
}
