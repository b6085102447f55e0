//! Runs `oswalk` as a process, with a fake agent behind the door.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use worknode::door::{HEADER_BYTES, Header, Kind};
use worknode::id::SessionId;
use worknode::page::{GATE_OPEN, PageContents};
use worknode::policy::Verdict;
use worknode::reason::Reason;
use worknode::report::{Report, Totals};
use worknode::request::{Action, Reply, Request, SessionOptions, Settings, Status};
use worknode::tally;

/// The two ways to run a command: `oswalk` becomes it, or waits for it.
const WAYS: [&[&str]; 2] = [&["exec"], &["exec", "--summary"]];

/// A state directory, and a library directory with a stub that only prints that it was called.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let machine = Self { dir };
        fs::create_dir(machine.path("state")).expect("mkdir");
        fs::create_dir(machine.path("lib")).expect("mkdir");
        fs::write(machine.path("lib/liboswalk_preload.so"), "").expect("writes");
        machine.script("lib/oswalk-stub", "echo walk $OSWALK_WALK $OSWALK_PAGE \"$@\"");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, body: &str) {
        let file = self.path(name);
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).expect("writes");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
    }

    fn oswalk(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oswalk"));
        command
            .args(arguments)
            .env("OSWALK_STATE", self.path("state"))
            .env("OSWALK_LIBDIR", self.path("lib"))
            .env("HOME", self.dir.path())
            .env_remove("OSWALK_POLICY")
            .env_remove("XDG_CONFIG_HOME");
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.oswalk(arguments).output().expect("oswalk starts")
    }

    /// Serves one connection; returns the requests that arrived.
    fn agent(&self) -> thread::JoinHandle<Vec<Request>> {
        let listener = UnixListener::bind(self.path("state/door")).expect("binds");
        let page_path = self.path("page");
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut requests = Vec::new();
            while let Some(request) = read_request(&mut stream) {
                let reply = match &request {
                    Request::OpenSession(options) => open(options, &page_path),
                    Request::CloseSession => Reply::Report(Report {
                        totals: Totals { walks: 7, ..Totals::default() },
                        ..Report::default()
                    }),
                    Request::Status => Reply::Status(status()),
                    Request::Shutdown => Reply::Done,
                };
                requests.push(request);
                write_reply(&mut stream, &reply);
            }
            requests
        })
    }
}

fn status() -> Status {
    Status {
        node: "me".parse().expect("a sound name"),
        version: "0.0.1".to_owned(),
        pid: u32::MAX,
        listen: "here".to_owned(),
        broker: "redis://b/".to_owned(),
        broker_up: false,
        settings: Settings::default(),
        sessions: 0,
        fuse: worknode::request::FuseCounts::default(),
        other_mounts: false,
        nodes: Vec::new(),
    }
}

fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = Header::decode(head).expect("a frame");
    assert_eq!(header.kind, Kind::Request);
    let mut body = vec![0; usize::try_from(header.payload_bytes).expect("small")];
    stream.read_exact(&mut body).expect("the payload");
    Some(serde_json::from_slice(&body).expect("a request"))
}

fn write_reply(stream: &mut UnixStream, reply: &Reply) {
    let body = serde_json::to_vec(reply).expect("JSON");
    let payload_bytes = u32::try_from(body.len()).expect("small");
    let header = Header { kind: Kind::Request, fd: 0, payload_bytes };
    stream.write_all(&[header.encode().as_slice(), &body].concat()).expect("writes");
}

fn open(options: &SessionOptions, page_path: &Path) -> Reply {
    assert_eq!(options.version, env!("CARGO_PKG_VERSION"));
    let tally_bytes = tally::WORDS * 8;
    let mut page = PageContents {
        session: 1,
        options: 0,
        gate: GATE_OPEN,
        page_path: page_path.as_os_str().as_bytes(),
        door_path: b"/door",
        stub_path: &options.stub,
        preload_path: &options.preload,
        rules: vec![
            (b"sh".to_vec(), Verdict::Stay(Reason::Shell)),
            (b"pkg-config".to_vec(), Verdict::Stay(Reason::Rule)),
        ],
        tally_bytes: u32::try_from(tally_bytes).expect("small"),
    }
    .encode();
    page.resize(page.len() + tally_bytes, 0);
    fs::write(page_path, page).expect("writes");
    let page = page_path.as_os_str().as_bytes().to_vec();
    Reply::Session {
        session: SessionId(1),
        page,
        becomes: options.becomes,
        notice: notice(options),
    }
}

/// The fake agent's notice if a node was named.
fn notice(options: &SessionOptions) -> Option<String> {
    options.on.as_ref().map(|node| format!("{node} is unreachable"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn without_an_agent_the_command_runs_here() {
    let machine = Machine::new();
    let output = machine.run(&["exec", "sh", "-c", "echo out; echo page=$OSWALK_PAGE; exit 7"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(7), "out\npage=\n"));
    let door = machine.path("state/door");
    assert_eq!(stderr(&output), format!("oswalk: no agent at {}; running here\n", door.display()));

    let output = machine.run(&["exec", "--no-fallback", "sh", "-c", "echo out"]);
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(125), ""));
    assert!(stderr(&output).ends_with("hint: start it with 'oswalk up'\n"), "{}", stderr(&output));
}

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
fn a_word_that_is_no_command_gets_a_hint() {
    let machine = Machine::new();
    let ran = machine.path("ran");
    let touch = format!("touch {}", ran.display());
    for (arguments, status, words) in [
        (&["touch", ran.to_str().expect("UTF-8")][..], 125, "did you mean 'oswalk exec touch /"),
        (&["exec", &touch], 127, "hint: give a command and its arguments as separate words"),
        (&["exec", "FOO=1", "touch", "x"], 127, "oswalk exec env FOO=1"),
    ] {
        refuses(&machine, &mut machine.oswalk(arguments), status, &[words]);
    }
}

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
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("around_a_command", text.trim_end()));
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

/// Runs a command that must fail with this status and these words, and must not create the file `ran`.
#[track_caller]
fn refuses(machine: &Machine, command: &mut Command, status: i32, words: &[&str]) {
    let output = command.output().expect("oswalk starts");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!machine.path("ran").exists(), "the command has run");
}

#[test]
fn a_mistyped_option_is_no_command() {
    let machine = Machine::new();
    let ran = machine.path("ran");
    let ran = ran.to_str().expect("UTF-8");
    for (option, words) in [
        ("--sumary", "'--summary'"),
        ("--no-fallbck", "'--no-fallback'"),
        ("-j8", "'-j'"),
        ("-", "'-'"),
    ] {
        refuses(
            &machine,
            &mut machine.oswalk(&["exec", option, "touch", ran]),
            if option == "-" { 127 } else { 125 },
            &[words],
        );
    }
    machine.script("lib/--sumary", "echo \"$@\"");
    let path = format!("{}:/usr/bin:/bin", machine.path("lib").display());
    let output = machine.oswalk(&["exec", "--", "--sumary", "-x"]).env("PATH", path).output();
    assert_eq!(stdout(&output.expect("oswalk starts")), "-x\n");
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
fn words_that_are_not_utf8_are_refused_or_passed_on() {
    let machine = Machine::new();
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    for option in ["--walk", "--on"] {
        let mut command = machine.oswalk(&["exec", option]);
        command.arg(odd).arg("touch").arg(machine.path("ran"));
        refuses(&machine, &mut command, 125, &["invalid UTF-8"]);
    }
    let mut command = machine.oswalk(&["exec", "printf", "%s"]);
    assert_eq!(command.arg(odd).output().expect("oswalk starts").stdout, b"\xff");
    let mut empty = machine.oswalk(&["status"]);
    empty
        .env("OSWALK_STATE", "")
        .env("OSWALK_BROKER", "")
        .env("XDG_STATE_HOME", machine.path("none"));
    refuses(&machine, &mut empty, 125, &["no agent at"]);
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

/// Needs root, to become another user.
#[test]
fn an_ordinary_user_is_told_what_is_possible() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let machine = Machine::new();
    // Copied by another process: a child forked here meanwhile would keep the copy open for writing, and
    // it could not be executed.
    let mut copy = Command::new("cp");
    copy.arg(env!("CARGO_BIN_EXE_oswalk")).arg(machine.path("lib/oswalk"));
    assert!(copy.status().expect("cp starts").success());
    fs::set_permissions(machine.path(""), PermissionsExt::from_mode(0o755)).expect("chmod");
    let run = |arguments: &[&str]| {
        let like = machine.oswalk(arguments);
        let mut command = Command::new(machine.path("lib/oswalk"));
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command.output().expect("oswalk starts");
        (output.status.code(), stdout(&output) + &stderr(&output))
    };
    let (status, said) = run(&["up"]);
    assert_eq!(status, Some(125));
    assert!(said.contains("an agent needs root"), "{said}");
    let (status, said) = run(&["doctor"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("serves only root") && !said.contains("chmod"), "{said}");
    fs::set_permissions(machine.path("state"), PermissionsExt::from_mode(0o700)).expect("chmod");
    for arguments in [&["status"][..], &["exec", "--no-fallback", "true"], &["down"]] {
        let (status, said) = run(arguments);
        assert_eq!(status, Some(125), "{arguments:?}: {said}");
        assert!(said.contains("serves another user"), "{said}");
    }
    assert_eq!(run(&["exec", "sh", "-c", "exit 4"]).0, Some(4));
}

#[test]
fn a_bad_policy_file_is_an_error() {
    let machine = Machine::new();
    fs::write(machine.path("p.toml"), "stay = ['a']\nstya = ['b']\n").expect("writes");
    let policy = machine.path("p.toml");
    let output = machine.run(&["exec", "--policy", policy.to_str().expect("UTF-8"), "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(stderr(&output).contains("p.toml: line 2, key 'stya': unknown field"));
    fs::write(machine.path("p.toml"), "stay = ['[a-']\n").expect("writes");
    let output = machine.run(&["exec", "--policy", policy.to_str().expect("UTF-8"), "true"]);
    assert_eq!(output.status.code(), Some(125));
    assert!(
        stderr(&output).contains("key 'stay', pattern '[a-': '[' has no matching ']'"),
        "{}",
        stderr(&output)
    );
    fs::write(machine.path("p.toml"), "hide = ['secret']\n").expect("writes");
    let mut command =
        machine.oswalk(&["exec", "--policy", policy.to_str().expect("UTF-8"), "touch"]);
    command.arg(machine.path("ran"));
    refuses(
        &machine,
        &mut command,
        125,
        &["p.toml", "key 'hide', pattern 'secret'", "begin it with"],
    );
    for path in ["/dev/zero", "/"] {
        let output = machine.run(&["exec", "--policy", path, "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(stderr(&output).contains("it is not a regular file"), "{}", stderr(&output));
    }
}

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
