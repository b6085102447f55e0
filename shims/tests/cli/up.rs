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
        "oswalk: error: the agent ended at once: failed: --state {state} --slots 3 --name n1\n\
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
