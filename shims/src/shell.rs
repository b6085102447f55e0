//! `oswalk shell`: a shell here whose programs walk.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Args;
use nix::unistd::{User, geteuid};
use worknode::request::SessionOptions;

use crate::door::ANSWER_MAX;
use crate::error::Failure;
use crate::exec::cannot_start;
use crate::places::Places;
use crate::program::Program;
use crate::session::{self, Session};
use crate::{decide, policy_file, process, say};

/// Start a shell here whose programs walk as the policy says
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The shell [default: $SHELL]
    #[arg(value_hint = clap::ValueHint::CommandName)]
    shell: Option<OsString>,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let shell = options.shell.clone().unwrap_or_else(own);
    let file = decide::find(&shell, std::env::var_os("PATH").as_deref())?;
    let policy = policy_file::load(None).map_err(|error| Failure::from_error(&error))?;
    let wanted = SessionOptions { becomes: true, ..session::options(policy, None)? };
    let session = Session::open(places, ANSWER_MAX, wanted).map_err(|(failure, _)| failure)?;
    if !session.becomes {
        return Err(Failure::new(
            "the agent cannot see this process, so it would not know when the shell ends",
        )
        .hint("run this outside of a container or pid namespace, or use 'oswalk exec'"));
    }
    if let Some(notice) = session.notice.as_ref().filter(|_| io::stderr().is_terminal()) {
        say::err(format_args!("oswalk: nothing walks: {notice}"));
    }
    let program = Program::new(&file, &[shell]).and_then(|mut program| {
        session.enter(&mut program)?;
        Ok(program)
    });
    let error = program.map_or_else(|error| error, |program| process::replace(&program));
    Err(cannot_start(&file, &error))
}

/// Returns the user's shell.
fn own() -> OsString {
    let named = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
    let listed = || Some(User::from_uid(geteuid()).ok()??.shell.into_os_string());
    named.or_else(listed).unwrap_or_else(|| "/bin/sh".into())
}
