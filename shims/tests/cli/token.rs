//! `oswalk token`: what it prints, as a snapshot, and what reaches the agent.

use std::fs;
use std::process::Output;

use worknode::capability::{Bounds, Right, Token};
use worknode::request::Request;

use crate::machine::{Machine, stderr, stdout, token};

/// Returns a machine with the token of the agent in a file, and one that was narrowed from it.
fn machine() -> Machine {
    let machine = Machine::new();
    let bounds = Bounds {
        rights: Some([Right::Exec, Right::Read].into_iter().collect()),
        nodes: Some(["n1".parse().expect("a name")].into()),
        until_s: Some(1),
        ..Bounds::default()
    };
    let narrowed = token().narrow(&bounds, &[3; 32]).expect("sound");
    fs::write(machine.path("token"), token().reveal() + "\n").expect("writes");
    fs::write(machine.path("narrowed"), narrowed.reveal()).expect("writes");
    fs::write(machine.path("damaged"), "hello").expect("writes");
    machine
}

fn run(machine: &Machine, arguments: &[&str]) -> Output {
    let mut command = machine.oswalk(arguments);
    command.current_dir(machine.dir.path()).output().expect("oswalk starts")
}

#[test]
fn messages() {
    let (machine, mut text) = (machine(), String::new());
    for arguments in [
        &["show", "token"][..],
        &["show", "narrowed"],
        &["show", "damaged"],
        &["show", "absent"],
        &["show"],
        &["narrow", "--from", "token", "--expires", "31d"],
        &["narrow", "--from", "token", "--rights", "root"],
        &["narrow", "--from", "token", "--paths", "absent"],
        &["revoke", "absent"],
    ] {
        let output = run(&machine, &[&["token"], arguments].concat());
        let said = format!("{}{}", stdout(&output), stderr(&output));
        let said = said.replace(&*machine.dir.path().to_string_lossy(), "$DIR");
        let status = output.status.code().expect("an exit");
        text += &format!("--- {}\n{}\n[exit {status}]\n\n", arguments.join(" "), said.trim_end());
    }
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("token", text.trim_end()));
}

#[test]
fn a_token_is_narrowed_without_the_agent() {
    let machine = machine();
    let narrow =
        ["token", "narrow", "--from", "token", "--nodes", "n1,n2", "--rights", "exec,read"];
    let more = ["--paths", ".", "--slots", "3", "--memory", "9", "--no-network", "--compile-steps"];
    let output = run(&machine, &[&narrow[..], &more].concat());
    let narrowed: Token = stdout(&output).parse().expect("a token");
    let bounds = narrowed.peek().expect("sound").bounds;
    let dir = fs::canonicalize(machine.dir.path()).expect("it exists");
    assert_eq!(bounds.rights, Some([Right::Exec, Right::Read].into_iter().collect()));
    assert_eq!(bounds.nodes.map(|nodes| nodes.len()), Some(2));
    assert_eq!(bounds.paths, Some([dir.to_string_lossy().into_owned()].into()));
    assert_eq!((bounds.slots, bounds.memory), (Some(3), Some(9)));
    assert!(bounds.no_network && bounds.only_compile_steps && bounds.until_s.is_some());
}

/// A token reaches the agent, and its file is hidden from all nodes.
#[test]
fn a_session_uses_the_token_of_a_file() {
    for by_option in [true, false] {
        let machine = machine();
        let agent = machine.agent();
        let option = ["--token", "token"];
        let option = if by_option { &option[..] } else { &[] };
        let mut command = machine.oswalk(&[&["exec", "--summary"], option, &["true"]].concat());
        command.current_dir(machine.dir.path());
        if !by_option {
            command.env("OSWALK_TOKEN_FILE", machine.path("token"));
        }
        assert!(command.output().expect("oswalk starts").status.success());
        let asked = agent.join().expect("the agent ends");
        let Some(Request::OpenSession(options)) = asked.first() else { panic!("{asked:?}") };
        let file = fs::canonicalize(machine.path("token")).expect("it exists");
        assert_eq!(options.token, Some(token()));
        assert_eq!(options.hide, [file.to_string_lossy()]);
        assert!(!format!("{asked:?}").contains(&token().reveal()));
    }
}

#[test]
fn what_is_revoked_is_a_token_or_a_number() {
    let machine = machine();
    let agent = machine.agent();
    assert_eq!(stdout(&run(&machine, &["token", "revoke", "token"])).lines().count(), 1);
    assert_eq!(agent.join().expect("the agent ends"), [Request::Revoke(token())]);
    let id = token().peek().expect("sound").id();
    let machine = self::machine();
    let agent = machine.agent();
    run(&machine, &["token", "revoke", &id.to_string()]);
    assert_eq!(agent.join().expect("the agent ends"), [Request::RevokeId(id)]);
}
