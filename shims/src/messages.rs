//! What users read, as snapshots in `shims/tests/snapshots`: help texts, errors with their hints and
//! exit statuses, notices, summaries and status.
//!
//! After a change of a message, `INSTA_UPDATE=always cargo test -p oswalk` writes the snapshots anew;
//! the difference is what a reviewer reads.

use std::fmt::Write;
use std::io;
use std::path::Path;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{CommandFactory, Parser};
use worknode::id::NodeId;
use worknode::notice;
use worknode::reason::Reason;
use worknode::report::{Report, StayLine, Totals, WalkLine};
use worknode::request::{NodeCondition, NodeStatus, Status};

use crate::cli::{Cli, Command, did_you_mean, meant};
use crate::door::DoorError;
use crate::error::{EXIT_FAILED, Failure};
use crate::examples::{cluster, node};
use crate::places;
use crate::report_file::ReportFile;
use crate::{decide, down, exec, policy_file, session, status, up};

/// Compares a text with its snapshot.
pub(crate) fn same(name: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../tests/snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, text));
}

/// Messages, each below the situation in which it is printed.
#[derive(Default)]
struct Messages(String);

impl Messages {
    fn add(&mut self, situation: &str, message: impl std::fmt::Display) {
        let message = message.to_string();
        let _ = write!(self.0, "--- {situation}\n{}\n\n", message.trim_end());
    }

    fn fail(&mut self, situation: &str, failure: &Failure) {
        self.add(situation, format_args!("{failure}\n[exit {}]", failure.exit_status()));
    }

    fn compare(&self, name: &str) {
        same(name, self.0.trim_end());
    }
}

/// Returns the definition of the command line, without values from this process's environment.
fn command() -> clap::Command {
    Cli::command().mut_args(|argument| argument.hide_env_values(true))
}

#[test]
fn help() {
    let mut messages = Messages::default();
    let mut cli = command();
    cli.build();
    messages.add("oswalk --help", cli.render_long_help());
    for command in cli.get_subcommands_mut().filter(|command| command.get_name() != "help") {
        let situation = format!("oswalk {} --help", command.get_name());
        messages.add(&situation, command.render_long_help());
        for command in command.get_subcommands_mut().filter(|it| it.get_name() != "help") {
            let situation =
                format!("{} {} --help", situation.trim_end_matches(" --help"), command.get_name());
            messages.add(&situation, command.render_long_help());
        }
    }
    messages.compare("help");
}

#[test]
fn wrong_usage() {
    let mut messages = Messages::default();
    // An option that is set in this process's environment would change the errors.
    let command = command().mut_args(|argument| argument.env(Resettable::Reset));
    for line in [
        "oswalk",
        "oswalk sh -c true",
        "oswalk exec",
        "oswalk exec --sumary make",
        "oswalk exec -j8 make",
        "oswalk exec --on a/b make",
        "oswalk exec --walk [a- make",
        "oswalk exec --walk [z-a] make",
        "oswalk up --slots many",
        "oswalk cluster init --listen localhost:7700",
        "oswalk cluster init --name a/b",
        "oswalk cluster join",
        "oswalk cluster invite --nodes 0",
        "oswalk cluster invite --hours 8761",
        "oswalk cluster remove",
        "oswalk up --store-bytes lots",
        "oswalk up --store-bytes 5",
    ] {
        let words: Vec<_> = line.split(' ').map(Into::into).collect();
        let error = command.clone().try_get_matches_from(&words).expect_err(line);
        let hint = meant(&error, &words)
            .map(|line| format!("\n{}", did_you_mean(&line)))
            .unwrap_or_default();
        messages.add(
            line,
            format_args!("{}{hint}\n[exit {EXIT_FAILED}]", error.to_string().trim_end()),
        );
    }
    messages.compare("wrong_usage");
}

#[test]
fn errors_of_exec() {
    let mut messages = Messages::default();
    let path = Some("/bin".as_ref());
    for name in ["mkae", "/no/such/file", "make -j4", "FOO=1", "FOO=1 make", "cd a && make"] {
        messages.fail(
            &format!("oswalk exec '{name}'"),
            &decide::find(name.as_ref(), path).expect_err(name),
        );
    }
    let plain = decide::find("/etc/passwd".as_ref(), path).expect_err("it is not executable");
    messages.fail("a command without permission to execute it", &plain);
    let vanished = io::Error::from_raw_os_error(nix::libc::ENOENT);
    messages.fail(
        "a script whose interpreter is missing",
        &exec::cannot_start(Path::new("./build.sh"), &vanished),
    );
    let report = ReportFile::prepare(Path::new("/no/such/dir/report.json"));
    messages.fail("--report to a missing directory", &report.expect_err("it is missing"));
    let damaged = io::Error::new(io::ErrorKind::InvalidData, "it is damaged");
    messages
        .fail("a damaged policy page", &session::unreadable(Path::new("/run/page"), &damaged).0);
    messages.compare("errors_of_exec");
}

#[test]
fn errors_of_the_door() {
    let mut messages = Messages::default();
    let path = || "/var/lib/oswalk/door".into();
    let broken = || io::Error::from_raw_os_error(nix::libc::ECONNRESET);
    for (situation, error) in [
        ("no agent", DoorError::NoAgent { path: path(), source: None }),
        ("no agent, with a cause", DoorError::NoAgent { path: path(), source: Some(broken()) }),
        ("another user's agent", DoorError::Denied { path: path() }),
        (
            "an agent of a user whom nobody need trust",
            DoorError::Untrusted { path: path(), uid: 1001 },
        ),
        ("a long state directory", DoorError::PathTooLong { path: path() }),
        ("an agent that hangs", DoorError::Silent { pid: 4711 }),
        ("an agent that hangs, out of sight", DoorError::Silent { pid: 0 }),
        ("an agent that dies", DoorError::Broken { path: path(), source: broken() }),
        ("an agent of another version", DoorError::Protocol { path: path() }),
    ] {
        messages.fail(situation, &Failure::from_error(&error).hint(error.hint_for(true)));
        if matches!(error, DoorError::NoAgent { source: None, .. }) {
            let situation = format!("{situation}, for a user who is not root");
            messages.fail(&situation, &Failure::from_error(&error).hint(error.hint_for(false)));
        }
    }
    messages.compare("errors_of_the_door");
}

#[test]
fn errors_of_the_policy_file() {
    let mut messages = Messages::default();
    let home = Some(Path::new("/home/me"));
    for (text, home) in [
        ("wakl = ['x']", home),
        ("stay = 7", home),
        ("walk = [", home),
        ("stay = ['[a-']", home),
        ("walk = ['']", home),
        ("hide = ['secret']", home),
        ("hide = ['/srv//x']", home),
        ("hide = ['~/x']", None),
        ("hide = ['~/x']", Some(Path::new("/home/*"))),
    ] {
        let error = policy_file::parse(Path::new("/p.toml"), text, home).expect_err(text);
        messages.fail(text, &Failure::from_error(&error));
    }
    let missing = policy_file::load(Some(Path::new("/no/such/file"))).expect_err("it is missing");
    messages.fail("--policy /no/such/file", &Failure::from_error(&missing));
    let directory = policy_file::load(Some(Path::new("/"))).expect_err("it is a directory");
    messages.fail("--policy /", &Failure::from_error(&directory));
    messages.compare("errors_of_the_policy_file");
}

#[test]
fn errors_of_up_and_down() {
    let mut messages = Messages::default();
    let log = Path::new("/var/lib/oswalk/oswalkd.log");
    let options = |line: &str| match Cli::try_parse_from(line.split(' ')).expect(line).command {
        Command::Up(options) => options,
        other => panic!("not up: {other:?}"),
    };
    let line = "oswalk up --name n2 --slots 8";
    let failure = options(line).compare(&cluster()).expect_err("the settings differ");
    messages.fail(&format!("{line}, beside n1"), &failure);
    messages.fail("up without CAP_SYS_ADMIN", &up::cannot_mount());
    let denied = || io::Error::from_raw_os_error(nix::libc::EACCES);
    messages.fail("up of a user without FUSE", &up::cannot_open_fuse(&denied()));
    messages.fail("up of a user without user namespaces", &up::cannot_unshare(&denied()));
    messages.fail("up with half an installation", &places::missing("oswalkd"));
    let denied = io::Error::from_raw_os_error(nix::libc::EACCES);
    messages
        .fail("up with a broken oswalkd", &up::cannot_start(Path::new("/bin/oswalkd"), &denied));
    let said = "failed to listen on 10.0.0.4:7700: address in use";
    messages.fail("an agent that ends at once", &up::ended_at_once(said, log));
    messages.fail("an agent that hangs while it starts", &up::silent(log));
    messages.fail("an agent that does not exit", &down::still_up(4711, log));
    messages.compare("errors_of_up_and_down");
}

#[test]
fn notices() {
    let mut messages = Messages::default();
    let me: NodeId = "n1".parse().expect("a sound name");
    let other: NodeId = "n9".parse().expect("a sound name");
    let mut refused = node("n2", NodeCondition::Refused);
    refused.why = Some("it does not prove its key".to_owned());
    refused.remedy = Some("check which program listens there".to_owned());
    let idle = NodeStatus { slots: 0, ..node("n3", NodeCondition::Alive) };
    let gone = ["n4", "n5"].map(|name| node(name, NodeCondition::Gone));
    let nodes = [vec![node("n1", NodeCondition::Alive), refused, idle], gone.to_vec()].concat();
    let mut nothing_walks = |situation: &str, nodes: &[NodeStatus], on, broker| {
        let notice = notice::why_nothing_walks(nodes, &me, on, broker).expect("nothing walks");
        messages.add(situation, notice);
    };
    nothing_walks("a broker that does not answer", &nodes, None, Some("redis://hub:6379/"));
    nothing_walks("a cluster of one", &nodes[..1], None, None);
    nothing_walks("no node that takes walks", &nodes, None, None);
    nothing_walks("--on a node that is refused", &nodes, Some(&nodes[1].node), None);
    nothing_walks("--on a node that does not exist", &nodes, Some(&other), None);
    for reason in Reason::ALL {
        let variable = (reason == Reason::SecretVariable).then(|| "MY_TOKEN".to_owned());
        let stay =
            StayLine { argv0: "gcc".into(), reason: reason.name().into(), variable, count: 1 };
        let of_session = notice::why_nothing_walked(std::slice::from_ref(&stay), 4711);
        let of_program = notice::local_cause(reason, stay.variable.as_deref(), 4711);
        if let Some(notice) = of_session.or(of_program) {
            messages.add(&format!("nothing walked: {}", reason.name()), notice);
        }
    }
    messages.compare("notices");
}

#[test]
fn summaries() {
    let mut messages = Messages::default();
    let stay = |reason: Reason, count| StayLine {
        argv0: "gcc".to_owned(),
        reason: reason.name().to_owned(),
        variable: None,
        count,
    };
    let walk = |runner: &str| WalkLine { runner: runner.to_owned(), ..WalkLine::default() };
    let report = Report {
        walks: vec![walk("n1"), walk("n2")],
        stays: vec![
            stay(Reason::Link, 30),
            stay(Reason::Shell, 20),
            stay(Reason::Driver, 10),
            stay(Reason::Probe, 2),
        ],
        totals: Totals {
            walks: 240,
            stays: 62,
            wall_ms: 12_340.0,
            origin_cpu_ms: 480.0,
            runner_cpu_ms: 96_000.0,
            bytes_out: 21_500_000,
            bytes_back: 9_800_000,
        },
        ..Report::default()
    };
    let wall = Duration::from_millis(12_340);
    messages.add("a build", exec::summary(&report, wall));
    messages.add("nothing walked or stayed", exec::summary(&Report::default(), wall));
    let lost = exec::lost("no agent at /var/lib/oswalk/door".to_owned());
    messages.add("no session", exec::summary(&lost, wall));
    messages.compare("summaries");
}

#[test]
fn status_tables() {
    let mut messages = Messages::default();
    let mut cluster = cluster();
    messages.add("a sound cluster", status::table(&cluster));
    let mut refused = node("n3", NodeCondition::Refused);
    refused.why = Some("it does not prove its key".to_owned());
    refused.remedy = Some("check which program listens there".to_owned());
    let mut gone = node("n4", NodeCondition::Gone);
    gone.why = Some("it has not been heard for 12 s".to_owned());
    let unknown = NodeStatus { last_seen: 12, ..node("n5", NodeCondition::Unknown) };
    cluster.nodes.extend([refused, gone, unknown]);
    messages.add("nodes that take no walks", status::table(&cluster));
    let away = Status { broker_up: false, nodes: Vec::new(), ..cluster };
    messages.add("a broker that does not answer", status::table(&away));
    let removed = "this node was removed from cluster lab by hub: run 'oswalk cluster leave' here, and join again with a new line";
    let removed = Status { removed: Some(removed.to_owned()), ..away };
    messages.add("a node that was removed", status::table(&removed));
    messages.compare("status");
}
