//! `oswalk exec`: runs a command in a session.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use worknode::glob::{self, PatternError};
use worknode::id::NodeId;
use worknode::reason::Reason;
use worknode::report::{Report, StayLine};
use worknode::request::{Action, Reply, Request, SessionOptions, UserRule};
use worknode::variables;

use crate::decide::Given;
use crate::door::ANSWER_MAX;
use crate::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure};
use crate::places::Places;
use crate::policy_file::{self, Network, Policy};
use crate::process::{self, Ending};
use crate::program::Program;
use crate::report_file::ReportFile;
use crate::session::{self, Session};
use crate::{decide, say, starts, tally};

/// Run a command; its processes may execute on other machines
///
/// Exits as the command does, or with 125 if oswalk itself failed, 126 if the command cannot be
/// executed, 127 if it was not found.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Walk to this node only
    #[arg(long, value_name = "NODE")]
    pub(crate) on: Option<NodeId>,
    /// Use the token in this file, which narrows what the session may do [default: $OSWALK_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) token: Option<PathBuf>,
    /// Let programs walk whose name matches; a pattern with a '/' matches the path
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub(crate) walk: Vec<String>,
    /// Keep programs here that match; overrides --walk
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    pub(crate) stay: Vec<String>,
    /// Let every program walk that no rule keeps here
    #[arg(long)]
    pub(crate) walk_all: bool,
    /// Read rules from this file [default: $OSWALK_POLICY or ~/.config/oswalk/policy.toml]
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
    /// Write a JSON report to this file: what walked where, and what stayed and why
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// Print one line about the session when it ends
    #[arg(long)]
    pub(crate) summary: bool,
    /// Do not say that nothing walks, or that there is no agent
    #[arg(long)]
    pub(crate) quiet: bool,
    /// Send variables that match to the nodes, although they look like secrets
    #[arg(long, value_name = "NAME", value_parser = pattern)]
    pub(crate) pass_env: Vec<String>,
    /// Withhold variables that match, and let programs walk without them
    #[arg(long, value_name = "NAME", value_parser = pattern)]
    pub(crate) without_env: Vec<String>,
    /// Whether programs that walk have their node's network; compile steps have none in any case [default: node]
    #[arg(long, value_name = "NETWORK")]
    pub(crate) network: Option<Network>,
    /// Hide these files, and all below, from nodes, as 'hide' in policy.toml does
    #[arg(long, value_name = "PATTERN")]
    pub(crate) hide: Vec<String>,
    /// Execute nothing, but say what would happen and why
    #[arg(long, conflicts_with_all = ["report", "summary"])]
    pub(crate) explain: bool,
    /// Fail instead of executing here a program that should walk
    #[arg(long)]
    pub(crate) no_fallback: bool,
    /// The command and its arguments: everything from the first word that is not an option, or after --
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND",
        value_hint = clap::ValueHint::CommandWithArguments)]
    pub(crate) command: Vec<OsString>,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let policy = policy(options)?;
    let file = decide::find(&options.command[0], std::env::var_os("PATH").as_deref())?;
    let report_file = options.report.as_deref().map(ReportFile::prepare).transpose()?;
    let started = Instant::now();
    let opened = open(options, &file, policy.clone(), places, becomes(options));
    let session = match opened {
        // Opened again, because this process has something to say at the end.
        Ok(mut session) if session.becomes && tells_at_end(&session, options, &file) => {
            let _ = session.door.ask(&Request::CloseSession);
            open(options, &file, policy, places, false)
        }
        opened => opened,
    };
    let session = match session {
        Err(failure) if options.no_fallback => return Err(failure.0),
        session => session.map_err(|failure| failure.1),
    };
    if let Err(why) = &session
        && !options.quiet
    {
        say::err(format_args!("oswalk: {why}; running here"));
    }
    // Other causes are in the report.
    let is_alone =
        |session: &Session| session.notice.is_some() && is_build(session, options, &file);
    let tells = session.as_ref().is_ok_and(is_alone);
    let to_execute = match &session {
        Ok(session) => program(session, &file, options),
        Err(_) => Program::new(&file, &options.command),
    };
    let becomes = session.as_ref().map_or_else(|_| becomes(options), |session| session.becomes);
    if becomes {
        let error = to_execute.map_or_else(|error| error, |program| process::replace(&program));
        return Err(cannot_start(&file, &error));
    }
    let ending = to_execute.and_then(|program| process::run(&program));
    let ending = ending.map_err(|error| cannot_start(&file, &error))?;
    let report = session.map_or_else(lost, close);
    finish(options, tells, report_file, &report, started.elapsed());
    Ok(match ending {
        Ending::Exited(code) => ExitCode::from(code),
        Ending::Killed(signal) => {
            process::die_by(signal);
            // The signal did not kill this process: return the status that a shell shows for it.
            ExitCode::from(u8::try_from(128 + signal as i32).unwrap_or(u8::MAX))
        }
    })
}

/// Parses a pattern of the command line.
fn pattern(text: &str) -> Result<String, PatternError> {
    glob::check(text.as_bytes()).map(|()| text.to_owned())
}

/// Returns the policy of options and file. Rules of options come first and so take precedence.
pub(crate) fn policy(options: &Options) -> Result<Policy, Failure> {
    let of = |patterns: &[String], action| {
        let rule = move |pattern: &String| UserRule { pattern: pattern.clone(), action };
        patterns.iter().map(rule).collect::<Vec<_>>()
    };
    let mut rules = of(&options.stay, Action::Stay);
    rules.extend(of(&options.walk, Action::Walk));
    let file = policy_file::load(options.policy.as_deref());
    let mut file = file.map_err(|error| Failure::from_error(&error))?;
    rules.append(&mut file.rules);
    let hide =
        policy_file::of_options(&options.hide).map_err(|error| Failure::from_error(&error))?;
    let hide = hide.into_iter().chain(std::mem::take(&mut file.hide)).collect();
    let both = |own: &[String], file: Vec<String>| own.iter().cloned().chain(file).collect();
    let pass_env = both(&options.pass_env, std::mem::take(&mut file.pass_env));
    let without_env = both(&options.without_env, std::mem::take(&mut file.without_env));
    let network = options.network.unwrap_or(file.network);
    Ok(Policy { rules, pass_env, without_env, hide, network, ..file })
}

/// Tells whether this process becomes the command, because nothing is left to do after it.
fn becomes(options: &Options) -> bool {
    options.report.is_none() && !options.summary && !options.explain
}

/// Opens the session of a command. The error is the failure, and its message without the causes.
pub(crate) fn open(
    options: &Options,
    file: &Path,
    policy: Policy,
    places: &Places,
    becomes: bool,
) -> Result<Session, (Failure, String)> {
    let given = session::options(policy, options.token.as_deref()).map_err(|failure| {
        let message = failure.message().to_owned();
        (failure, message)
    })?;
    Session::open(
        places,
        ANSWER_MAX,
        SessionOptions {
            walk_all: options.walk_all,
            on: options.on.clone(),
            no_fallback: options.no_fallback,
            becomes,
            command: starts::known_by(file, &options.command[1..]),
            ..given
        },
    )
}

/// Prints why nothing will walk, if the command would walk or may start programs that would. A user
/// who named a node is told in any case; others only at a terminal, and only here if this process
/// becomes the command and so cannot tell them at the end.
fn tell(session: &Session, options: &Options, decision: Result<(), Reason>) {
    let Some(notice) = &session.notice else { return };
    let matters = match decision {
        Ok(()) => true,
        Err(reason) => {
            matches!(reason, Reason::NoCluster | Reason::Driver | Reason::Shell | Reason::Wrapper)
        }
    };
    let is_heard = options.on.is_some() || (session.becomes && io::stderr().is_terminal());
    if matters && is_heard && !options.quiet {
        say::err(format_args!("oswalk: nothing walks: {notice}"));
    }
}

/// Tells whether this process has to outlive a build that is about to be executed here as a whole: its user must be told,
/// and is not at a terminal, where that is told before.
fn tells_at_end(session: &Session, options: &Options, file: &Path) -> bool {
    session.notice.is_some() && !io::stderr().is_terminal() && is_build(session, options, file)
}

/// Tells whether what the user is told may go to a file or a pipe: the command starts others, and is no part of another
/// session. Others may read what a lone compiler says.
fn is_build(session: &Session, options: &Options, file: &Path) -> bool {
    let page = std::env::var_os(variables::PAGE);
    let is_nested = page.is_some() && page != std::env::var_os(variables::SHELL_PAGE);
    let decision = decide::decide(&session.page(), file, &options.command[1..], &given(options));
    let starts_others = matches!(decision, Err(Reason::Driver | Reason::Shell | Reason::Wrapper));
    starts_others && !is_nested && !options.quiet && options.on.is_none()
}

/// Returns the circumstances of the command.
pub(crate) fn given(options: &Options) -> Given {
    Given {
        terminal: io::stdin().is_terminal(),
        pinned: options.on.is_some() || options.no_fallback,
        preload: std::env::var_os("LD_PRELOAD").unwrap_or_default(),
    }
}

/// Returns the command, or the stub in its place, as a program of the session.
fn program(session: &Session, file: &Path, options: &Options) -> io::Result<Program> {
    let page = session.page();
    let words = &options.command;
    let decision = decide::decide(&page, file, &words[1..], &given(options));
    tell(session, options, decision);
    let mut program = match decision {
        Ok(()) => {
            let mut stub = Program::new(&session.stub, words)?;
            stub.set(variables::WALK, file.as_os_str())?;
            stub
        }
        Err(reason) => {
            tally::count(&session.page_file, &page, file.as_os_str().as_bytes(), reason);
            Program::new(file, words)?
        }
    };
    session.enter(&mut program)?;
    Ok(program)
}

/// Ends the session and returns its report. The command has run, so a lost report is not an error.
fn close(mut session: Session) -> Report {
    let why = match session.door.ask(&Request::CloseSession) {
        Ok(Reply::Report(report)) => return report,
        Ok(_) => session.door.protocol().to_string(),
        Err(error) => error.to_string(),
    };
    say::err(format_args!("oswalk: the session's report is lost: {why}"));
    lost(why)
}

/// Returns the report of a session that was lost or could not be opened.
pub(crate) fn lost(why: String) -> Report {
    Report { lost: Some(why), ..Report::default() }
}

pub(crate) fn cannot_start(file: &Path, error: &io::Error) -> Failure {
    let failure = Failure::new(format!("failed to execute {}: {error}", file.display()));
    match error.kind() {
        io::ErrorKind::NotFound => failure
            .hint("if the file exists, the interpreter or loader that it names is missing")
            .status(EXIT_NOT_FOUND),
        _ => failure.status(EXIT_NOT_EXECUTABLE),
    }
}

fn finish(
    options: &Options,
    tells: bool,
    file: Option<ReportFile>,
    report: &Report,
    wall: Duration,
) {
    if let Some(mut file) = file
        && let Err(error) = file.write(report)
    {
        let path = file.path().display();
        say::err(format_args!("oswalk: failed to write the report {path}: {error}"));
    }
    if let Some(why_not) = &report.why_not
        && options.on.is_none()
        && !options.quiet
        && (tells || io::stderr().is_terminal())
    {
        say::err(format_args!("oswalk: nothing walked: {why_not}"));
    }
    if options.summary {
        say::err(summary(report, wall));
    }
}

pub(crate) fn summary(report: &Report, wall: Duration) -> String {
    let wall = wall.as_secs_f64();
    if let Some(why) = &report.lost {
        return format!("oswalk: no session: {why}; {wall:.2} s wall.");
    }
    let totals = &report.totals;
    let runners: std::collections::BTreeSet<_> =
        report.walks.iter().map(|walk| walk.runner.as_str()).collect();
    let nodes = if runners.len() == 1 { "node" } else { "nodes" };
    format!(
        "oswalk: {} walked to {} {nodes}, {} stayed{}; {wall:.2} s wall, CPU {:.2} s here and {:.2} s \
         there, {:.1} MB out, {:.1} MB back.",
        totals.walks,
        runners.len(),
        totals.stays,
        reasons(&report.stays),
        totals.origin_cpu_ms / 1e3,
        totals.runner_cpu_ms / 1e3,
        megabytes(totals.bytes_out),
        megabytes(totals.bytes_back),
    )
}

/// Most reasons that the summary names.
const REASONS_MAX: usize = 3;

/// Returns the commonest reasons of stays, in parentheses.
fn reasons(stays: &[StayLine]) -> String {
    let mut counts = BTreeMap::<&str, u64>::new();
    for stay in stays {
        *counts.entry(&stay.reason).or_default() += stay.count;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    let rest: u64 = counts.iter().skip(REASONS_MAX).map(|(_, count)| count).sum();
    let named = counts.iter().take(REASONS_MAX).map(|(reason, count)| format!("{count} {reason}"));
    let others = (rest > 0).then(|| format!("{rest} others"));
    let parts: Vec<_> = named.chain(others).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_nothing() {
        let expected = "oswalk: 0 walked to 0 nodes, 0 stayed; 1.50 s wall, CPU 0.00 s here and \
                        0.00 s there, 0.0 MB out, 0.0 MB back.";
        assert_eq!(summary(&Report::default(), Duration::from_millis(1500)), expected);
        let expected = "oswalk: no session: no agent; 1.50 s wall.";
        assert_eq!(summary(&lost("no agent".to_owned()), Duration::from_millis(1500)), expected);
    }

    #[test]
    fn the_commonest_reasons_are_named() {
        let stay = |argv0: &str, reason: &str, count| StayLine {
            argv0: argv0.to_owned(),
            reason: reason.to_owned(),
            variable: None,
            count,
        };
        let stays = [
            stay("make", "driver", 1),
            stay("gcc", "other-mounts", 20),
            stay("g++", "other-mounts", 10),
            stay("gcc", "link", 2),
            stay("sh", "shell", 1),
            stay("cc", "alone", 1),
        ];
        assert_eq!(reasons(&stays), " (30 other-mounts, 2 link, 1 alone, 2 others)");
        assert_eq!(reasons(&stays[..1]), " (1 driver)");
    }
}
