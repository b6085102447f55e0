//! The report and the summary.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::thread;

use worknode::report::Report;
use worknode::request::Request;

use crate::machine::{Machine, open, read_request, refuses, stderr, stdout, write_reply};

#[test]
fn without_a_session_the_summary_has_no_figures() {
    let machine = Machine::new();
    let report = machine.path("report.json");
    let mut command = machine.oswalk(&["exec", "--summary", "--report"]);
    let output = command.arg(&report).arg("true").output().expect("oswalk starts");
    let said = stderr(&output);
    assert!(said.contains("oswalk: no session: no agent at") && !said.contains("walked"), "{said}");
    let lost = || {
        let report = serde_json::from_slice::<Report>(&fs::read(&report).expect("written"));
        report.expect("JSON").lost.expect("it says so")
    };
    assert!(lost().contains("no agent at"), "{}", lost());

    // An agent that exits while the command runs.
    let listener = UnixListener::bind(machine.path("state/door")).expect("binds");
    let page_path = machine.path("page");
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let Some(Request::OpenSession(options)) = read_request(&mut stream) else { panic!() };
        write_reply(&mut stream, &open(&options, &page_path));
    });
    let mut command = machine.oswalk(&["exec", "--summary", "--report"]);
    let output = command.arg(&report).args(["sh", "-c", ":"]).output().expect("oswalk starts");
    agent.join().expect("the agent ends");
    assert!(stderr(&output).contains("oswalk: no session: failed to talk"), "{}", stderr(&output));
    assert!(lost().contains("failed to talk to the agent"), "{}", lost());
    assert!(output.status.success());
}

#[test]
fn a_report_that_cannot_be_written_is_refused_before_the_command_runs() {
    let machine = Machine::new();
    fs::write(machine.path("file"), "").expect("writes");
    for name in ["", "missing/report.json", "file/report.json"] {
        let report = machine.path(name);
        let mut command = machine.oswalk(&["exec", "--report"]);
        command.arg(&report).arg("touch").arg(machine.path("ran"));
        let report = report.to_str().expect("UTF-8");
        refuses(
            &machine,
            &mut command,
            125,
            &["failed to write the report", report, "nothing was run"],
        );
    }
    let mut command = machine.oswalk(&["exec", "--report", "/dev/stdout", "sh", "-c", "echo out"]);
    let output = command.stdout(Stdio::piped()).output().expect("oswalk starts");
    let (out, report) =
        stdout(&output).split_once('\n').map(|(a, b)| (a.to_owned(), b.to_owned())).expect("two");
    assert_eq!(out, "out");
    let report = serde_json::from_str::<Report>(&report).expect("JSON");
    assert!(report.lost.expect("there is no agent").starts_with("no agent at"));
}

/// Others may have written to the same file before, and write to it afterwards.
#[test]
fn a_report_to_an_open_descriptor_replaces_no_file() {
    let machine = Machine::new();
    for name in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2", "/dev/fd/5"] {
        let log = machine.path("log");
        fs::write(&log, "").expect("writes");
        let script = format!(
            "echo before; \"$0\" exec --report {name} sh -c 'echo out' 2>&1 5>&1; echo after"
        );
        let like = machine.oswalk(&[]);
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(like.get_program());
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let file = fs::OpenOptions::new().write(true).open(&log).expect("opens");
        let ino = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&log).expect("there"));
        assert!(command.stdout(file).status().expect("sh starts").success());
        let text = fs::read_to_string(&log).expect("reads");
        assert!(text.starts_with("before\n") && text.ends_with("}\nafter\n"), "{name}: {text}");
        assert!(text.contains("out\n{\n"), "{name}: {text}");
        assert_eq!(ino, std::os::unix::fs::MetadataExt::ino(&fs::metadata(&log).expect("there")));
    }
    let mut command = machine.oswalk(&["exec", "--report", "/dev/fd/0", "touch"]);
    command.arg(machine.path("ran")).stdin(Stdio::null());
    refuses(&machine, &mut command, 125, &["open for reading only", "nothing was run"]);
    let mut command = machine.oswalk(&["exec", "--report", "/dev/fd/777", "touch"]);
    command.arg(machine.path("ran"));
    refuses(&machine, &mut command, 125, &["/dev/fd/777", "Bad file descriptor"]);
}
