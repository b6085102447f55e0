//! `oswalk exec`: runs a command in a session.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use worknode::glob::{self, PatternError};
use worknode::id::NodeId;
use worknode::page::{ASAN_OPTION, Page};
use worknode::reason::Reason;
use worknode::report::{Report, StayLine};
use worknode::request::{Action, Reply, Request, SessionOptions, UserRule};
use worknode::variables;

use crate::decide::Given;
use crate::door::{Door, DoorError};
use crate::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure};
use crate::places::{self, PRELOAD, Places};
use crate::policy_file::{self, Alone, Policy};
use crate::process::{self, Ending};
use crate::program::Program;
use crate::report_file::ReportFile;
use crate::{decide, say, starts, tally};

/// The size of a policy page is a multiple of this.
const PAGE_BYTES_MIN: u64 = 4096;

/// Run a command; its processes may execute on other machines
///
/// Exits as the command does, or with 125 if oswalk itself failed, 126 if the command cannot be
/// executed, 127 if it was not found.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Walk to this node only
    #[arg(long, value_name = "NODE")]
    pub(crate) on: Option<NodeId>,
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
    /// Send variables that match to the nodes, although they look like secrets
    #[arg(long, value_name = "NAME", value_parser = pattern)]
    pub(crate) pass_env: Vec<String>,
    /// Withhold variables that match, and let programs walk without them
    #[arg(long, value_name = "NAME", value_parser = pattern)]
    pub(crate) without_env: Vec<String>,
    /// Fail instead of executing here a program that should walk
    #[arg(long)]
    pub(crate) no_fallback: bool,
    /// The command and its arguments: everything from the first word that is not an option, or after --
    #[arg(required = true, trailing_var_arg = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// An open session.
struct Session {
    door: Door,
    page_path: PathBuf,
    page_file: File,
    page: Vec<u8>,
    /// The session ends with this process, not with the door.
    becomes: bool,
    /// Why nothing walks at present.
    notice: Option<String>,
    /// The command must walk: a node was named, or running here was forbidden.
    pinned: bool,
    preload: PathBuf,
    stub: PathBuf,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let policy = policy(options)?;
    let file = decide::find(&options.command[0], std::env::var_os("PATH").as_deref())?;
    let report_file = options.report.as_deref().map(ReportFile::prepare).transpose()?;
    let started = Instant::now();
    let session = match open(options, &file, policy, places) {
        Err(failure) if options.no_fallback => return Err(failure.0),
        session => session.map_err(|failure| failure.1),
    };
    if let Err(why) = &session {
        say::err(format_args!("oswalk: {why}; running here"));
    }
    let program = match &session {
        Ok(session) => session.program(&file, options),
        Err(_) => Program::new(&file, &options.command),
    };
    let becomes = session.as_ref().map_or_else(|_| becomes(options), |session| session.becomes);
    if becomes {
        let error = program.map_or_else(|error| error, |program| process::replace(&program));
        return Err(cannot_start(&file, &error));
    }
    let ending = program.and_then(|program| process::run(&program));
    let ending = ending.map_err(|error| cannot_start(&file, &error))?;
    let report = session.map_or_else(lost, Session::close);
    finish(options, report_file, &report, started.elapsed());
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
fn policy(options: &Options) -> Result<Policy, Failure> {
    let of = |patterns: &[String], action| {
        let rule = move |pattern: &String| UserRule { pattern: pattern.clone(), action };
        patterns.iter().map(rule).collect::<Vec<_>>()
    };
    let mut rules = of(&options.stay, Action::Stay);
    rules.extend(of(&options.walk, Action::Walk));
    let file = policy_file::load(options.policy.as_deref());
    let mut file = file.map_err(|error| Failure::from_error(&error))?;
    rules.append(&mut file.rules);
    let both = |own: &[String], file: Vec<String>| own.iter().cloned().chain(file).collect();
    let pass_env = both(&options.pass_env, std::mem::take(&mut file.pass_env));
    let without_env = both(&options.without_env, std::mem::take(&mut file.without_env));
    Ok(Policy { rules, pass_env, without_env, ..file })
}

/// Tells whether this process becomes the command, because nothing is left to do after it.
fn becomes(options: &Options) -> bool {
    options.report.is_none() && !options.summary
}

/// Opens a session. The error is the failure, and its message without the causes.
fn open(
    options: &Options,
    file: &Path,
    policy: Policy,
    places: &Places,
) -> Result<Session, (Failure, String)> {
    let (preload, stub) = places::shim().map_err(|failure| {
        let message = failure.message().to_owned();
        (failure, message)
    })?;
    let request = Request::OpenSession(Box::new(SessionOptions {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        rules: policy.rules,
        pass_env: policy.pass_env,
        without_env: policy.without_env,
        lone_walks: policy.alone == Alone::Walk,
        walk_all: options.walk_all,
        on: options.on.clone(),
        no_fallback: options.no_fallback,
        becomes: becomes(options),
        hide: policy.hide,
        command: starts::known_by(file, &options.command[1..]),
        preload: preload.as_os_str().as_bytes().to_vec(),
        stub: stub.as_os_str().as_bytes().to_vec(),
    }));
    let refused =
        |error: DoorError| (Failure::from_error(&error).hint(error.hint()), error.to_string());
    let mut door = Door::open(&places.door()).map_err(refused)?;
    let (page_path, becomes, notice) = match door.ask(&request).map_err(refused)? {
        Reply::Session { page, becomes, notice, .. } => {
            (PathBuf::from(OsString::from_vec(page)), becomes, notice)
        }
        _ => return Err(refused(door.protocol())),
    };
    let (page_file, page) =
        read_page(&page_path).map_err(|error| unreadable(&page_path, &error))?;
    let pinned = options.on.is_some() || options.no_fallback;
    Ok(Session { door, page_path, page_file, page, becomes, notice, pinned, preload, stub })
}

/// Returns the failure to read the page, and its message without the cause.
pub(crate) fn unreadable(page: &Path, error: &io::Error) -> (Failure, String) {
    let message = format!("failed to read the policy page {}", page.display());
    let failure = Failure::new(format!("{message}: {error}"));
    (failure.hint("restart the agent: 'oswalk down', then 'oswalk up'"), message)
}

/// Reads the page without the tally behind it. The file is opened for writing if that is permitted.
fn read_page(path: &Path) -> io::Result<(File, Vec<u8>)> {
    let file =
        OpenOptions::new().read(true).write(true).open(path).or_else(|_| File::open(path))?;
    let mut page = Vec::new();
    (&file).take(PAGE_BYTES_MIN).read_to_end(&mut page)?;
    if Page::parse(&page).is_none() {
        // The page is longer than the minimum.
        (&file).read_to_end(&mut page)?;
    }
    match Page::parse(&page) {
        Some(_) => Ok((file, page)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it is damaged")),
    }
}

/// Adds the option with which AddressSanitizer accepts that our library is loaded before it.
fn with_asan_option(own: Option<OsString>) -> OsString {
    let mut options = own.filter(|own| !own.is_empty()).map_or_else(OsString::new, |mut own| {
        own.push(":");
        own
    });
    options.push(ASAN_OPTION);
    options
}

impl Session {
    /// Prints why nothing will walk, if the command would walk or may start programs that would. A user
    /// who named a node is told in any case; others only at a terminal, and only here if this process
    /// becomes the command and so cannot tell them at the end.
    fn tell(&self, options: &Options, decision: Result<(), Reason>) {
        let Some(notice) = &self.notice else { return };
        let matters = match decision {
            Ok(()) => true,
            Err(reason) => matches!(
                reason,
                Reason::NoCluster | Reason::Driver | Reason::Shell | Reason::Wrapper
            ),
        };
        let is_heard = options.on.is_some() || (self.becomes && io::stderr().is_terminal());
        if matters && is_heard {
            say::err(format_args!("oswalk: nothing walks: {notice}"));
        }
    }

    fn program(&self, file: &Path, options: &Options) -> io::Result<Program> {
        let page = Page::parse(&self.page).expect("parsed when it was read");
        let words = &options.command;
        let given = Given {
            terminal: std::io::stdin().is_terminal(),
            pinned: self.pinned,
            preload: std::env::var_os("LD_PRELOAD").unwrap_or_default(),
        };
        let decision = decide::decide(&page, file, &words[1..], &given);
        self.tell(options, decision);
        let mut program = match decision {
            Ok(()) => {
                let mut stub = Program::new(&self.stub, words)?;
                stub.set(variables::WALK, file.as_os_str())?;
                stub
            }
            Err(reason) => {
                tally::count(&self.page_file, &page, file.as_os_str().as_bytes(), reason);
                Program::new(file, words)?
            }
        };
        let foreign = std::env::var_os("LD_PRELOAD").unwrap_or_default();
        let asan = with_asan_option(std::env::var_os("ASAN_OPTIONS"));
        program.set("LD_PRELOAD", &with_preload(&self.preload, &foreign))?;
        program.set(variables::PAGE, self.page_path.as_os_str())?;
        program.set("ASAN_OPTIONS", &asan)?;
        Ok(program)
    }

    /// Ends the session and returns its report. The command has run, so a lost report is not an error.
    fn close(mut self) -> Report {
        let why = match self.door.ask(&Request::CloseSession) {
            Ok(Reply::Report(report)) => return report,
            Ok(_) => self.door.protocol().to_string(),
            Err(error) => error.to_string(),
        };
        say::err(format_args!("oswalk: the session's report is lost: {why}"));
        lost(why)
    }
}

/// Returns the report of a session that was lost or could not be opened.
pub(crate) fn lost(why: String) -> Report {
    Report { lost: Some(why), ..Report::default() }
}

/// Puts the preload library before others, in the place of an outer session's.
fn with_preload(preload: &Path, foreign: &OsStr) -> OsString {
    let mut list = preload.as_os_str().as_bytes().to_vec();
    let parts = foreign.as_bytes().split(|byte| matches!(byte, b':' | b' '));
    for part in parts.filter(|part| !part.is_empty() && !part.ends_with(PRELOAD.as_bytes())) {
        list.push(b':');
        list.extend_from_slice(part);
    }
    OsString::from_vec(list)
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

fn finish(options: &Options, file: Option<ReportFile>, report: &Report, wall: Duration) {
    if let Some(mut file) = file
        && let Err(error) = file.write(report)
    {
        let path = file.path().display();
        say::err(format_args!("oswalk: failed to write the report {path}: {error}"));
    }
    if let Some(why_not) = &report.why_not
        && options.on.is_none()
        && io::stderr().is_terminal()
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
    fn preload_comes_first_and_once() {
        let list = |foreign: &str| {
            with_preload(Path::new("/l/liboswalk_preload.so"), OsStr::new(foreign))
                .into_string()
                .expect("UTF-8")
        };
        assert_eq!(list(""), "/l/liboswalk_preload.so");
        assert_eq!(list("a.so:b.so"), "/l/liboswalk_preload.so:a.so:b.so");
        assert_eq!(list("/x/liboswalk_preload.so a.so"), "/l/liboswalk_preload.so:a.so");
    }

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
