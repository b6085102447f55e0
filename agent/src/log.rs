//! The agent's log: one line per event, and rate limits per kind of event. Peers, Redis and programs can cause
//! log messages, but can neither forge lines nor fill the disk.

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use worknode::said::escape;

/// Longest line; longer ones are truncated. An error chain with a path of 4,096 bytes fits.
const LINE_BYTES_MAX: usize = 6 * 1024;
/// Most lines of one kind in a window. A build whose nodes all die stays below.
const LINES_MAX: u32 = 100;
const WINDOW: Duration = Duration::from_secs(10);
/// Size at which the log is truncated: one kind of line at its highest rate fills it in an hour.
const LOG_BYTES_MAX: i64 = 256 * 1024 * 1024;

/// Starts the log, on standard error.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_env("OSWALK_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // What cannot be written, since the disk is full, must not end the thread that says it.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Log::default())
        .log_internal_errors(false)
        .init();
}

/// Makes the writer of each event.
#[derive(Debug, Default)]
struct Log {
    /// Line counts by call site, of which there are finitely many.
    rates: Mutex<HashMap<Identifier, Rate>>,
}

impl MakeWriter<'_> for Log {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line::Shown { left_out: 0 }
    }

    fn make_writer_for(&self, event: &Metadata<'_>) -> Line {
        if *event.level() > Level::INFO {
            // Debug levels are on only if a user requested them.
            return self.make_writer();
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rates.entry(event.callsite()).or_default();
        rate.admit(Instant::now()).map_or(Line::LeftOut, |left_out| Line::Shown { left_out })
    }
}

/// The lines of one kind in the current window.
#[derive(Debug, Default)]
struct Rate {
    began: Option<Instant>,
    lines: u32,
}

impl Rate {
    /// Returns `None` if no more lines may be written, otherwise how many were suppressed before this one.
    fn admit(&mut self, now: Instant) -> Option<u32> {
        let mut left_out = 0;
        if self.began.is_none_or(|began| now - began >= WINDOW) {
            left_out = self.lines.saturating_sub(LINES_MAX);
            *self = Self { began: Some(now), lines: 0 };
        }
        self.lines = self.lines.saturating_add(1);
        (self.lines <= LINES_MAX).then_some(left_out)
    }
}

/// The writer of one event.
#[derive(Debug)]
enum Line {
    Shown { left_out: u32 },
    LeftOut,
}

impl Write for Line {
    /// Writes a complete event.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if let Self::Shown { left_out } = *self {
            let mut log = io::stderr().lock();
            begin_anew(&log, LOG_BYTES_MAX);
            log.write_all(line(event, left_out).as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Truncates a log that is longer than `bytes_max`. Only a file that is open for appending counts as a log; `oswalk up`
/// opens it so.
fn begin_anew(log: &impl AsFd, bytes_max: i64) {
    let is_long = fstat(log).is_ok_and(|found| {
        found.st_mode & libc::S_IFMT == libc::S_IFREG && found.st_size > bytes_max
    });
    let appends = || {
        fcntl(log, FcntlArg::F_GETFL)
            .is_ok_and(|flags| OFlag::from_bits_retain(flags).contains(OFlag::O_APPEND))
    };
    if is_long && appends() {
        // On failure the log keeps growing.
        let _ = ftruncate(log, 0);
    }
}

fn line(event: &[u8], left_out: u32) -> String {
    let event = event.strip_suffix(b"\n").unwrap_or(event);
    let event = event.get(..LINE_BYTES_MAX + 4).unwrap_or(event);
    let mut line = escape(&String::from_utf8_lossy(event), LINE_BYTES_MAX);
    if left_out > 0 {
        line += &format!(" (and {left_out} more of this kind before)");
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_bounded_line() {
        let event = b"WARN refused: 9\x1b[31m\nINFO forged\n";
        assert_eq!(line(event, 0), "WARN refused: 9\\u{1b}[31m\\nINFO forged\n");
        assert_eq!(line(b"x\n", 7), "x (and 7 more of this kind before)\n");
        let long = line(&vec![b'\n'; 900_000], 0);
        assert!(long.len() <= LINE_BYTES_MAX + 1 && long.lines().count() == 1);
    }

    #[test]
    fn a_long_log_is_truncated() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        for (appends, left) in [(true, "later"), (false, "earlierlater")] {
            std::fs::write(&path, "earlier").expect("writable");
            let mut options = std::fs::File::options();
            let mut log = options.append(appends).write(true).open(&path).expect("it is there");
            io::Seek::seek(&mut log, io::SeekFrom::End(0)).expect("a file");
            begin_anew(&log, 7);
            assert_eq!(log.metadata().expect("it is open").len(), 7, "it is no longer than that");
            begin_anew(&log, 6);
            log.write_all(b"later").expect("writable");
            assert_eq!(std::fs::read_to_string(&path).expect("readable"), left);
        }
    }

    #[test]
    fn suppressed_lines_are_counted() {
        let mut rate = Rate::default();
        let now = Instant::now();
        let shown = (0..1000).filter(|_| rate.admit(now).is_some()).count();
        assert_eq!(shown, LINES_MAX as usize);
        assert_eq!(rate.admit(now + WINDOW), Some(1000 - LINES_MAX));
        assert_eq!(rate.admit(now + WINDOW), Some(0));
    }
}
