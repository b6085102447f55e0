//! A machine to run `oswalk` on: a state directory, and a fake agent behind its door.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use tempfile::TempDir;
use worknode::capability::{Holder, Rights, Token};
use worknode::door::{HEADER_BYTES, Header, Kind};
use worknode::id::SessionId;
use worknode::key::SecretKey;
use worknode::page::{GATE_OPEN, PageContents};
use worknode::policy::Verdict;
use worknode::reason::Reason;
use worknode::report::{Report, Totals};
use worknode::request::{
    Explanation, MemberStatus, NodeCondition, Reply, Request, SessionOptions, Settings, Status,
    VariableFate, VolumeReply,
};
use worknode::tally;

/// The two ways to run a command: `oswalk` becomes it, or waits for it.
pub(crate) const WAYS: [&[&str]; 2] = [&["exec"], &["exec", "--summary"]];

/// A state directory, and a library directory with a stub that only prints that it was called.
pub(crate) struct Machine {
    pub(crate) dir: TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let machine = Self { dir };
        fs::create_dir(machine.path("state")).expect("mkdir");
        fs::create_dir(machine.path("lib")).expect("mkdir");
        fs::write(machine.path("lib/liboswalk_preload.so"), "").expect("writes");
        machine.script("lib/oswalk-stub", "echo walk $OSWALK_WALK $OSWALK_PAGE \"$@\"");
        machine
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn script(&self, name: &str, body: &str) {
        let file = self.path(name);
        fs::write(&file, format!("#!/bin/sh\n{body}\n")).expect("writes");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
    }

    pub(crate) fn oswalk(&self, arguments: &[&str]) -> Command {
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

    /// Returns the command of a user who owns nothing, if this one may become another.
    pub(crate) fn oswalk_of_nobody(&self, arguments: &[&str]) -> Option<Command> {
        const NOBODY: u32 = 65534;
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        let own = self.path("lib/oswalk");
        if !own.exists() {
            // Copied by another process: a child forked here meanwhile would keep the copy open for writing, and
            // it could not be executed.
            let mut copy = Command::new("cp");
            copy.arg(env!("CARGO_BIN_EXE_oswalk")).arg(&own);
            assert!(copy.status().expect("cp starts").success());
            fs::set_permissions(self.path(""), PermissionsExt::from_mode(0o755)).expect("chmod");
        }
        let like = self.oswalk(arguments);
        let mut command = Command::new(own);
        command.args(arguments).uid(NOBODY).gid(NOBODY).current_dir("/");
        command.envs(like.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Some(command)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.oswalk(arguments).output().expect("oswalk starts")
    }

    /// Serves one connection; returns the requests that arrived.
    pub(crate) fn agent(&self) -> thread::JoinHandle<Vec<Request>> {
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
                    Request::Shutdown | Request::Mount { .. } | Request::Unmount { .. } => {
                        Reply::Done
                    }
                    Request::Volume(_) => Reply::Volume(VolumeReply::Done),
                    Request::Explain(_) => Reply::Explained(explanation()),
                    Request::Invite { .. }
                    | Request::Invites
                    | Request::Withdraw(_)
                    | Request::Members
                    | Request::Remove(_)
                    | Request::Trust(_)
                    | Request::Drain { .. }
                    | Request::Rotate { .. } => of_cluster(&request),
                    Request::Token => Reply::Token(token()),
                    Request::Revoke(token) => Reply::Revoked(token.peek().expect("a token").id()),
                    Request::RevokeId(id) => Reply::Revoked(*id),
                };
                requests.push(request);
                write_reply(&mut stream, &reply);
            }
            requests
        })
    }
}

fn explanation() -> Explanation {
    let variable = |name: &str, fate| (name.to_owned(), fate);
    Explanation {
        variables: vec![
            variable("PATH", VariableFate::Travels),
            variable("EDITOR", VariableFate::NotForCompilers),
        ],
        hidden: vec!["/root/.netrc".to_owned()],
    }
}

fn of_cluster(request: &Request) -> Reply {
    match request {
        Request::Invite { nodes, seconds } => {
            Reply::JoinLine(format!("oswalk://hub:7700/for-{nodes}-nodes-and-{seconds}-s"))
        }
        Request::Invites => Reply::Invites(Vec::new()),
        Request::Members => Reply::Members(
            [("hub", true), ("laptop", false)]
                .map(|(node, may_invite)| MemberStatus {
                    node: node.parse().expect("a sound name"),
                    key: "k".repeat(52),
                    may_invite,
                    state: may_invite.then_some(NodeCondition::Alive),
                })
                .into(),
        ),
        _ => Reply::Done,
    }
}

/// Returns the token of a user of the agent.
pub(crate) fn token() -> Token {
    let holder = Holder {
        node: "me".parse().expect("a sound name"),
        uid: 1000,
        user: Some("alice".to_owned()),
        minted_s: 1,
        rights: Rights::SESSION,
    };
    Token::mint(&holder, &SecretKey::from_seed(&[1; 32]), &[2; 32]).expect("sound")
}

fn status() -> Status {
    Status {
        node: "me".parse().expect("a sound name"),
        version: "0.0.1".to_owned(),
        pid: u32::MAX,
        listen: None,
        broker: "redis://b/".to_owned(),
        broker_up: false,
        removed: None,
        settings: Settings::default(),
        machine: worknode::request::MachineStatus::default(),
        sessions: 0,
        fuse: worknode::request::FuseCounts::default(),
        other_mounts: false,
        conflicts: 0,
        full_volume: None,
        nodes: Vec::new(),
    }
}

pub(crate) fn read_request(stream: &mut UnixStream) -> Option<Request> {
    let mut head = [0; HEADER_BYTES];
    stream.read_exact(&mut head).ok()?;
    let header = Header::decode(head).expect("a frame");
    assert_eq!(header.kind, Kind::Request);
    let mut body = vec![0; usize::try_from(header.payload_bytes).expect("small")];
    stream.read_exact(&mut body).expect("the payload");
    Some(serde_json::from_slice(&body).expect("a request"))
}

pub(crate) fn write_reply(stream: &mut UnixStream, reply: &Reply) {
    let body = serde_json::to_vec(reply).expect("JSON");
    let payload_bytes = u32::try_from(body.len()).expect("small");
    let header = Header { kind: Kind::Request, fd: 0, payload_bytes };
    stream.write_all(&[header.encode().as_slice(), &body].concat()).expect("writes");
}

pub(crate) fn open(options: &SessionOptions, page_path: &Path) -> Reply {
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

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command that must fail with this status and these words, and must not create the file `ran`.
#[track_caller]
pub(crate) fn refuses(machine: &Machine, command: &mut Command, status: i32, words: &[&str]) {
    let output = command.output().expect("oswalk starts");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for word in words {
        assert!(said.contains(word), "'{word}' is not in: {said}");
    }
    assert!(!machine.path("ran").exists(), "the command has run");
}
