//! Output of `oswalk`: data on standard output, messages on standard error.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;

use crate::error::Failure;

/// Writes data to standard output. A broken pipe is not an error: the reader, as in `oswalk status |
/// head -1`, has read enough.
pub(crate) fn out(text: impl Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("failed to write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Writes data as JSON to standard output.
pub(crate) fn json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(value).map_err(|error| Failure::from_error(&error))?;
    out(json + "\n")
}

/// Writes a line to standard error. An error is ignored: nothing depends on the message being read.
pub(crate) fn err(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Prints message and hint of a failure, and returns the exit status.
pub(crate) fn failure(failure: &Failure) -> ExitCode {
    err(failure);
    ExitCode::from(failure.exit_status())
}
