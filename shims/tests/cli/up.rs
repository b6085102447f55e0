//! `oswalk up`: which agents are started, and what is said of those that are not.

use std::fs;
use std::path::PathBuf;

use crate::machine::{Machine, refuses, stderr};

#[test]
fn up_shows_why_the_agent_ended() {
    let machine = Machine::new();
    machine.script("lib/oswalkd", "echo first >&2; echo \"failed: $@\" >&2; exit 1");
    let output = machine.run(&["up", "--name", "n1", "--slots", "3"]);
    assert_eq!(output.status.code(), Some(125));
    let state = machine.path("state");
    let expected = format!(
        "oswalk: error: the agent ended at once: failed: --name n1 --slots 3 --state {state}\n\
         hint: its log is {state}/oswalkd.log\n",
        state = state.display()
    );
    assert_eq!(stderr(&output), expected);
}

#[test]
fn up_tells_how_the_agent_that_is_up_differs() {
    let machine = Machine::new();
    let agent = machine.agent();
    let words = [
        "agent me is already up",
        "version is 0.0.1, not 0.1.0",
        "--slots is 0, not 3",
        "oswalk down",
    ];
    refuses(&machine, &mut machine.oswalk(&["up", "--slots", "3"]), 125, &words);
    agent.join().expect("the agent ends");
}

/// An agent that could join no cluster is not started.
#[test]
fn up_refuses_an_agent_that_could_join_no_cluster() {
    let machine = Machine::new();
    machine.script("lib/oswalkd", "echo \"started: $@\" >&2; exit 1");
    fs::write(machine.path("secret"), "").expect("writes");
    let secret = machine.path("secret").display().to_string();
    let up = |options: &[&str]| {
        let output = machine.run(&[&["up"], options].concat());
        assert_eq!(output.status.code(), Some(125), "{options:?}");
        stderr(&output)
    };
    let (hub, here) = ("redis://:pw@hub:6379/", "redis://:pw@127.0.0.1:6379/");
    for (options, missing) in [
        (&["--broker", hub][..], "--listen and --secret"),
        (&["--broker", hub, "--secret", &secret], "--listen"),
        (&["--broker", hub, "--listen", "10.0.0.4"], "--secret"),
    ] {
        let said = up(options);
        assert!(said.contains(&format!("without {missing}:")), "{said}");
        assert!(said.contains("redis://hub:6379/") && !said.contains("pw"), "{said}");
    }
    for options in [
        &["--broker", hub, "--listen", "10.0.0.4", "--secret", &secret][..],
        &["--broker", hub, "--listen", "127.0.0.1", "--secret", &secret],
        &["--broker", hub, "--advertise", "10.0.0.4", "--secret", &secret],
        &["--broker", here],
        &[],
    ] {
        assert!(up(options).contains("started: "), "{options:?}");
    }
    fs::write(machine.path("state/secret"), "").expect("writes");
    assert!(up(&["--broker", hub, "--listen", "10.0.0.4"]).contains("started: "));
}

#[test]
fn a_state_directory_that_cannot_be_one_is_refused_by_name() {
    let machine = Machine::new();
    machine.script("lib/oswalkd", "exit 0");
    let long = machine.path(&"x".repeat(120));
    fs::write(machine.path("file"), "").expect("writes");
    for (state, words) in [
        (long, ["at most 107 bytes", "--state DIR"]),
        (machine.path("file"), ["failed to create the state directory", "--state DIR"]),
        (machine.path("file/state"), ["failed to create the state directory", "Not a directory"]),
        (PathBuf::from("/proc/state"), ["failed to create the state directory", "/proc/state"]),
    ] {
        let mut command = machine.oswalk(&["up", "--state"]);
        refuses(&machine, command.arg(state), 125, &words);
    }
    fs::create_dir(machine.path("state/oswalkd.log")).expect("mkdir");
    let words = ["failed to open the log", "Is a directory", "--state DIR"];
    refuses(&machine, &mut machine.oswalk(&["up"]), 125, &words);
}
