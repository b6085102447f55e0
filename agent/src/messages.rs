//! The agent's messages as snapshots in `agent/tests/snapshots`, one file per theme, so that a reviewer reads
//! them in one place. Tests of other modules add the themes whose messages are private there.
//!
//! After a change of a message, `INSTA_UPDATE=always cargo test -p oswalk-agent` rewrites the snapshots;
//! review the difference.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use broker::{BrokerError, ServerError};
use clap::{CommandFactory, Parser};
use worknode::membership::{JoinLine, JoinLineError};

use crate::config::Config;
use crate::state::State;
use crate::wire::joining::JoinRefusal;

/// Messages, each below the situation in which it is printed.
#[derive(Default)]
pub(crate) struct Messages(String);

impl Messages {
    pub(crate) fn add(&mut self, situation: &str, message: impl std::fmt::Display) {
        let message = message.to_string();
        let _ = write!(self.0, "--- {situation}\n{}\n\n", message.trim_end());
    }

    /// Adds an error with its causes, as the agent logs it.
    fn fail(&mut self, situation: &str, error: impl Into<anyhow::Error>) {
        self.add(situation, format_args!("{:#}", error.into()));
    }

    /// Compares the messages with the snapshot of this name.
    pub(crate) fn compare(&self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/snapshots"));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(name, self.0.trim_end()));
    }
}

#[test]
fn options() {
    let mut messages = Messages::default();
    let mut command = Config::command().mut_args(|argument| argument.hide_env_values(true));
    messages.add("oswalkd --help", command.render_long_help());
    for line in
        ["oswalkd", "oswalkd --state /s join --listen host", "oswalkd --state /s --name a/b"]
    {
        let error = Config::try_parse_from(line.split(' ')).expect_err(line);
        messages.add(line, error);
    }
    messages.compare("options");
}

/// Adds the refusal of a state directory that `spoil` has prepared.
fn refused_state(messages: &mut Messages, situation: &str, spoil: impl FnOnce(&Path)) {
    let parent = tempfile::tempdir().expect("a directory");
    let state = parent.path().join("state");
    std::fs::create_dir(&state).expect("writable");
    spoil(&state);
    let error = State::take(&state).expect_err(situation);
    let parent = parent.path().to_string_lossy().into_owned();
    let text = format!("{error:#}").replace(&parent, "/var/lib/oswalk");
    messages.add(situation, text.replace(&std::process::id().to_string(), "4711"));
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("ours");
}

#[test]
fn state_directory() {
    let mut messages = Messages::default();
    let mut other = None;
    refused_state(&mut messages, "another agent uses it", |state| {
        other = Some(State::take(state).expect("usable"));
    });
    refused_state(&mut messages, "others may write a file", |state| {
        std::fs::write(state.join("journal"), "").expect("writable");
        set_mode(&state.join("journal"), 0o666);
    });
    refused_state(&mut messages, "a symbolic link", |state| {
        std::os::unix::fs::symlink("/etc/passwd", state.join("journal")).expect("writable");
    });
    refused_state(&mut messages, "others may write above it", |state| {
        set_mode(state.parent().expect("one"), 0o777);
    });
    messages.compare("state_directory");
}

/// Why a node does not become a member, or no address is found for one.
#[test]
fn membership() {
    let mut messages = Messages::default();
    let name = || "laptop".parse().expect("a sound name");
    for (situation, refusal) in [
        ("an unknown line", JoinRefusal::Unknown),
        ("an old line", JoinRefusal::Expired),
        ("a line that is used up", JoinRefusal::UsedUp),
        ("a name that is taken", JoinRefusal::NameTaken(name())),
        ("a removed node", JoinRefusal::Removed),
        ("another version", JoinRefusal::Version { theirs: "0.1.0".into(), ours: "0.2.0".into() }),
        ("a node that may not invite", JoinRefusal::MayNotInvite),
        ("a full disk there", JoinRefusal::NotSaved("No space left on device".into())),
    ] {
        messages.fail(situation, refusal);
    }
    for line in ["redis://hub/", "oswalk://hub:7700/torn"] {
        messages.fail(line, line.parse::<JoinLine>().expect_err(line));
    }
    messages.fail("a line of another version", JoinLineError::Version(9));
    messages.compare("membership");
}

#[test]
fn broker_errors() {
    let mut messages = Messages::default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    let runtime = runtime.expect("a runtime");
    let node = "n1".parse().expect("a sound name");
    for (situation, url) in [
        ("not a broker URL", "http://hub/"),
        ("a password that is not escaped", "redis://:p@ss/word@hub:6379/"),
        ("nothing listens", "redis://:hush@127.0.0.1:1/"),
    ] {
        let connected = runtime.block_on(broker::Broker::connect(url, "w", &node));
        messages.fail(situation, connected.expect_err(situation));
    }
    let url = "redis://hub:6379/".to_owned();
    let taken = BrokerError::NameTaken {
        node,
        address: "10.0.0.12:7700".into(),
        heard_ago: Duration::from_millis(300),
    };
    messages.fail("the name is in use", taken);
    messages.fail("no connection in time", BrokerError::Away { url: url.clone() });
    messages.fail("a wrong password", BrokerError::Denied { url: url.clone() });
    messages.fail("an old server", BrokerError::TooOld { url });
    messages.fail("no server is installed", ServerError::NotInstalled);
    let path = "/var/lib/oswalk/redis/socket".into();
    messages.fail("a long path", ServerError::PathTooLong { path, max: 107 });
    messages.fail(
        "the server cannot be executed",
        ServerError::Start {
            binary: "/usr/bin/redis-server".into(),
            dir: "/var/lib/oswalk/redis".into(),
            source: io::Error::from_raw_os_error(libc::EACCES),
        },
    );
    messages.fail(
        "the server ends at once",
        ServerError::Silent {
            binary: "/usr/bin/redis-server".into(),
            socket: "/var/lib/oswalk/redis/socket".into(),
            log_line: "Bad directive or wrong number of arguments".into(),
        },
    );
    messages.compare("broker_errors");
}

/// The log messages in the source of the agent and its libraries, each with its level and fields. Read from the
/// source, because many situations need a broken machine.
#[test]
fn log_lines() {
    let workspace = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    let mut lines = BTreeSet::new();
    for room in ["agent/src", "packetfs/src", "broker/src"] {
        for_each_source(&workspace.join(room), &mut |text| lines.extend(logged(text)));
    }
    let mut messages = Messages::default();
    for level in ["error", "warn", "info"] {
        let of_level = lines.iter().filter(|(of, _)| of == level).map(|(_, line)| line.as_str());
        messages.add(level, of_level.collect::<Vec<_>>().join("\n"));
    }
    messages.compare("log_lines");
}

fn for_each_source(dir: &Path, visit: &mut impl FnMut(&str)) {
    for entry in std::fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            for_each_source(&path, visit);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            visit(&std::fs::read_to_string(&path).expect("readable"));
        }
    }
}

/// Returns level and text of each `tracing` macro in a source file.
fn logged(source: &str) -> Vec<(String, String)> {
    let calls = source.match_indices("tracing::").filter_map(|(at, word)| {
        let (level, rest) = source[at + word.len()..].split_once("!(")?;
        let is_level = ["error", "warn", "info"].contains(&level);
        is_level.then(|| (level.to_owned(), describe(rest)))
    });
    calls.collect()
}

/// Describes a macro's arguments, which `rest` begins with: the message, then the names of the fields.
fn describe(rest: &str) -> String {
    let (mut fields, mut message) = (Vec::new(), String::new());
    let (mut argument, mut depth, mut chars) = (String::new(), 0_u32, rest.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                let text = literal(&mut chars);
                if depth == 0 && argument.trim().is_empty() {
                    message = text;
                }
            }
            ')' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => fields.push(std::mem::take(&mut argument)),
            c if depth == 0 => argument.push(c),
            _ => {}
        }
    }
    let name = |field: &String| {
        let name = field.split('=').next().unwrap_or_default().trim();
        name.trim_start_matches(['%', '?']).to_owned()
    };
    let names: Vec<_> = fields.iter().map(name).filter(|name| !name.is_empty()).collect();
    if names.is_empty() { message } else { format!("{message} [{}]", names.join(", ")) }
}

/// Reads a string literal up to its closing quote, as the compiler does.
fn literal(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> String {
    let mut text = String::new();
    while let Some(c) = chars.next().filter(|&c| c != '"') {
        match (c, (c == '\\').then(|| chars.next()).flatten()) {
            (_, Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            (_, Some(escaped)) => text.push(escaped),
            (c, None) => text.push(c),
        }
    }
    text
}
