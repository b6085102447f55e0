//! `oswalk shell-init`: has an interactive shell open a session for itself, so that its programs walk.
//!
//! A shell evaluates two scripts. The first, which `shell-init` prints, says whether a session is wanted. The second, which
//! `shell-session` prints, puts the session's variables into the shell. A shell must never fail or wait because of them: without
//! an agent that answers at once, the second script is empty.

mod check;
mod language;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use worknode::request::SessionOptions;

use crate::error::Failure;
use crate::places::Places;
use crate::session::{self, Session};
use crate::{policy_file, say};
use language::Shell;

/// Longest wait for the agent: a delay that is hardly noticed when a shell starts.
const PATIENCE: Duration = Duration::from_millis(80);

/// Print a script by which a shell's programs walk
///
/// For ~/.bashrc: eval "$(oswalk shell-init bash)". For ~/.zshrc: eval "$(oswalk shell-init zsh)".
/// For ~/.config/fish/config.fish: oswalk shell-init fish | source
#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
    /// Say whether new shells' programs walk, and what that adds to a shell's start
    #[arg(long)]
    check: bool,
}

/// Open a session for a shell, and print its variables
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct Open {
    /// The shell's language
    #[arg(value_enum)]
    shell: Shell,
    /// The shell's process, with which the session ends
    pid: u32,
}

/// Prints the first script. `state` is the state directory if the user has named one.
pub(crate) fn init(options: &Init, state: Option<&Path>) -> Result<ExitCode, Failure> {
    let shell = options.shell;
    if options.check {
        return check::check(shell);
    }
    let oswalk = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("oswalk"));
    let quoted = |path: &Path| shell.quoted(path.as_os_str()).to_string_lossy().into_owned();
    let state = state.map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned()));
    let state = state.map(|dir| format!(" --state {}", quoted(&dir))).unwrap_or_default();
    say::out(shell.script().replace("@OSWALK@", &quoted(&oswalk)).replace("@STATE@", &state))?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a session and prints the second script; prints nothing if there is no agent, or none that sees the shell.
pub(crate) fn open(options: &Open, places: &Places) -> Result<ExitCode, Failure> {
    let policy = policy_file::load(None).map_err(|error| Failure::from_error(&error))?;
    let wanted = SessionOptions {
        becomes: true,
        shell: Some(options.pid),
        ..session::options(policy, None)?
    };
    let Ok(session) = Session::open(places, PATIENCE, wanted) else { return Ok(ExitCode::SUCCESS) };
    // What is not UTF-8 cannot be printed, and the loader would warn of another name with every program.
    if let Some(script) = options.shell.assignments(&session).to_str().filter(|_| session.becomes) {
        say::out(script)?;
    }
    Ok(ExitCode::SUCCESS)
}
