//! What runs: the command in the place of `oswalk`, a stub, or nothing.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;

use nix::sys::signal::Signal;
use worknode::reason::Reason;
use worknode::report::Report;
use worknode::request::{Action, Request};
use worknode::tally;

use crate::machine::{Machine, WAYS, refuses, stderr, stdout};

#[test]
fn without_an_agent_the_command_runs_here() {
    let machine = Machine::new();
    let output = machine.run(&["exec", "sh", "-c", "echo out; echo page=$OSWALK_PAGE; exit 7"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "out\npage=\n"));
    let door = machine.path("state/door");
    assert_eq!(stderr(&output), format!("oswalk: no agent at {}; running here\n", door.display()));

    let output = machine.run(&["exec", "--no-fallback", "sh", "-c", "echo out"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(125), ""));
    assert!(stderr(&output).contains("hint: start it with 'oswalk up'"), "{}", stderr(&output));
}

#[test]
fn without_a_report_it_becomes_the_command() {
    let machine = Machine::new();
    let mut child = machine
        .oswalk(&["exec", "sh", "-c", "echo $$"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("oswalk starts");
    let mut said = String::new();
    child.stdout.take().expect("piped").read_to_string(&mut said).expect("reads");
    assert_eq!(said, format!("{}\n", child.id()));
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_command_that_stays_runs_in_the_session_and_is_counted() {
    let machine = Machine::new();
    let agent = machine.agent();
    fs::create_dir_all(machine.path(".config/oswalk")).expect("mkdir");
    fs::write(machine.path(".config/oswalk/policy.toml"), "walk = ['tool']\n").expect("writes");
    let report = machine.path("report.json");
    let output = machine
        .oswalk(&["exec", "--walk", "a*", "--stay", "b", "--on", "n1", "--summary", "--report"])
        .arg(&report)
        .args(["sh", "-c", "echo $OSWALK_PAGE; echo $LD_PRELOAD"])
        .output()
        .expect("oswalk starts");
    let page = machine.path("page");
    let preload = machine.path("lib/liboswalk_preload.so");
    assert_eq!(stdout(&output), format!("{}\n{}\n", page.display(), preload.display()));
    assert!(stderr(&output).contains("oswalk: 7 walked to 0 nodes"), "{}", stderr(&output));
    let report = fs::read(report).expect("the report");
    let report: Report = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report.totals.walks, 7);

    let file = fs::read(page).expect("the page");
    let counts = tally::read(&file[file.len() - tally::WORDS * 8..]);
    assert_eq!(counts.len(), 1);
    assert_eq!(
        (counts[0].name.as_slice(), counts[0].reason),
        (b"sh".as_slice(), Some(Reason::Shell))
    );

    let requests = agent.join().expect("the agent ends");
    let [Request::OpenSession(options), Request::CloseSession] = &requests[..] else {
        panic!("{requests:?}")
    };
    let rules: Vec<_> = options.rules.iter().map(|r| (r.pattern.as_str(), r.action)).collect();
    assert_eq!(rules, [("b", Action::Stay), ("a*", Action::Walk), ("tool", Action::Walk)]);
    assert_eq!(options.on.as_ref().expect("given").as_str(), "n1");
}

#[test]
fn a_command_that_walks_becomes_the_stub() {
    let machine = Machine::new();
    let agent = machine.agent();
    let output = machine.run(&["exec", "--", "/bin/echo", "a b", "-x"]);
    let page = machine.path("page");
    assert_eq!(stdout(&output), format!("walk /bin/echo {} a b -x\n", page.display()));
    agent.join().expect("the agent ends");
}

#[test]
fn a_node_that_was_named_and_does_not_take_walks_is_told() {
    for (command, told) in [("sh", true), ("gcc", true), ("pkg-config", false)] {
        let machine = Machine::new();
        let agent = machine.agent();
        machine.script("lib/gcc", "");
        machine.script("lib/pkg-config", "");
        let path = format!("{}:/usr/bin:/bin", machine.path("lib").display());
        let mut oswalk =
            machine.oswalk(&["exec", "--on", "n1", "--stay", "pkg-*", command, "-c", ":"]);
        let output = oswalk.env("PATH", path).output().expect("oswalk starts");
        let said = stderr(&output).contains("oswalk: nothing walks: n1 is unreachable\n");
        assert_eq!((said, output.status.code()), (told, Some(0)), "{command}");
        agent.join().expect("the agent ends");
    }
}

#[test]
fn a_library_that_the_loader_cannot_name_is_not_used() {
    let machine = Machine::new();
    let lib = machine.path("a lib");
    fs::rename(machine.path("lib"), &lib).expect("renames");
    let output = machine
        .oswalk(&["exec", "sh", "-c", "echo $LD_PRELOAD"])
        .env("OSWALK_LIBDIR", &lib)
        .output();
    let output = output.expect("oswalk starts");
    assert_eq!(stdout(&output), "\n");
    assert!(stderr(&output).contains("LD_PRELOAD cannot name"), "{}", stderr(&output));
}

#[test]
fn exit_statuses_are_those_of_a_shell() {
    let machine = Machine::new();
    fs::write(machine.path("plain"), "").expect("writes");
    let plain = machine.path("plain");
    let plain = plain.to_str().expect("UTF-8");
    for exec in WAYS {
        let run = |command: &[&str]| machine.run(&[exec, command].concat()).status;
        for (command, status) in [("no-such-command", 127), ("/no/such/file", 127), (plain, 126)] {
            assert_eq!(run(&[command]).code(), Some(status), "{exec:?} {command}");
        }
        assert_eq!(run(&[]).code(), Some(125), "{exec:?}");
        for (name, signal) in [("SEGV", Signal::SIGSEGV), ("INT", Signal::SIGINT)] {
            let killed = run(&["sh", "-c", &format!("kill -{name} $$")]);
            assert_eq!(killed.signal(), Some(signal as i32), "{exec:?}");
        }
    }
}

/// Needs root, to become another user.
#[test]
fn a_command_runs_whatever_the_home_is() {
    let machine = Machine::new();
    let (closed, file) = (machine.path("closed"), machine.path("file"));
    fs::create_dir(&closed).expect("mkdir");
    fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).expect("chmod");
    fs::write(&file, "").expect("writes");
    let long = machine.path(&"x".repeat(300));
    for home in [None, Some(Path::new("")), Some(&closed), Some(&file), Some(&long)] {
        let command = machine.oswalk_of_nobody(&["exec", "sh", "-c", "exit 7"]);
        let Some(mut command) = command else { return };
        command.env_remove("OSWALK_STATE").env_remove("HOME");
        command.envs(home.map(|home| ("HOME", home)));
        let output = command.output().expect("oswalk starts");
        assert_eq!(output.status.code(), Some(7), "{home:?}: {}", stderr(&output));
    }
    // A file that is named has to exist.
    let mut command = machine.oswalk_of_nobody(&["exec", "true"]).expect("this is root");
    command.env("OSWALK_POLICY", closed.join("policy.toml"));
    refuses(&machine, &mut command, 125, &["failed to read policy file"]);
}
