//! A file system that stops answering delays only what needs it: the walks of another session go on, the agent
//! answers, and what waits ends when the file system is given up.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEntry,
    Request, SessionACL,
};

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, Up};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] =
    &[("silent::a_file_system_that_never_answers_delays_nobody_else", delays_nobody_else)];

/// Limit for walks that need nothing of the file system: far less than the agent's own patience with it.
const NORMAL: Duration = seconds(8);
/// Limit for what needs it to end, once it is given up.
const ENDED: Duration = seconds(30);

/// What needs the file system at `$M` when it falls silent, in a directory of its own with a healthy `a.c`. Each
/// says `ready`, and goes on when a line has come in.
const CASES: [(&str, &[&str], &str); 8] = [
    ("the working directory", &[], "cd $M/d; echo ready; read x; gcc -c $D/a.c -o $D/a.o"),
    ("a file of arguments", &[], "echo ready; read x; gcc -c @$M/d/args"),
    ("a directory of outputs", &[], "echo ready; read x; gcc -c a.c -o $M/d/a.o"),
    ("a commit", &["--walk-all", "--on", "n1"], "ls $M/d; echo ready; read x; echo $x >$M/d/new"),
    ("an input", &[], "echo ready; read x; gcc -c $M/d/a.c -o a.o"),
    ("an input that is not named", &[], "echo ready; read x; gcc -c far.c -o a.o"),
    ("an executable", &["--walk", "prog"], "echo ready; read x; $M/d/prog"),
    (
        "a session's directory",
        &[],
        "cd $M/d; echo ready; read x; $OSWALK exec gcc -c a.c -o $D/a.o",
    ),
];

/// Walks to which a file system becomes important that was not, and what happens when they are ready.
const SURPRISES: [(&str, &str, Surprise); 3] = [
    ("a file system mounted during a walk", "echo ready; read x; cat $M/d/a.c", Surprise::Mount),
    ("a link to it", "ls $D/w; echo ready; read x; echo $x >$D/w/new", Surprise::Link),
    ("a hidden directory", "ls -a $D; echo ready; read x", Surprise::Hidden),
];

/// What happens during a walk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Surprise {
    /// The file system is mounted, and is asked for.
    Mount,
    /// A link to it replaces a directory in which the walk writes. The commit does not follow it; the program, executed here
    /// instead, does.
    Link,
    /// None: it was mounted at a hidden directory before, which is not looked at.
    Hidden,
}

fn delays_nobody_else(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    CASES.iter().try_for_each(|(name, flags, script)| {
        check(up, name, flags, script).map_err(|error| format!("{name}: {error}"))
    })?;
    SURPRISES.iter().try_for_each(|&(name, script, surprise)| {
        check_surprise(up, name, script, surprise).map_err(|error| format!("{name}: {error}"))
    })
}

fn check_surprise(up: &Up, name: &str, script: &str, surprise: Surprise) -> Result<(), String> {
    let dir = up.fresh(&format!("silent {name}"))?;
    let point = dir.join(if surprise == Surprise::Hidden { ".ssh" } else { "m" });
    for dir in [&point, &dir.join("w")] {
        std::fs::create_dir(dir).map_err(|error| error.to_string())?;
    }
    let mount = || Mounted::new(&point).inspect(Mounted::silence);
    let before = if surprise == Surprise::Mount { None } else { Some(mount()?) };
    let mut needy = Needy::start(up, &dir, &["--walk-all", "--on", "n1"], script)?;
    let mounted = before.map_or_else(mount, Ok)?;
    if surprise == Surprise::Link {
        std::fs::rename(dir.join("w"), dir.join("w0")).map_err(|error| error.to_string())?;
        std::os::unix::fs::symlink("m", dir.join("w")).map_err(|error| error.to_string())?;
    }
    needy.go_on()?;
    if surprise != Surprise::Hidden {
        wait_until("the file system is asked", || mounted.is_asked())?;
    }
    let healthy = healthy(up);
    drop(mounted);
    healthy.and(needy.end())
}

fn check(up: &Up, name: &str, flags: &[&str], script: &str) -> Result<(), String> {
    // Of its own: an answer that the mount of another case has given counts for a moment.
    let dir = up.fresh(&format!("silent {name}"))?;
    let point = dir.join("m");
    std::fs::create_dir(&point).map_err(|error| error.to_string())?;
    let far = format!("#include \"{}/d/far.h\"\n", point.display());
    for (name, text) in [("a.c", "int a;\n"), ("far.c", &far)] {
        std::fs::write(dir.join(name), text).map_err(|error| error.to_string())?;
    }
    let mounted = Mounted::new(&point)?;
    let mut needy = Needy::start(up, &dir, flags, script)?;
    mounted.silence();
    needy.go_on()?;
    wait_until("the file system is asked", || mounted.is_asked())?;
    let healthy = healthy(up).and_then(|()| status(up));
    drop(mounted);
    let ended = needy.end();
    healthy.and(ended)
}

/// Walks of another session, in a directory of its own: a compile step, and a program that writes.
fn healthy(up: &Up) -> Result<(), String> {
    let dir = up.fresh("not silent")?;
    let walks: [(&[&str], &str); 2] = [
        (&[], "echo 'int a;' >a.c; ln a.c x.c; gcc -c x.c"),
        (&["--walk-all"], "cat /etc/hostname >y; ls"),
    ];
    for (flags, script) in walks {
        let mut command = up.exec_unreported();
        command.args(["--no-fallback", "--on", "n1"]).args(flags);
        command.args(["--", "sh", "-c", script]).current_dir(&dir);
        let run = Run::of(command, NORMAL)?;
        if !run.succeeded() {
            return Err(format!("a healthy walk: {run}"));
        }
    }
    let made = ["x.o", "y"].into_iter().all(|name| dir.join(name).exists());
    if made { Ok(()) } else { Err("a healthy walk has made nothing".to_owned()) }
}

fn status(up: &Up) -> Result<(), String> {
    let mut command = up.command(up.dist.join("oswalk"));
    command.arg("status");
    let run = Run::of(command, NORMAL)?;
    if run.succeeded() { Ok(()) } else { Err(format!("oswalk status: {run}")) }
}

/// A session that needs the file system.
struct Needy {
    child: Child,
    /// Of a shell outside the session, so that the end of its output is the end of all.
    out: BufReader<std::process::ChildStdout>,
}

impl Needy {
    /// Starts it, and waits until it is ready.
    fn start(up: &Up, dir: &Path, flags: &[&str], script: &str) -> Result<Self, String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut command = up.exec_unreported();
        command.args(flags).args(["--", "sh", "-c", script]).current_dir(dir);
        command.env("D", dir).env("M", dir.join("m")).env("OSWALK", up.dist.join("oswalk"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(failed)?;
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        while line.trim() != "ready" {
            line.clear();
            if out.read_line(&mut line).map_err(failed)? == 0 {
                return Err("it was never ready".to_owned());
            }
        }
        Ok(Self { child, out })
    }

    fn go_on(&mut self) -> Result<(), String> {
        let stdin = self.child.stdin.as_mut().expect("piped");
        stdin.write_all(b"x\n").map_err(|error| error.to_string())
    }

    /// Waits until it has ended, however.
    fn end(mut self) -> Result<(), String> {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + ENDED;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                return Err(format!("it has not ended {ENDED:?} after the file system"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        drop(self.out);
        Ok(())
    }
}

/// A mounted [`Silent`]. Dropping it ends all that wait for it with an error.
struct Mounted {
    point: PathBuf,
    state: Arc<State>,
    _session: BackgroundSession,
}

#[derive(Default)]
struct State {
    is_silent: AtomicBool,
    /// Requests since then.
    asked: AtomicUsize,
}

impl Mounted {
    fn new(point: &Path) -> Result<Self, String> {
        let state = Arc::new(State::default());
        let mut config = Config::default();
        config.mount_options = vec![MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        let session = fuser::Session::new(Silent(Arc::clone(&state)), point, &config);
        let session = session.and_then(fuser::Session::spawn);
        let session = session.map_err(|error| format!("mount {}: {error}", point.display()))?;
        Ok(Self { point: point.to_owned(), state, _session: session })
    }

    fn silence(&self) {
        self.state.is_silent.store(true, Ordering::SeqCst);
    }

    fn is_asked(&self) -> bool {
        self.state.asked.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // By force, which aborts the requests; then lazily, since processes are in it.
        for flag in ["--force", "--lazy"] {
            let _ =
                Command::new("umount").arg(flag).arg(&self.point).stderr(Stdio::null()).status();
        }
    }
}

/// A file system that answers until it falls silent.
struct Silent(Arc<State>);

/// Names in directories, with what is in them: nothing for a directory. Each has the number of its place, and two more.
const NODES: [(u64, &str, Option<&str>); 6] = [
    (1, "d", None),
    (2, "a.c", Some("int a;\n")),
    (2, "args", Some("-c a.c -o a.o\n")),
    (2, "far.h", Some("int far;\n")),
    (2, "prog", Some("#!/bin/sh\necho prog\n")),
    (2, "new", Some("")),
];

impl Silent {
    /// Hands a reply back if it is to be given.
    fn answers<R>(&self, reply: R) -> Option<R> {
        if !self.0.is_silent.load(Ordering::SeqCst) {
            return Some(reply);
        }
        self.0.asked.fetch_add(1, Ordering::SeqCst);
        // One that is dropped answers with an error.
        std::mem::forget(reply);
        None
    }

    fn node(number: u64) -> Option<&'static (u64, &'static str, Option<&'static str>)> {
        NODES.get(usize::try_from(number).ok()?.checked_sub(2)?)
    }

    fn attr(number: u64) -> FileAttr {
        let content = Self::node(number).and_then(|node| node.2);
        let time = SystemTime::UNIX_EPOCH + seconds(1_000_000_000);
        FileAttr {
            ino: INodeNo(number),
            size: content.map_or(0, |content| content.len() as u64),
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: if content.is_some() { FileType::RegularFile } else { FileType::Directory },
            perm: 0o755,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn names(dir: u64) -> impl Iterator<Item = (u64, &'static str)> {
        let numbered = NODES.iter().zip(2..);
        numbered.filter(move |(node, _)| node.0 == dir).map(|(node, number)| (number, node.1))
    }
}

/// The kernel keeps nothing, and asks each time.
const FOR: Duration = Duration::ZERO;

impl Filesystem for Silent {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(reply) = self.answers(reply) else { return };
        match Self::names(parent.0).find(|(_, known)| *known == name) {
            Some((number, _)) => reply.entry(&FOR, &Self::attr(number), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if let Some(reply) = self.answers(reply) {
            reply.attr(&FOR, &Self::attr(ino.0));
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        _: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some(reply) = self.answers(reply) else { return };
        let content = Self::node(ino.0).and_then(|node| node.2).unwrap_or_default().as_bytes();
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        reply.data(content.get(offset..).unwrap_or_default());
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let Some(mut reply) = self.answers(reply) else { return };
        let seen = usize::try_from(offset).unwrap_or(usize::MAX);
        for (at, (number, name)) in Self::names(ino.0).enumerate().skip(seen) {
            let kind = Self::attr(number).kind;
            if reply.add(INodeNo(number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}
