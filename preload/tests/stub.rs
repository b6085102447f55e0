//! The stub against a fake agent: what it says in its hello, what it carries, and how it exits.
mod common;

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use common::{Recipe, Session, programs, shims};
use worknode::door::{FD_ENTRY_BYTES, FdEntry, HEADER_BYTES, Header, HelloHead, Kind, VERSION};
use worknode::page::NO_FALLBACK;
use worknode::reason::Reason;

/// A stub that is silent for this long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// An agent for one walk.
struct Agent {
    session: Session,
    listener: UnixListener,
}

/// The stub's hello, decoded.
#[derive(Debug)]
struct Hello {
    head: HelloHead,
    fds: Vec<FdEntry>,
    path: Vec<u8>,
    cwd: Vec<u8>,
    arguments: Vec<Vec<u8>>,
    environment: Vec<Vec<u8>>,
}

impl Agent {
    fn new(options: u32) -> Self {
        let session =
            Session::new(&Recipe { options, stub: shims().stub.clone(), ..Recipe::default() });
        let listener = UnixListener::bind(&session.door).expect("the door opens");
        Self { session, listener }
    }

    /// Returns the command that the preload library executes in the place of `program`.
    fn stub(&self, program: &Path) -> Command {
        let mut command = self.session.command(&shims().stub);
        command.env("OSWALK_WALK", program).arg0("zero").args(["one", "t w o"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self) -> (Child, Hello, UnixStream) {
        self.start_command(&mut self.stub(&programs().path("walker")))
    }

    fn start_command(&self, command: &mut Command) -> (Child, Hello, UnixStream) {
        let child = command.spawn().expect("the stub starts");
        let mut door = self.listener.accept().expect("the stub knocks").0;
        door.set_read_timeout(Some(SILENCE_MAX)).expect("a socket");
        let (header, payload) = receive(&mut door).expect("a hello");
        assert_eq!(header.kind, Kind::Hello);
        (child, Hello::decode(&payload), door)
    }
}

impl Hello {
    fn decode(payload: &[u8]) -> Self {
        let (head, mut rest) = HelloHead::decode(payload).expect("a head");
        let mut take = |bytes: u32| {
            let (part, behind) = rest.split_at(usize::try_from(bytes).expect("a size"));
            rest = behind;
            part.to_vec()
        };
        let strings = |block: Vec<u8>| -> Vec<Vec<u8>> {
            let block = block.strip_suffix(b"\0").map(<[u8]>::to_vec).unwrap_or_default();
            block.split(|&byte| byte == 0).map(<[u8]>::to_vec).collect()
        };
        let entry_bytes = u32::try_from(FD_ENTRY_BYTES).expect("a size");
        let fds = (0..head.fds)
            .map(|_| FdEntry::decode(&take(entry_bytes)).expect("an entry").0)
            .collect();
        let (path, cwd) = (take(head.path_bytes), take(head.cwd_bytes));
        let arguments = strings(take(head.argv_bytes));
        let environment = strings(take(head.env_bytes));
        assert!(rest.is_empty());
        Self { head, fds, path, cwd, arguments, environment }
    }
}

fn receive(door: &mut UnixStream) -> Option<(Header, Vec<u8>)> {
    let mut header = [0; HEADER_BYTES];
    door.read_exact(&mut header).ok()?;
    let header = Header::decode(header).expect("a known kind");
    let mut payload = vec![0; usize::try_from(header.payload_bytes).expect("a size")];
    door.read_exact(&mut payload).expect("a whole frame");
    Some((header, payload))
}

fn send(door: &mut UnixStream, kind: Kind, fd: u16, payload: &[u8]) {
    door.write_all(&frame(kind, fd, payload)).expect("the stub listens");
}

fn frame(kind: Kind, fd: u16, payload: &[u8]) -> Vec<u8> {
    let payload_bytes = u32::try_from(payload.len()).expect("a size");
    [&Header { kind, fd, payload_bytes }.encode(), payload].concat()
}

fn exit(door: &mut UnixStream, status: i32) {
    send(door, Kind::Exit, 0, &status.to_le_bytes());
}

fn finish(child: Child) -> Output {
    child.wait_with_output().expect("the stub ends")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn kill(child: &Child, signal: &str) {
    let status = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
}

#[test]
fn its_hello_describes_the_process() {
    let agent = Agent::new(0);
    let mut shell = agent.session.command(Path::new("/bin/sh"));
    let file = agent.session.directory.path().join("file");
    std::fs::write(&file, "0123456789").expect("a file");
    let script = format!(
        "trap '' USR1; umask 027; ulimit -n 512; exec 5<{} 7>/dev/null; \
         read -r _ <&5; cd /usr; OSWALK_WALK=/usr/bin/gcc X=$(printf '\\377') exec {} a 'b c' ''",
        file.display(),
        shims().stub.display()
    );
    let foreign = programs().path("foreign.so");
    let preloads = format!("{}:{}", shims().preload.display(), foreign.display());
    // The shell runs without the preload library: this test is about the stub alone.
    shell.env_remove("LD_PRELOAD").arg("-c");
    shell.arg(format!("export LD_PRELOAD={preloads}; {script}"));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, hello, mut door) = agent.start_command(&mut shell);
    exit(&mut door, 0);
    let output = finish(child);

    assert_eq!(hello.head.version, VERSION);
    assert_eq!(hello.head.session, 0xfeed_0000_0000_0007);
    assert_eq!(hello.head.umask, 0o027);
    assert_eq!(hello.head.rlimits[7], (512, 512));
    assert_eq!(hello.head.ignored & 1 << 9, 1 << 9);
    assert_eq!(hello.head.blocked, 0);
    assert_eq!((text(&hello.path), text(&hello.cwd)), ("/usr/bin/gcc".into(), "/usr".into()));
    assert_eq!(hello.arguments[1..], [b"a".to_vec(), b"b c".to_vec(), vec![]]);
    assert!(hello.environment.contains(&b"X=\xff".to_vec()));
    assert!(hello.environment.contains(&format!("LD_PRELOAD={}", foreign.display()).into_bytes()));
    assert!(!hello.environment.iter().any(|entry| entry.starts_with(b"OSWALK_")));
    // The test's own parent may have left further descriptors open.
    let fd = |number| hello.fds.iter().find(|entry| entry.fd == number).expect("it is open");
    assert_eq!((fd(0).rdev, fd(0).terminal), (0x103, 0));
    assert_eq!((fd(1).offset, fd(2).offset), (-1, -1));
    assert_eq!((fd(5).offset, fd(5).mode), (10, 0o100_644));
    assert_eq!(fd(7).flags & 3, 1);
    assert!(hello.fds.iter().all(|entry| ![3, 4, 6].contains(&entry.fd)));
    assert!(output.status.success() && output.stderr.is_empty());
}

#[test]
fn carries_the_streams() {
    let agent = Agent::new(0);
    let (mut child, hello, mut door) = agent.start();
    assert_eq!(hello.arguments, [b"zero".to_vec(), b"one".to_vec(), b"t w o".to_vec()]);
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"hello stub").expect("the pipe takes it");
    send(&mut door, Kind::Want, 0, &5_u32.to_le_bytes());
    let (header, payload) = receive(&mut door).expect("data");
    assert_eq!((header.kind, header.fd, payload.as_slice()), (Kind::Data, 0, b"hello".as_slice()));
    // Input that the walk has not taken is still in the pipe.
    send(&mut door, Kind::Took, 0, &4_u32.to_le_bytes());
    send(&mut door, Kind::Want, 0, &100_000_u32.to_le_bytes());
    assert_eq!(receive(&mut door).expect("data").1, b"o stub");
    send(&mut door, Kind::Rewind, 0, b"");
    assert_eq!(receive(&mut door).expect("an answer").0.kind, Kind::Rewind);
    send(&mut door, Kind::Want, 0, &0_u32.to_le_bytes());
    assert_eq!(receive(&mut door).expect("there is input").0.kind, Kind::Ready);
    send(&mut door, Kind::Want, 0, &100_u32.to_le_bytes());
    assert_eq!(receive(&mut door).expect("data").1, b"o stub");
    send(&mut door, Kind::Took, 0, &6_u32.to_le_bytes());
    drop(stdin);
    send(&mut door, Kind::Want, 0, &100_u32.to_le_bytes());
    let header = receive(&mut door).expect("the end").0;
    assert_eq!((header.kind, header.fd), (Kind::Eof, 0));

    send(&mut door, Kind::Data, 1, &[b'o'; 16 * 1024]);
    send(&mut door, Kind::Data, 2, b"e");
    for (fd, bytes) in [(1, 16 * 1024_u32), (2, 1)] {
        let (header, payload) = receive(&mut door).expect("written");
        assert_eq!((header.kind, header.fd), (Kind::Written, fd));
        assert_eq!(payload, bytes.to_le_bytes());
    }
    exit(&mut door, 3 << 8);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(3));
    assert_eq!((output.stdout.len(), output.stderr.as_slice()), (16 * 1024, b"e".as_slice()));
}

#[test]
fn acknowledges_what_it_wrote_before_a_rewind() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    // In one write, so that the stub may acknowledge both together.
    let all = [(Kind::Data, b"ab".as_slice()), (Kind::Data, b"c"), (Kind::Rewind, b"")];
    let all: Vec<u8> = all.iter().flat_map(|&(kind, payload)| frame(kind, 1, payload)).collect();
    door.write_all(&all).expect("the stub listens");
    let mut written = 0;
    let header = loop {
        let (header, payload) = receive(&mut door).expect("an answer");
        if header.kind != Kind::Written {
            break header;
        }
        written += u32::from_le_bytes(payload.try_into().expect("a number"));
    };
    assert_eq!((header.kind, written), (Kind::Rewind, 3));
    exit(&mut door, 0);
    assert_eq!(finish(child).stdout, b"abc");
}

#[test]
fn closes_and_breaks() {
    let agent = Agent::new(0);
    let (mut child, _, mut door) = agent.start();
    let mut stdout = child.stdout.take().expect("a pipe");
    drop(child.stderr.take());
    send(&mut door, Kind::Close, 1, b"");
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).expect("the writer closed it");
    // A process forked by another test may hold the pipe's other end until it executes.
    loop {
        send(&mut door, Kind::Data, 2, b"nobody reads this");
        let header = receive(&mut door).expect("broken").0;
        assert_eq!(header.fd, 2);
        if header.kind != Kind::Written {
            assert_eq!(header.kind, Kind::Broken);
            break;
        }
    }
    exit(&mut door, 13);
    assert_eq!(finish(child).status.signal(), Some(13));
}

#[test]
fn leaves_as_the_walk_left() {
    let agent = Agent::new(0);
    for (status, code, signal, core) in [
        (0, Some(0), None, false),
        (0xff00, Some(255), None, false),
        (9, None, Some(9), false),
        (11, None, Some(11), false),
        (15, None, Some(15), false),
        (2, None, Some(2), false),
        (34, None, Some(34), false),
    ] {
        let (child, _, mut door) = agent.start();
        exit(&mut door, status);
        let status = finish(child).status;
        assert_eq!((status.code(), status.signal(), status.core_dumped()), (code, signal, core));
    }
}

#[test]
fn forwards_signals() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    for (name, number) in [("INT", 2), ("USR1", 10), ("TERM", 15), ("ALRM", 14)] {
        kill(&child, name);
        let (header, payload) = receive(&mut door).expect("a signal");
        let words = [u32::to_le_bytes(number), 0_u32.to_le_bytes()].concat();
        assert_eq!((header.kind, payload), (Kind::Signal, words));
    }
    exit(&mut door, 2);
    assert_eq!(finish(child).status.signal(), Some(2));
}

#[test]
fn stops_as_the_walk_has_stopped() {
    let agent = Agent::new(0);
    let mut command = agent.stub(&programs().path("walker"));
    // Terminal stop signals do not stop an orphaned process group.
    command.process_group(0);
    let (child, _, mut door) = agent.start_command(&mut command);
    kill(&child, "TSTP");
    let (header, payload) = receive(&mut door).expect("a signal");
    assert_eq!((header.kind, payload[0]), (Kind::Signal, 20));
    send(&mut door, Kind::Stopped, 0, &20_u32.to_le_bytes());
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    let stopped = nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED));
    let signal = nix::sys::signal::Signal::SIGTSTP;
    assert_eq!(stopped, Ok(nix::sys::wait::WaitStatus::Stopped(pid, signal)));
    kill(&child, "CONT");
    let (header, payload) = receive(&mut door).expect("a signal");
    assert_eq!((header.kind, payload[0]), (Kind::Signal, 18));
    exit(&mut door, 0);
    assert!(finish(child).status.success());
}

#[test]
fn forwards_signals_while_its_output_is_blocked() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    // More than a pipe holds, while nobody reads.
    for _ in 0..6 {
        send(&mut door, Kind::Data, 1, &[b'x'; 16 * 1024]);
    }
    let mut written = 0;
    while written < 4 * 16 * 1024 {
        let (header, payload) = receive(&mut door).expect("written");
        assert_eq!(header.kind, Kind::Written);
        written += u32::from_le_bytes(payload.try_into().expect("a number"));
    }
    kill(&child, "INT");
    assert_eq!(receive(&mut door).expect("a signal").0.kind, Kind::Signal);
    drop(door);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(text(&output.stderr), "oswalk: lost the agent while zero ran\n");
}

#[test]
fn is_named_as_the_program() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    let read = |name| std::fs::read(format!("/proc/{}/{name}", child.id())).expect("a process");
    assert_eq!(read("comm"), b"walker\n");
    assert_eq!(read("cmdline"), b"zero\0one\0t w o\0");
    exit(&mut door, 0);
    finish(child);
}

#[test]
fn runs_the_program_here_when_told_to() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    send(&mut door, Kind::RunHere, 0, &[Reason::NoSlot as u8, 0]);
    let record = common::Record::of(&finish(child));
    assert_eq!(record.one("who=").as_deref(), Some("native"));
    assert_eq!(record.all("arg="), [b"zero".as_slice(), b"one", b"t w o"]);
    assert_eq!(record.one("env=OSWALK_WALK="), None);
    assert!(record.one("env=LD_PRELOAD=").is_some() && record.one("env=OSWALK_PAGE=").is_some());
    assert_eq!(record.code, Some(42));
    // The agent counts this stay itself.
    assert_eq!(agent.session.tally(), []);
}

#[test]
fn runs_the_program_here_with_its_pending_signals() {
    let agent = Agent::new(0);
    let mut command = agent.stub(Path::new("/bin/sh"));
    command.arg0("sh");
    let (child, _, mut door) = agent.start_command(&mut command);
    kill(&child, "TERM");
    assert_eq!(receive(&mut door).expect("a signal").0.kind, Kind::Signal);
    send(&mut door, Kind::RunHere, 0, &[Reason::NoSlot as u8, 0]);
    assert_eq!(finish(child).status.signal(), Some(15));
}

#[test]
fn a_program_that_is_alone_keeps_the_variable_for_the_stub() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    send(&mut door, Kind::RunHere, 0, &[Reason::Alone as u8, 1]);
    let record = common::Record::of(&finish(child));
    assert_eq!(record.one("who=").as_deref(), Some("native"));
    assert!(record.one("env=OSWALK_WALK=").is_some());
}

#[test]
fn an_agent_that_dies_before_any_output() {
    let agent = Agent::new(0);
    let (child, _, door) = agent.start();
    drop(door);
    assert_eq!(common::Record::of(&finish(child)).one("who=").as_deref(), Some("native"));
    assert_eq!(agent.session.tally(), [("walker".into(), Reason::NoAgent, 1)]);

    drop(agent.listener);
    let mut stub = agent.session.command(&shims().stub);
    let output =
        stub.env("OSWALK_WALK", programs().path("walker")).output().expect("the stub runs");
    assert_eq!(common::Record::of(&output).one("who=").as_deref(), Some("native"));
    assert_eq!(agent.session.tally(), [("walker".into(), Reason::NoAgent, 2)]);
}

#[test]
fn an_agent_that_dies_after_output() {
    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    send(&mut door, Kind::Data, 1, b"out");
    receive(&mut door).expect("written");
    drop(door);
    let output = finish(child);
    assert_eq!(output.status.code(), Some(125));
    assert_eq!(output.stdout, b"out");
}

#[test]
fn a_session_without_fallback() {
    let agent = Agent::new(NO_FALLBACK);
    let (child, _, mut door) = agent.start();
    send(&mut door, Kind::Refused, 0, b"no node has room");
    let output = finish(child);
    assert_eq!(
        (output.status.code(), text(&output.stderr)),
        (Some(125), "oswalk: no node has room\n".into())
    );

    let (child, _, door) = agent.start();
    drop(door);
    let output = finish(child);
    let expected = "oswalk: walker cannot walk: no-agent\n";
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(125), expected));
}

#[test]
fn descriptors_that_cannot_be_carried() {
    let agent = Agent::new(0);
    // The shell opens a directory, which the stub inherits.
    let mut shell = Command::new("/bin/sh");
    let script = format!(
        "export OSWALK_PAGE={} OSWALK_WALK={}; exec {} 5</usr",
        agent.session.page.display(),
        programs().path("walker").display(),
        shims().stub.display()
    );
    let output = shell.args(["-c", &script]).output().expect("the shell runs");
    assert_eq!(common::Record::of(&output).one("who=").as_deref(), Some("native"));
    assert_eq!(agent.session.tally(), [("walker".into(), Reason::Descriptor, 1)]);
}

#[test]
fn sockets_as_standard_streams_are_carried() {
    let agent = Agent::new(0);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let mut command = agent.stub(&programs().path("walker"));
    command.stdout(OwnedFd::from(theirs));
    let (child, hello, mut door) = agent.start_command(&mut command);
    drop(command);
    assert_eq!(hello.fds[1].mode & 0o170_000, 0o140_000);
    assert!(ours.as_raw_fd() > 2);
    exit(&mut door, 0);
    assert!(finish(child).status.success());
}

#[test]
fn a_working_directory_that_is_gone() {
    let agent = Agent::new(0);
    let mut shell = Command::new("/bin/sh");
    let script = format!(
        "d=$(mktemp -d); cd $d; rmdir $d; export OSWALK_PAGE={} OSWALK_WALK={}; exec {}",
        agent.session.page.display(),
        programs().path("walker").display(),
        shims().stub.display()
    );
    let output = shell.args(["-c", &script]).output().expect("the shell runs");
    assert_eq!(common::Record::of(&output).one("who=").as_deref(), Some("native"));
    assert_eq!(agent.session.tally(), [("walker".into(), Reason::Directory, 1)]);
}

#[test]
fn without_a_session() {
    let output = Command::new(&shims().stub).env_clear().output().expect("the stub runs");
    assert_eq!(output.status.code(), Some(127));
    assert_eq!(text(&output.stderr).lines().count(), 1);

    let mut stub = Command::new(&shims().stub);
    stub.env_clear().env("OSWALK_PAGE", "/nowhere").env("OSWALK_WALK", programs().path("walker"));
    let record = common::Record::of(&stub.output().expect("the stub runs"));
    assert_eq!(record.one("who=").as_deref(), Some("native"));

    let mut stub = Command::new(&shims().stub);
    let output = stub.env_clear().env("OSWALK_WALK", "/nowhere").output().expect("the stub runs");
    assert_eq!(output.status.code(), Some(127));
}

#[test]
fn environments_of_any_size() {
    let agent = Agent::new(0);
    let mut command = agent.stub(&programs().path("walker"));
    for index in 0..10_000 {
        command.env(format!("VARIABLE_{index}"), "some value that takes its room");
    }
    let (child, hello, mut door) = agent.start_command(&mut command);
    assert_eq!(hello.environment.len(), 10_002);
    exit(&mut door, 0);
    assert!(finish(child).status.success());
}

/// Compares all messages of the stub with their snapshot. `INSTA_UPDATE=always` rewrites it: review the difference.
#[test]
fn messages() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("program");
    let mut said = String::new();
    let mut note = |situation: &str, output: Output| {
        let message = text(&output.stderr).replace(&*directory.path().to_string_lossy(), "/work");
        let status = output.status.code().expect("it exits");
        said += &format!("--- {situation}\n{message}[exit {status}]\n\n");
    };
    let alone = || {
        let mut stub = Command::new(&shims().stub);
        stub.env_clear();
        stub
    };
    let here = |path: &Path| alone().env("OSWALK_WALK", path).output().expect("the stub runs");
    note("started without a session", alone().output().expect("the stub runs"));
    note("the program is absent", here(&file));
    std::fs::write(&file, "").expect("a file");
    note("the program is not executable", here(&file));
    let circle = directory.path().join("circle");
    std::os::unix::fs::symlink(&circle, &circle).expect("a link");
    note("another error", here(&circle));

    let agent = Agent::new(0);
    let (child, _, mut door) = agent.start();
    send(&mut door, Kind::Data, 1, b"out");
    assert_eq!(receive(&mut door).expect("it was written").0.kind, Kind::Written);
    drop(door);
    note("the agent dies after output", finish(child));

    let agent = Agent::new(NO_FALLBACK);
    let (child, _, door) = agent.start();
    drop(door);
    note("the agent dies, without fallback", finish(child));

    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!("stub", said.trim_end()));
}
