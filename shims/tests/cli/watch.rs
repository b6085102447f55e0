//! `oswalk status --watch`.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{Machine, refuses};

#[test]
fn json_is_an_object_a_line_until_a_signal() {
    let machine = Machine::new();
    refuses(&machine, &mut machine.oswalk(&["status", "--watch"]), 125, &["no agent at"]);
    let agent = machine.agent();
    let mut command = machine.oswalk(&["status", "--watch", "--json"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("reads");
    let status: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(status["node"], "me");
    agent.join().expect("the agent ends");
    // What fails meanwhile is shown, and does not end it.
    let line = lines.next().expect("another line").expect("reads");
    assert!(line.contains("no agent at"), "{line}");
    let pid = i32::try_from(child.id()).expect("small");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_terminal_is_restored() {
    let machine = Machine::new();
    let _agent = machine.agent();
    let oswalk = machine.oswalk(&[]);
    let line = format!(
        "stty -a >$OUT/before; {} status --watch; stty -a >$OUT/after",
        oswalk.get_program().display()
    );
    let mut command = std::process::Command::new("script");
    command.envs(oswalk.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("OUT", machine.dir.path()).args(["-qec", &line, "/dev/null"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    let mut shown = Vec::new();
    while !shown.ends_with(b"q: quit") {
        assert_ne!(
            out.read_until(b't', &mut shown).expect("reads"),
            0,
            "{}",
            String::from_utf8_lossy(&shown)
        );
    }
    child.stdin.take().expect("piped").write_all(b"q").expect("it reads");
    out.read_to_end(&mut shown).expect("reads");
    let shown = String::from_utf8_lossy(&shown);
    assert!(
        shown.contains("NODE") && shown.trim_end().ends_with("\x1b[?25h\x1b[?1049l"),
        "{shown:?}"
    );
    assert!(child.wait().expect("ends").success());
    let modes = |name: &str| std::fs::read_to_string(machine.path(name)).expect("stty ran");
    assert_eq!(modes("before"), modes("after"));
}
