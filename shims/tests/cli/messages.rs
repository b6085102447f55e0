//! What `oswalk exec` itself says around a command.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Output;
use std::thread;

use worknode::request::Request;

use crate::machine::{Machine, open, read_request, stderr, write_reply};

/// What `oswalk exec` itself says around a command.
#[test]
fn messages_around_a_command() {
    let machine = Machine::new();
    let mut text = String::new();
    let mut add = |situation: &str, output: &Output| {
        let said = stderr(output).replace(&*machine.dir.path().to_string_lossy(), "$DIR");
        // The loader says that the library of these tests is empty.
        let lines: Vec<_> = said.lines().filter(|line| !line.starts_with("ERROR: ld.so")).collect();
        let status = output.status.code().expect("an exit");
        text += &format!("--- {situation}\n{}\n[exit {status}]\n\n", lines.join("\n"));
    };
    add("without an agent", &machine.run(&["exec", "sh", "-c", "exit 7"]));

    let agent = machine.agent();
    add("--on a node that takes no walks", &machine.run(&["exec", "--on", "n1", "sh", "-c", ":"]));
    agent.join().expect("the agent ends");

    fs::remove_file(machine.path("state/door")).expect("unlinks");
    let agent = machine.agent();
    let report = machine.path("reports/report.json");
    fs::create_dir(machine.path("reports")).expect("mkdir");
    let script = format!("rm -r {}", machine.path("reports").display());
    let mut command = machine.oswalk(&["exec", "--report"]);
    let output = command.arg(&report).args(["sh", "-c", &script]).output();
    add("--report to a directory that vanishes", &output.expect("oswalk starts"));
    agent.join().expect("the agent ends");

    fs::remove_file(machine.path("state/door")).expect("unlinks");
    let listener = UnixListener::bind(machine.path("state/door")).expect("binds");
    let page_path = machine.path("page");
    let agent = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let Some(Request::OpenSession(options)) = read_request(&mut stream) else { panic!() };
        write_reply(&mut stream, &open(&options, &page_path));
    });
    let report = machine.path("report.json");
    let mut command = machine.oswalk(&["exec", "--report"]);
    let output = command.arg(&report).args(["sh", "-c", ":"]).output();
    add("an agent that dies during the session", &output.expect("oswalk starts"));
    agent.join().expect("the agent ends");

    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("around_a_command", text.trim_end()));
}
