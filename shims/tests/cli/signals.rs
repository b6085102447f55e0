//! Signals, and what a command inherits of them.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::machine::{Machine, WAYS, stderr, stdout};

#[test]
fn signals_meant_for_the_command_reach_it() {
    let machine = Machine::new();
    let script = "trap 'echo term; exit 3' TERM; echo ready; while :; do sleep 0.01; done";
    let mut child = machine
        .oswalk(&["exec", "--summary", "sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("oswalk starts");
    let mut out = child.stdout.take().expect("piped");
    let mut ready = [0; 6];
    out.read_exact(&mut ready).expect("the command starts");
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGINT).expect("oswalk lives");
    thread::sleep(Duration::from_millis(50));
    kill(pid, Signal::SIGTERM).expect("an interrupt is the command's matter");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("reads");
    assert_eq!((rest.as_str(), child.wait().expect("ends").code()), ("term\n", Some(3)));
}

#[test]
fn a_command_inherits_what_is_ignored() {
    let machine = Machine::new();
    let script = "kill -PIPE $$; kill -CHLD $$; kill -INT $$; echo alive";
    let traps = [("PIPE INT CHLD", Some(0)), ("INT", None)];
    for (exec, (ignored, expected)) in
        WAYS.into_iter().flat_map(|way| traps.map(|trap| (way, trap)))
    {
        let around = format!("trap '' {ignored}; exec \"$0\" \"$@\"");
        let inner = machine.oswalk(&[exec, &["sh", "-c", script]].concat());
        let mut command = Command::new("sh");
        command.args(["-c", &around]).arg(inner.get_program()).args(inner.get_args());
        command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().expect("sh starts");
        assert_eq!(output.status.code(), expected, "ignored: {ignored}");
        assert_eq!(stdout(&output), if expected.is_some() { "alive\n" } else { "" });
        let signal = (expected.is_none()).then_some(Signal::SIGPIPE as i32);
        assert_eq!(output.status.signal(), signal);
    }
}

#[test]
fn a_closed_output_is_no_failure() {
    let machine = Machine::new();
    for exec in WAYS {
        let mut command = machine.oswalk(&[exec, &["sh", "-c", "echo out"]].concat());
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = command.stderr(writer).output().expect("oswalk starts");
        assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(0), "out\n"));
    }
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = machine.oswalk(&["doctor"]).stdout(writer).status().expect("oswalk starts");
    assert_eq!(status.code(), Some(1), "there is no agent");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
    let output = machine.oswalk(&["doctor"]).stdout(full).output().expect("oswalk starts");
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("failed to write to standard output: No space left"));
}
