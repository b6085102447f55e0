//! `oswalk shell-init --check`: whether new shells open sessions, and what that adds to their start.

use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use worknode::variables;

use super::language::Shell;
use crate::error::Failure;
use crate::say;

/// Starts that are timed, with and without the script by turns. An odd number has a median.
const STARTS: usize = 7;

/// Starts shells as a terminal does, and says what it found.
pub(super) fn check(shell: Shell) -> Result<ExitCode, Failure> {
    let name = shell.name();
    if !opens_a_session(shell)? {
        let file = shell.file();
        let failure = Failure::new(format!("programs of new {name} shells do not walk"));
        return Err(failure.hint(format!(
            "add this line to {file}: {}; 'oswalk status' says whether the agent answers",
            shell.line()
        )));
    }
    let added = added(shell)?;
    let milliseconds = added.as_secs_f64() * 1000.0;
    say::out(format_args!(
        "programs of new {name} shells walk\na shell's start takes {milliseconds:.1} ms longer\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells whether a new interactive shell has a session, by the user's own files.
fn opens_a_session(shell: Shell) -> Result<bool, Failure> {
    let print = format!("printf '<%s>' \"${}\"", variables::SHELL_PAGE);
    let output = new(shell, &["-i", "-c", &print]).output();
    let output = output.map_err(|error| failed(shell, &error))?;
    // The user's files may print, too.
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.rsplit_once('<').is_some_and(|(_, page)| page.starts_with('/')))
}

/// Returns the time that the script adds to a start, a median. The user's files are not read.
fn added(shell: Shell) -> Result<Duration, Failure> {
    let time = |script: &str| {
        let start = Instant::now();
        let status = new(shell, &[shell.without_files(), "-i", "-c", script]).status();
        status.map_err(|error| failed(shell, &error))?;
        Ok(start.elapsed())
    };
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        without.push(time("true")?);
        with.push(time(shell.line())?);
    }
    Ok(median(with).saturating_sub(median(without)))
}

/// Returns a shell that has no session yet, and no terminal.
fn new(shell: Shell, arguments: &[&str]) -> Command {
    let mut command = Command::new(shell.name());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.env_remove(variables::PAGE).env_remove(variables::SHELL_PAGE);
    command
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn failed(shell: Shell, error: &std::io::Error) -> Failure {
    Failure::new(format!("failed to start {}: {error}", shell.name()))
}
