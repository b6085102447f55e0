//! A peer that lies: it greets and executes walks like others, but then reports other changes than the
//! walk made. None of them may be applied at the origin, and the program's own work must still be done.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;

use oswalk_agent::tls::{Identity, Use, nameless, proved};
use packetfs::change::{Base, ChangeSet, Meta, Op, Placing};
use packetfs::packet::{Manifest, Packed, PacketRef, reference, split};
use packetfs::path::TreePath;
use packetfs::tree::Kind;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use worknode::key::SecretKey;
use worknode::spec::{Ending, Outcome};

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, NODES, Up};
use crate::members::{Odd, is, said, takes_no_walks};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("liars::what_no_compile_step_changes", |lab| all_refused(lab, true)),
    ("liars::what_no_walk_changes", |lab| all_refused(lab, false)),
    ("liars::descriptors_that_are_not_the_walks", others_descriptors),
];

const LIMIT: std::time::Duration = seconds(20);
const AGENT: &str = "10.77.0.13:7709";
const LIAR: &str = "10.77.0.13:7710";

/// Kinds of frames, as numbered in docs/protocol.md.
const DATA: u8 = 2;
const CREDIT: u8 = 4;
const PACKETS: u8 = 9;
const EXIT: u8 = 10;
const TOOK: u8 = 16;
const SETTINGS: u8 = 18;
const GIVEN: u8 = 32;
/// The bit of a frame that goes on in the next one.
const MORE: u8 = 0x80;
/// Size of a frame's header.
const HEAD_BYTES: usize = 8;
/// Longest payload of a frame.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// A lie about the next walk that ends. Until it is told, packets that are given to other runners are damaged.
#[derive(Clone, Default)]
pub(crate) struct Lie {
    /// Frames sent before the walk's exit.
    ahead: Vec<(u8, Vec<u8>)>,
    /// The exit, if not the runner's own.
    exit: Option<Vec<u8>>,
}

impl Lie {
    /// Claims that the walk made these changes; `contents` are those of the files.
    fn of(ops: Vec<Op>, contents: &[&[u8]]) -> Self {
        let packets: Vec<_> = contents
            .iter()
            .flat_map(|content| split(content))
            .map(|piece| (reference(piece), Packed::plain(piece)))
            .collect();
        Self::with_packets(&packets).and_exit(ops, &[])
    }

    fn with_packets(packets: &[(PacketRef, Packed)]) -> Self {
        Self { ahead: vec![(PACKETS, encode(&packets))], exit: None }
    }

    fn and_exit(self, ops: Vec<Op>, offsets: &[(u32, u64)]) -> Self {
        let outcome = Outcome::Ended(Ending { status: 0, run_us: 1, cpu_us: 1 });
        let found = ops.iter().filter_map(found).collect();
        let changes = ChangeSet { ops, found, ..ChangeSet::default() };
        let exit = encode(&(outcome, changes, offsets, None::<u8>));
        Self { exit: Some(exit), ..self }
    }
}

/// Returns the true previous state at the operation's path, so that the lie does not fail as a conflict.
fn found(op: &Op) -> Option<(TreePath, Base)> {
    let path = match op {
        Op::Rename { from, .. } => from,
        Op::Remove { path }
        | Op::Dir { path, .. }
        | Op::File { path, .. }
        | Op::Symlink { path, .. }
        | Op::Link { path, .. }
        | Op::Special { path, .. } => path,
    };
    let base = match fs::symlink_metadata(std::str::from_utf8(path).ok()?) {
        Err(_) => Base::Nothing,
        Ok(found) if found.is_dir() => Base::Dir {
            dev: found.dev(),
            ino: found.ino(),
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
        },
        Ok(_) => Base::Unknown,
    };
    Some((path.clone(), base))
}

fn encode(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_allocvec(message).expect("a message that can be encoded")
}

/// A proxy in front of the agent at [`AGENT`], reached at [`LIAR`]. It has the key of that agent's node, and
/// those of the callers, which the agent would not let it have.
pub(crate) struct Liar {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    next: Mutex<Option<Lie>>,
    /// The state directory of the agent, and those of the callers.
    agent: Mutex<PathBuf>,
    callers: Vec<PathBuf>,
}

impl Liar {
    /// Has an agent join the cluster with the only instance before it, which listens in the network of n3 until
    /// this process ends.
    pub(crate) fn join<'a>(up: &'a Up, name: &str) -> Result<(&'static Self, Odd<'a>), String> {
        static LISTENS: OnceLock<Result<Liar, String>> = OnceLock::new();
        let liar = LISTENS.get_or_init(|| Self::start(up)).as_ref().map_err(Clone::clone)?;
        let state = up.fresh(name)?;
        state.clone_into(&mut locked(&liar.shared.agent));
        Ok((liar, Odd::join(up, state, &["--listen", AGENT, "--advertise", LIAR])?))
    }

    fn start(up: &Up) -> Result<Self, String> {
        let callers = NODES.into_iter().chain(["origin"]).map(|node| up.state(node)).collect();
        let shared = Arc::new(Shared { callers, ..Shared::default() });
        let network = fs::File::open(up.network("n3")).map_err(|error| error.to_string())?;
        let (ready_tx, ready_rx) = mpsc::channel();
        let said = Arc::clone(&shared);
        thread::spawn(move || {
            let entered = move_into_link_name_space(
                std::os::fd::AsFd::as_fd(&network),
                Some(LinkNameSpaceType::Network),
            );
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            let (Ok(()), Ok(runtime)) = (entered, runtime) else { return };
            runtime.block_on(async move {
                let listener = match TcpListener::bind(LIAR).await {
                    Ok(listener) => listener,
                    Err(error) => return drop(ready_tx.send(Err(format!("{LIAR}: {error}")))),
                };
                let _ = ready_tx.send(Ok(()));
                while let Ok((caller, _)) = listener.accept().await {
                    let said = Arc::clone(&said);
                    // An error cuts the connection: the origin loses a runner.
                    tokio::spawn(async move { relay(caller, &said).await.map_err(drop) });
                }
            });
        });
        ready_rx.recv().map_err(|error| error.to_string())??;
        Ok(Self { shared })
    }

    pub(crate) fn say(&self, lie: Option<Lie>) -> Option<Lie> {
        std::mem::replace(&mut *locked(&self.shared.next), lie)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the key of the node with a state directory.
pub(crate) fn key(state: &Path) -> io::Result<SecretKey> {
    let seed = fs::read(state.join("cluster/key"))?;
    Ok(SecretKey::from_seed(&seed.try_into().map_err(|_| io::ErrorKind::InvalidData)?))
}

async fn relay(caller: TcpStream, shared: &Shared) -> io::Result<()> {
    let own = key(&locked(&shared.agent))?;
    let identity = |key: &SecretKey| Identity::new(key).map_err(io::Error::other);
    let caller = TlsAcceptor::from(identity(&own)?.answerer()).accept(caller).await?;
    let known = proved(caller.get_ref().1.peer_certificates());
    let mut keys = shared.callers.iter().filter_map(|state| key(state).ok());
    let theirs = keys.find(|key| Some(key.key()) == known).ok_or(io::ErrorKind::NotFound)?;
    let connector = TlsConnector::from(identity(&theirs)?.caller(own.key(), Use::Link));
    let agent = connector.connect(nameless(), TcpStream::connect(AGENT).await?).await?;
    let (mut from_caller, to_caller) = tokio::io::split(TlsStream::from(caller));
    let (from_agent, mut to_agent) = tokio::io::split(TlsStream::from(agent));
    tokio::select! {
        _ = tokio::io::copy(&mut from_caller, &mut to_agent) => Ok(()),
        ended = lie(tokio::io::BufReader::new(from_agent), to_caller, &shared.next) => ended,
    }
}

/// Passes on the agent's messages, except for the exits of walks.
async fn lie(
    mut agent: impl AsyncRead + Unpin,
    mut caller: impl AsyncWrite + Unpin,
    next: &Mutex<Option<Lie>>,
) -> io::Result<()> {
    const BINARY: u8 = 0x82;
    let mut upgrade = Vec::new();
    while !upgrade.ends_with(b"\r\n\r\n") {
        upgrade.push(agent.read_u8().await?);
    }
    caller.write_all(&upgrade).await?;
    let mut has_greeted = false;
    loop {
        caller.flush().await?;
        let (kind, mut message) = read_message(&mut agent).await?;
        // Without a lie to tell, a message may also be part of the greeting: its records.
        if kind == BINARY && has_greeted && locked(next).is_some() {
            message = lied(&message, next);
        }
        has_greeted |= kind == BINARY;
        write_message(&mut caller, kind, &message).await?;
    }
}

/// Reads a server's WebSocket message: unmasked, and unfragmented, as agents send them.
pub(crate) async fn read_message(from: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let (kind, length) = (from.read_u8().await?, from.read_u8().await?);
    let length = match length {
        126 => from.read_u16().await?.into(),
        127 => from.read_u64().await?,
        short => u64::from(short),
    };
    let mut message = Vec::new();
    from.take(length).read_to_end(&mut message).await?;
    Ok((kind, message))
}

async fn write_message(
    to: &mut (impl AsyncWrite + Unpin),
    kind: u8,
    message: &[u8],
) -> io::Result<()> {
    let mut out = vec![kind];
    match u8::try_from(message.len()) {
        Ok(short) if short < 126 => out.push(short),
        _ => {
            out.push(127);
            out.extend((message.len() as u64).to_be_bytes());
        }
    }
    out.extend(message);
    to.write_all(&out).await
}

/// Returns the message with the exits replaced by the lie.
fn lied(message: &[u8], next: &Mutex<Option<Lie>>) -> Vec<u8> {
    let (mut rest, mut out) = (message, Vec::new());
    while let Some((head, after)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let length = u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize;
        let (payload, after) = after.split_at(length.min(after.len()));
        rest = after;
        let stream = [head[4], head[5], head[6], head[7]];
        let lie = (head[0] == EXIT).then(|| locked(next).take()).flatten().unwrap_or_default();
        for (kind, said) in &lie.ahead {
            frame(*kind, stream, said, &mut out);
        }
        let mut said = lie.exit.as_deref().unwrap_or(payload).to_vec();
        if head[0] & !MORE == GIVEN {
            said.last_mut().into_iter().for_each(|byte| *byte ^= 1);
        }
        frame(head[0], stream, &said, &mut out);
    }
    out
}

fn frame(kind: u8, stream: [u8; 4], payload: &[u8], out: &mut Vec<u8>) {
    let mut rest = payload;
    loop {
        let (piece, after) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX));
        out.push(kind & !MORE | if after.is_empty() { kind & MORE } else { MORE });
        out.extend(&u32::try_from(piece.len()).expect("a short piece").to_le_bytes()[..3]);
        out.extend(stream);
        out.extend(piece);
        rest = after;
        if rest.is_empty() {
            return;
        }
    }
}

/// Directories that other processes change meanwhile.
const SHARED: [&str; 4] = ["/run", "/dev", "/proc", "/sys"];

/// Describes a file, or a directory and its entries.
fn state(path: &Path) -> String {
    let Ok(found) = fs::symlink_metadata(path) else { return "nothing".to_owned() };
    let names = || {
        let mut names: Vec<_> =
            fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name()).collect();
        names.sort();
        format!("{names:?}")
    };
    let xattrs = || {
        let mut names = [0; 4096];
        let count = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
        String::from_utf8_lossy(&names[..count]).into_owned()
    };
    let content = match found.is_dir() {
        true if SHARED.iter().any(|shared| path == Path::new(shared)) => String::new(),
        true => names(),
        false if found.is_file() => format!("{:?}", fs::read(path)),
        false => format!("{:?}", fs::read_link(path).ok()),
    };
    let (mode, owner, device) = (found.mode(), (found.uid(), found.gid()), found.rdev());
    format!("mode {mode:o}, owner {owner:?}, device {device}, {}: {content}", xattrs())
}

/// A lie, and the paths that it must not change.
struct Attempt {
    name: &'static str,
    lie: Lie,
    spared: Vec<PathBuf>,
}

fn meta(mode: u32) -> Meta {
    Meta { mode, uid: 0, gid: 0, mtime: None, xattrs: Vec::new(), without: Vec::new() }
}

fn tree(path: &Path) -> TreePath {
    TreePath::try_from(path.as_os_str().as_encoded_bytes()).expect("a sound path")
}

fn file(path: &Path, meta: Meta, content: &[u8], placing: Placing) -> Op {
    Op::File { path: tree(path), meta, manifest: Manifest::of(content), placing }
}

/// A file that would vanish with `/run`.
const IN_RUN: &str = "/run/oswalk-liars";

/// The device number 1:3, in the form of `stat`.
const NULL: u64 = 0x103;
const TEXT: &[u8] = b"a lie\n";

/// Creates the files that must be spared in a walk's directory, and returns the lies.
fn attempts(up: &Up, dir: &Path, compiles: bool) -> Result<Vec<Attempt>, String> {
    let made = |path: &Path| -> Result<PathBuf, String> {
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            fs::write(path, "as it was\n")
        };
        write().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(path.to_owned())
    };
    let beside = dir.parent().unwrap_or(dir).join("liars-beside");
    let new = |name: &str| dir.join(name);
    let fresh = |path: &Path| Lie::of(vec![file(path, meta(0o644), TEXT, Placing::Fresh)], &[TEXT]);
    let special = |path: &Path, kind| {
        Lie::of(vec![Op::Special { path: tree(path), kind, rdev: NULL, meta: meta(0o666) }], &[])
    };
    let with_xattr = |path: &Path, name: &[u8]| {
        let meta = Meta { xattrs: vec![(name.to_vec(), vec![1, 0, 0, 2])], ..meta(0o755) };
        Lie::of(vec![file(path, meta, TEXT, Placing::Fresh)], &[TEXT])
    };
    let mut all: Vec<Attempt> = Vec::new();
    let mut add = |name, lie, spared: &[&Path]| {
        let spared = spared.iter().map(|path| path.to_path_buf()).collect();
        all.push(Attempt { name, lie, spared });
    };
    // Changes that no walk may make.
    let device = new("device");
    add("a device", special(&device, Kind::Char), &[&device]);
    add("a device that is said to be a file", special(&device, Kind::File), &[&device]);
    add("a device that is said to be a directory", special(&device, Kind::Dir), &[&device]);
    add("a disk", special(&device, Kind::Block), &[&device]);
    let program = new("program");
    add("capabilities of a file", with_xattr(&program, b"security.capability"), &[&program]);
    add("a trusted attribute", with_xattr(&program, b"trusted.overlay.opaque"), &[&program]);
    let key = made(&new("home/.ssh/authorized_keys"))?;
    let home = new("home");
    add("a file in a hidden directory", fresh(&key), &[&key]);
    add("a new file in a hidden directory", fresh(&new("home/.ssh/config")), &[&home, &key]);
    let removed = Lie::of(vec![Op::Remove { path: tree(&new("home/.ssh")) }], &[]);
    add("a hidden directory is removed", removed, &[&home, &key]);
    let renamed = Op::Rename { from: tree(&new("home/.ssh")), to: tree(&new("shown")) };
    add("a hidden directory is renamed", Lie::of(vec![renamed], &[]), &[&home, &key]);
    let renamed = Op::Rename { from: tree(&home), to: tree(&new("house")) };
    let link = Op::Link { path: tree(&new("loot")), to: tree(&new("house/.ssh/authorized_keys")) };
    add(
        "a hidden file gets another name",
        Lie::of(vec![renamed, link], &[]),
        &[&key, &new("loot")],
    );
    let state_dir = up.state("origin");
    add(
        "a file in the agent's directory",
        fresh(&state_dir.join("planted")),
        &[&state_dir.join("planted")],
    );
    add("the agent's pid", fresh(&state_dir.join("pid")), &[&state_dir.join("pid")]);
    let moved = Op::Rename { from: tree(&state_dir), to: tree(&new("state")) };
    add(
        "the agent's directory is moved",
        Lie::of(vec![moved], &[]),
        &[&state_dir.join("pid"), &new("state")],
    );
    for dir in SHARED {
        let dir = Path::new(dir);
        let planted = dir.join("oswalk-liar");
        add("a file where the system's own are", fresh(&planted), &[&planted]);
        let closed = Op::Dir { path: tree(dir), meta: meta(0o700), replaces: false };
        add("the mode of a directory of the system's", Lie::of(vec![closed], &[]), &[dir]);
    }
    let removed = Lie::of(vec![Op::Remove { path: tree(Path::new("/run")) }], &[]);
    add("a directory of the system's is removed", removed, &[&made(Path::new(IN_RUN))?]);
    let comm = PathBuf::from(format!("/proc/{}/comm", std::process::id()));
    for placing in [Placing::Over { base: None }, Placing::Behind(0)] {
        let lie = Lie::of(vec![file(&comm, meta(0o644), TEXT, placing)], &[TEXT]);
        add("a file of a process", lie, &[&comm]);
    }
    let kept = made(&new("kept"))?;
    let far = vec![file(&kept, meta(0o644), TEXT, Placing::Behind(1 << 42))];
    add("text far behind a file's end", Lie::of(far, &[TEXT]), &[&kept]);
    let missing = vec![file(&kept, meta(0o644), b"never sent\n", Placing::Fresh)];
    add("a file whose content is not sent", Lie::of(missing, &[]), &[&kept]);
    let other = [(reference(TEXT), Packed::plain(b"a lye\n"))];
    let said = vec![file(&kept, meta(0o644), TEXT, Placing::Fresh)];
    add("content that is another", Lie::with_packets(&other).and_exit(said, &[]), &[&kept]);
    let none = [(PacketRef { bytes: 0, ..reference(TEXT) }, Packed::plain(&vec![7; 1 << 20]))];
    add("packets that claim to have no bytes", Lie::with_packets(&none), &[&kept]);
    let flood = vec![(DATA, [&[1][..], &[b'x'; 60_000]].concat()); 200];
    add("output without end", Lie { ahead: flood, exit: None }, &[&kept]);
    add("an exit that is none", Lie { ahead: Vec::new(), exit: Some(vec![0xff; 40]) }, &[&kept]);
    std::os::unix::fs::symlink(beside.join("through"), new("leads-away"))
        .map_err(|error| error.to_string())?;
    fs::create_dir_all(beside.join("through")).map_err(|error| error.to_string())?;
    let through = beside.join("through/file");
    add("a file behind a link", fresh(&new("leads-away/file")), &[&through]);
    if compiles {
        // Changes that this walk may not make.
        let out = made(&beside.join("file"))?;
        add("a file of another directory", fresh(&out), &[&out]);
        add("a new file in another directory", fresh(&beside.join("new")), &[&beside.join("new")]);
        let removed = Lie::of(vec![Op::Remove { path: tree(&beside) }], &[]);
        add("another directory is removed", removed, &[&beside]);
        let planted = Path::new("/etc/oswalk-liar");
        add("a file in /etc", fresh(planted), &[planted]);
        let opened = Op::Dir { path: tree(&beside), meta: meta(0o777), replaces: false };
        add("the mode of another directory", Lie::of(vec![opened], &[]), &[&beside]);
        let set_id = vec![file(&program, meta(0o4755), TEXT, Placing::Fresh)];
        add("a program that makes its user root", Lie::of(set_id, &[TEXT]), &[&program]);
        let link = Op::Link { path: tree(&new("loot")), to: tree(&out) };
        add("another name of a file elsewhere", Lie::of(vec![link], &[]), &[&new("loot")]);
        let taken = Op::Rename { from: tree(&out), to: tree(&new("taken")) };
        add("a file elsewhere is taken", Lie::of(vec![taken], &[]), &[&out, &new("taken")]);
    }
    Ok(all)
}

/// Lies for which a node is quarantined at once: contents that do not match their digest, or are missing.
const FALSE_CONTENT: [&str; 2] = ["a file whose content is not sent", "content that is another"];

/// Checks that the liar is shown with the evidence, and gets no walks until the user trusts it again.
fn trusted_again(up: &Up) -> Result<(), String> {
    let [_, why, remedy] = said(up, "odd")?;
    if !why.contains("does not match its digest") || !remedy.contains("oswalk cluster trust") {
        return Err(format!("the evidence is '{why}', the remedy '{remedy}'"));
    }
    takes_no_walks(up)?;
    let trusted = up.cluster(&up.state("origin"), &["trust", "odd"])?;
    if trusted.succeeded() { Ok(()) } else { Err(trusted.to_string()) }
}

fn all_refused(lab: &Lab, compiles: bool) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let name = if compiles { "liars-compile" } else { "liars-any" };
    let (liar, _odd) = Liar::join(up, &format!("{name}-state"))?;
    let dir = up.fresh(name)?;
    fs::write(dir.join("a.c"), "int f(void) { return 7; }\n").map_err(|error| error.to_string())?;
    let walk = |lie: Option<Lie>| -> Result<(Run, Report), String> {
        // After a lie, the origin may avoid the node for a moment.
        wait_until("it is alive", || is(up, "odd", "alive"))?;
        let _ = fs::remove_file(dir.join("a.o"));
        liar.say(lie);
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        command.args(["--on", "odd"]);
        match compiles {
            true => command.args(["--", "gcc", "-c", "a.c"]),
            false => command.args(["--walk-all", "--", "/bin/cp", "a.c", "a.o"]),
        };
        command.current_dir(&dir);
        let run = Run::of(command, LIMIT)?;
        Ok((run, Report::read(&report)?))
    };
    let program = if compiles { "gcc" } else { "cp" };
    // Shows that the proxy works: this change is allowed, and is applied.
    let believed = dir.join("believed");
    let lie = Lie::of(vec![file(&believed, meta(0o644), TEXT, Placing::Fresh)], &[TEXT]);
    let (run, report) = walk(Some(lie))?;
    if !run.succeeded()
        || !report.walked(program)
        || fs::read(&believed).ok().as_deref() != Some(TEXT)
    {
        return Err(format!("an allowed change is not applied: {run}, stays {:?}", report.stays));
    }
    let mut failures = Vec::new();
    for Attempt { name, lie, spared } in attempts(up, &dir, compiles)? {
        let states = || spared.iter().map(|path| state(path)).collect::<Vec<_>>();
        let before = states();
        let (run, report) = walk(Some(lie))?;
        let after = states();
        if liar.say(None).is_some() {
            failures.push(format!("{name}: the lie was not told: {run}, stays {:?}", report.stays));
        }
        if is(up, "odd", "quarantined") != FALSE_CONTENT.contains(&name) {
            failures.push(format!("{name}: the node is {:?}", said(up, "odd")));
        }
        if FALSE_CONTENT.contains(&name) {
            trusted_again(up)?;
        }
        if before != after {
            failures.push(format!("{name}: {spared:?} was {before:?} and is {after:?}"));
        }
        if !run.succeeded() || !dir.join("a.o").exists() {
            failures.push(format!("{name}: the program's own output is missing: {run}"));
        }
    }
    let _ = fs::remove_file(IN_RUN);
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}

/// A stub inherits all open descriptors of its process, such as pipes for a later process, and files that
/// no runner is shown. A runner that asks for them, or for their consumption, is refused.
fn others_descriptors(lab: &Lab) -> Result<(), String> {
    const READ: &str = "printf zero | { gcc -c a.c; cat >0; cat <&3 >3; cat <&5 >5; } \
                        3< <(printf three) 5<home/.ssh/id_rsa";
    let (up, _alone) = lab.alone()?;
    let (liar, _odd) = Liar::join(up, "liars-fds-state")?;
    let dir = up.fresh("liars-fds")?;
    let written = |name: &str, text: &str| {
        fs::write(dir.join(name), text).map_err(|error| format!("{name}: {error}"))
    };
    written("a.c", "int f(void) { return 7; }\n")?;
    fs::create_dir_all(dir.join("home/.ssh")).map_err(|error| error.to_string())?;
    written("home/.ssh/id_rsa", "five")?;
    let run = |lie: Option<Lie>| -> Result<(Run, Report), String> {
        wait_until("it is alive", || is(up, "odd", "alive"))?;
        let _ = fs::remove_file(dir.join("a.o"));
        liar.say(lie);
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        command.args(["--on", "odd", "--", "bash", "-c", READ]).current_dir(&dir);
        let run = Run::of(command, LIMIT)?;
        Ok((run, Report::read(&report)?))
    };
    let (run_well, report) = run(None)?;
    if !run_well.succeeded() || !report.walked("gcc") {
        return Err(format!("the program does not walk: {run_well}, stays {:?}", report.stays));
    }
    let bytes = 4096_u32.to_le_bytes();
    let mut failures = Vec::new();
    for fd in [0, 1, 3, 5, 200] {
        for (name, kind, said) in [
            ("asks for", CREDIT, bytes.to_vec()),
            ("has taken", TOOK, bytes.to_vec()),
            ("sets", SETTINGS, vec![0; 37]),
        ] {
            let ahead = vec![(kind, [&[fd][..], &said].concat())];
            let (run, report) = run(Some(Lie { ahead, exit: None }))?;
            let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
            let left = ["0", "3", "5"].map(read);
            let is_done = run.succeeded() && dir.join("a.o").exists();
            // In another attempt the lie was not told.
            let is_believed = report.walked("gcc") && report.repeated == 0;
            if liar.say(None).is_some() || is_believed || !is_done {
                let stays = &report.stays;
                failures
                    .push(format!("the runner {name} {fd}, and is obeyed: {run}, stays {stays:?}"));
            }
            if left != ["zero", "three", "five"] {
                failures.push(format!("the runner {name} {fd}: {left:?} is left"));
            }
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n")) }
}
