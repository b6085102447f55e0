//! `status`, `down` and `doctor`: what an agent answers, and what is said of one that does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;

use worknode::request::{Request, Status};

use crate::machine::{Machine, refuses, stderr, stdout};

#[test]
fn status_down_and_doctor_ask_the_agent() {
    let machine = Machine::new();
    let agent = machine.agent();
    let output = machine.run(&["status", "--json"]);
    let status: Status = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((status.node.as_str(), output.status.code()), ("me", Some(1)), "no broker");
    agent.join().expect("the agent ends");

    fs::remove_file(machine.path("state/door")).expect("unlinks");
    let agent = machine.agent();
    let output = machine.run(&["down"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "agent me is down\n"));
    assert_eq!(agent.join().expect("the agent ends"), [Request::Status, Request::Shutdown]);

    fs::remove_file(machine.path("state/door")).expect("unlinks");
    let agent = machine.agent();
    let output = machine.run(&["doctor"]);
    let text = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("FAIL  versions: oswalk is 0.1.0, but this agent is 0.0.1\n"), "{text}");
    assert!(text.contains("FAIL  broker: redis://b/ does not answer the agent\n"), "{text}");
    assert!(text.contains("ok    clock:"), "{text}");
    agent.join().expect("the agent ends");

    fs::remove_file(machine.path("state/door")).expect("unlinks");
    let output = machine.run(&["doctor", "--json"]);
    let lines: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let lines = lines.as_array().expect("a list");
    let agent = lines.iter().find(|line| line["check"] == "agent").expect("a check");
    assert_eq!((&agent["ok"], output.status.code()), (&serde_json::json!(false), Some(1)));
    assert!(agent["remedy"].is_string() && agent["text"].is_string(), "{agent}");
}

#[test]
fn an_agent_that_hangs_is_named() {
    let machine = Machine::new();
    // Like a stopped process, it accepts connections and never answers.
    let _listener = UnixListener::bind(machine.path("state/door")).expect("binds");
    let silent = format!("the agent (pid {}) does not answer within 5 s", std::process::id());
    let kill = format!("kill -KILL {}", std::process::id());
    let cases: [(&[&str], i32); 5] = [
        (&["status"], 125),
        (&["doctor"], 1),
        (&["down"], 125),
        (&["up"], 125),
        (&["exec", "--no-fallback", "true"], 125),
    ];
    let (machine, silent, kill) = (&machine, &silent, &kill);
    thread::scope(|scope| {
        for (arguments, status) in cases {
            scope.spawn(move || {
                let output = machine.run(arguments);
                let said = stdout(&output) + &stderr(&output);
                assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
                assert!(said.contains(silent) && said.contains(kill), "{arguments:?}: {said}");
                assert!(!said.contains("start it"), "{arguments:?}: {said}");
            });
        }
        scope.spawn(move || {
            let output = machine.run(&["exec", "sh", "-c", "echo here"]);
            assert_eq!(stdout(&output), "here\n");
            assert_eq!(stderr(&output), format!("oswalk: {silent}; running here\n"));
        });
    });
}

#[test]
fn a_door_that_nobody_serves_is_no_agent() {
    let machine = Machine::new();
    let door = machine.path("state/door");
    // First the door that a killed agent leaves behind, then a regular file.
    drop(UnixListener::bind(&door).expect("binds"));
    let check = || {
        let said = format!("oswalk: error: no agent at {}\n", door.display());
        refuses(&machine, &mut machine.oswalk(&["status"]), 125, &[&said]);
        let output = machine.run(&["down"]);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(stdout(&output), format!("no agent at {}\n", door.display()));
    };
    check();
    fs::remove_file(&door).expect("unlinks");
    fs::write(&door, "").expect("writes");
    check();
}

/// Needs root, to become another user.
#[test]
fn a_user_of_roots_agent_needs_its_door_only() {
    let machine = Machine::new();
    let Some(mut doctor) = machine.oswalk_of_nobody(&["doctor"]) else { return };
    let agent = machine.agent();
    for path in ["state", "state/door"] {
        fs::set_permissions(machine.path(path), PermissionsExt::from_mode(0o777)).expect("chmod");
    }
    let said = stdout(&doctor.output().expect("oswalk starts"));
    agent.join().expect("it was asked");
    assert!(said.contains("  agent: me answers"), "{said}");
    assert!(!said.contains("fuse:") && !said.contains("namespaces:"), "{said}");
}

/// Needs root, to become another user.
#[test]
fn an_ordinary_user_is_told_what_is_possible() {
    let machine = Machine::new();
    if machine.oswalk_of_nobody(&[]).is_none() {
        return;
    }
    let run = |arguments: &[&str]| {
        let mut command = machine.oswalk_of_nobody(arguments).expect("this is root");
        let output = command.output().expect("oswalk starts");
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    let (status, said) = run(&["doctor"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("serves all users"), "{said}");
    fs::set_permissions(machine.path("state"), PermissionsExt::from_mode(0o700)).expect("chmod");
    for arguments in [&["status"][..], &["exec", "--no-fallback", "true"], &["down"]] {
        let (status, said) = run(arguments);
        assert_eq!(status, Some(125), "{arguments:?}: {said}");
        assert!(said.contains("serves another user"), "{said}");
    }
    assert_eq!(run(&["exec", "sh", "-c", "exit 4"]).0, Some(4));
}
