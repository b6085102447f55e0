//! `oswalk cluster`: what it prints, as a snapshot, and what reaches the agent.

use std::fs;
use std::process::{Output, Stdio};

use worknode::key::Key;
use worknode::membership::{ClusterId, JoinLine};
use worknode::request::Request;

use crate::machine::{Machine, stderr, stdout};

/// Returns a sound line, whose word is nobody's.
fn line() -> String {
    let line = JoinLine {
        address: "hub:7700".to_owned(),
        cluster: ClusterId([1; 32]),
        host: Key([2; 32]),
        word: [3; 16],
    };
    line.to_string()
}

/// Runs a command beside a fake agent; returns what it printed and what it asked.
fn beside_an_agent(arguments: &[&str]) -> (Output, Vec<Request>) {
    let machine = Machine::new();
    let agent = machine.agent();
    let output = machine.run(arguments);
    (output, agent.join().expect("the agent ends"))
}

#[test]
fn messages() {
    let mut text = String::new();
    let mut add = |situation: &str, machine: &Machine, output: &Output| {
        let said = format!("{}{}", stdout(output), stderr(output));
        let said = said.replace(&*machine.dir.path().to_string_lossy(), "$DIR");
        let status = output.status.code().expect("an exit");
        text += &format!("--- {situation}\n{}\n[exit {status}]\n\n", said.trim_end());
    };
    let machine = Machine::new();
    machine.script(
        "lib/oswalkd",
        "echo 'oswalkd: ERROR' >&2; echo 'error: the agent refused' >&2; exit 1",
    );
    for arguments in [
        &["invite"][..],
        &["nodes"],
        &["remove", "laptop"],
        &["leave"],
        &["join", "redis://hub/"],
        &["join", &line()[..60]],
        &["join", &line()],
        &["init"],
    ] {
        let output = machine.run(&[&["cluster"], arguments].concat());
        let situation = arguments.join(" ").replace(&line(), "LINE");
        add(&situation.replace(&line()[..60], "TORN-LINE"), &machine, &output);
    }
    for arguments in [
        &["cluster", "invite"][..],
        &["cluster", "invite", "--nodes", "3", "--hours", "2"],
        &["cluster", "nodes"],
        &["cluster", "nodes", "--json"],
        &["cluster", "remove", "laptop"],
        &["cluster", "invite", "--list"],
        &["cluster", "invite", "--withdraw", "0a1b2c3d"],
        &["cluster", "drain", "laptop"],
        &["cluster", "drain", "laptop", "--undo"],
        &["cluster", "trust", "laptop"],
        &["cluster", "rotate"],
    ] {
        let situation = format!("{}, beside an agent", arguments[1..].join(" "));
        add(&situation, &machine, &beside_an_agent(arguments).0);
    }
    fs::create_dir(machine.path("state/cluster")).expect("mkdir");
    add("leave, as a member", &machine, &machine.run(&["cluster", "leave"]));
    assert!(!machine.path("state/cluster").exists());

    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("cluster", text.trim_end()));
}

#[test]
fn an_invitation_has_its_bounds() {
    let (_, asked) = beside_an_agent(&["cluster", "invite", "--nodes", "3", "--hours", "2"]);
    assert_eq!(asked, [Request::Invite { nodes: 3, seconds: 7200 }]);
}

/// The line reaches the agent's program through standard input alone, where `ps` does not show it.
#[test]
fn a_line_is_on_no_command_line_of_ours() {
    let machine = Machine::new();
    machine.script("lib/oswalkd", "read -r line; echo \"$@ got $line\" >&2; exit 1");
    let mut command = machine.oswalk(&["cluster", "join", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("oswalk starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut stdin, format!("{}\n", line()).as_bytes()).expect("it is read");
    drop(stdin);
    let said = stderr(&child.wait_with_output().expect("it ends"));
    assert!(said.contains(&format!("got {}", line())), "{said}");
    assert!(!said.contains("join oswalk://"), "{said}");
}
