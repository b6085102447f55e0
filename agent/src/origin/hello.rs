//! Reads what a stub says of its process, and makes the walk's spec of it.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use packetfs::tree::is_within;
use worknode::door::{FdEntry, HelloHead, VERSION};
use worknode::id::SessionId;
use worknode::policy::{Verdict, base_name};
use worknode::reason::Reason;
use worknode::spec::{Bytes, Credentials, FdKind, FdSpec, TerminalSpec, WalkSpec, strings};

use crate::agent::Agent;
use crate::door::Peer;
use crate::session::Session;

/// Directories that only installations change. A compile step sees them, and never writes there.
pub(super) const SYSTEM_DIRS: [&[u8]; 9] =
    [b"/usr", b"/bin", b"/sbin", b"/lib", b"/lib32", b"/lib64", b"/libx32", b"/etc", b"/opt"];

/// A stub's hello.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) session: SessionId,
    head: HelloHead,
    fds: Vec<FdEntry>,
    path: Bytes,
    cwd: Bytes,
    argv: Bytes,
    env: Bytes,
}

impl Hello {
    /// Reads a hello; nothing if it is damaged or of another version.
    pub(super) fn parse(payload: &[u8]) -> Option<Self> {
        let (head, mut rest) = HelloHead::decode(payload)?;
        if head.version != VERSION {
            return None;
        }
        let mut fds = Vec::new();
        for _ in 0..head.fds {
            let (entry, after) = FdEntry::decode(rest)?;
            fds.push(entry);
            rest = after;
        }
        let mut take = |bytes: u32| {
            let (part, after) = rest.split_at_checked(bytes as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let path = take(head.path_bytes)?;
        let cwd = take(head.cwd_bytes)?;
        let argv = take(head.argv_bytes)?;
        let env = take(head.env_bytes)?;
        Some(Self { session: SessionId(head.session), head, fds, path, cwd, argv, env })
    }

    /// Returns the program's base name, for the report.
    pub(super) fn argv0(&self) -> String {
        String::from_utf8_lossy(base_name(&self.path)).into_owned()
    }

    /// Tells whether the program is a compile step.
    pub(super) fn compiles(&self, session: &Session) -> bool {
        session.verdict(&self.path).is_some_and(Verdict::compiles)
    }

    /// Makes the spec.
    pub(super) fn spec(
        self,
        agent: &Agent,
        session: &Session,
        peer: Peer,
        groups: Vec<u32>,
    ) -> Result<WalkSpec, Reason> {
        let compiles = self.compiles(session);
        if !compiles && self.names_a_channel() {
            return Err(Reason::Descriptor);
        }
        // Its daemon keeps the owners of files, and is asked for them by semaphores.
        if strings(&self.env).any(|variable| variable.starts_with(b"FAKEROOTKEY=")) {
            return Err(Reason::Ipc);
        }
        let fds = self.descriptors(peer.pid, compiles)?;
        let terminal = fds.iter().any(|fd| fd.kind == FdKind::Terminal).then(|| TerminalSpec {
            termios: self.head.termios.to_vec(),
            window: self.head.window,
            reads: !compiles,
        });
        let whole_tree = peer.uid == 0 && !(compiles && self.writes_elsewhere());
        Ok(WalkSpec {
            walk: session.next_walk(),
            origin: agent.node.clone(),
            path: self.path,
            argv: self.argv,
            env: shipped(&self.env, compiles),
            cwd: self.cwd,
            hostname: agent.hostname.clone(),
            credentials: Credentials { uid: peer.uid, gid: peer.gid, groups },
            pid: peer.pid,
            umask: self.head.umask,
            nice: self.head.nice,
            blocked: self.head.blocked,
            ignored: self.head.ignored,
            rlimits: self.head.rlimits.to_vec(),
            fds,
            terminal,
            whole_tree,
            compiles,
        })
    }

    /// Tells whether an argument names a fifo or a socket: its other end is at the origin.
    fn names_a_channel(&self) -> bool {
        use std::os::unix::fs::FileTypeExt;
        let cwd = Path::new(OsStr::from_bytes(&self.cwd));
        strings(&self.argv).skip(1).any(|argument| {
            std::fs::metadata(cwd.join(OsStr::from_bytes(argument))).is_ok_and(|metadata| {
                metadata.file_type().is_fifo() || metadata.file_type().is_socket()
            })
        })
    }

    /// Tells that the command writes into no system directory, as far as its words show.
    fn writes_elsewhere(&self) -> bool {
        let in_system = |path: &[u8]| SYSTEM_DIRS.iter().any(|dir| is_within(path, dir));
        let mut output_next = false;
        let outputs_in_system = strings(&self.argv).any(|argument| {
            let output =
                std::mem::replace(&mut output_next, argument == b"-o" || argument == b"-MF");
            let glued = argument.strip_prefix(b"-o").is_some_and(in_system);
            (output && in_system(argument)) || glued
        });
        !in_system(&self.cwd) && !outputs_in_system
    }

    fn descriptors(&self, pid: u32, compiles: bool) -> Result<Vec<FdSpec>, Reason> {
        let mut specs: Vec<FdSpec> = Vec::new();
        for (index, entry) in self.fds.iter().enumerate() {
            let same = self.fds[..index].iter().find(|other| is_same_output(other, entry));
            let kind = match same {
                Some(other) if !self.is_terminal(entry) => FdKind::Same { fd: other.fd },
                _ => self.descriptor(entry, pid, compiles)?,
            };
            specs.push(FdSpec { fd: entry.fd, kind });
        }
        Ok(specs)
    }

    /// Tells whether the process's terminal is behind a descriptor: the first one that it has.
    fn is_terminal(&self, entry: &FdEntry) -> bool {
        let first = self.fds.iter().find(|entry| entry.terminal != 0);
        entry.terminal != 0 && first.is_some_and(|first| first.rdev == entry.rdev)
    }

    fn descriptor(&self, entry: &FdEntry, pid: u32, compiles: bool) -> Result<FdKind, Reason> {
        // Links name descriptors with a byte.
        if entry.fd > u32::from(u8::MAX) {
            return Err(Reason::Descriptor);
        }
        let access = entry.flags & access_mode();
        let kind = entry.mode & libc::S_IFMT;
        let null = kind == libc::S_IFCHR && entry.rdev == libc::makedev(1, 3);
        if null {
            return Ok(FdKind::Null { flags: access });
        }
        if kind == libc::S_IFCHR && entry.terminal == 0 {
            // A device of this machine.
            return Err(Reason::Descriptor);
        }
        if self.is_terminal(entry) && !(compiles && entry.fd == 0) {
            return Ok(FdKind::Terminal);
        }
        let reads = access == flag(libc::O_RDONLY)
            || (access == flag(libc::O_RDWR) && (entry.fd == 0 || kind == libc::S_IFSOCK));
        if !reads {
            return Ok(FdKind::Output);
        }
        if entry.fd > 2 && kind != libc::S_IFREG {
            // The program may know its number: `diff <(one) <(two)` reads /dev/fd/63.
            let named = strings(&self.argv).any(|argument| argument.starts_with(b"/dev/fd/"));
            if named || !compiles {
                return Err(Reason::Descriptor);
            }
        }
        if compiles {
            // A compile step that the rules let walk reads files, not its standard input.
            return Ok(FdKind::Null { flags: flag(libc::O_RDONLY) });
        }
        if kind == libc::S_IFREG {
            let link = format!("/proc/{pid}/fd/{}", entry.fd);
            if let Ok(path) = std::fs::read_link(Path::new(OsStr::new(&link))) {
                let path = path.into_os_string().into_vec();
                let offset = u64::try_from(entry.offset).unwrap_or(0);
                if same_file(&path, entry) {
                    return Ok(FdKind::File { path, offset });
                }
            }
        }
        Ok(FdKind::Input)
    }
}

/// Tells whether two descriptors write to the same place, so that their order counts.
fn is_same_output(a: &FdEntry, b: &FdEntry) -> bool {
    let writes = |entry: &FdEntry| entry.flags & access_mode() != flag(libc::O_RDONLY);
    let input = |entry: &FdEntry| entry.fd == 0;
    let null = |entry: &FdEntry| {
        entry.mode & libc::S_IFMT == libc::S_IFCHR && entry.rdev == libc::makedev(1, 3)
    };
    let same_place = (a.dev, a.ino) == (b.dev, b.ino) && a.flags == b.flags;
    let regular = b.mode & libc::S_IFMT == libc::S_IFREG;
    writes(a)
        && writes(b)
        && !input(a)
        && !input(b)
        && !null(b)
        && same_place
        && (!regular || a.offset == b.offset)
}

fn same_file(path: &[u8], entry: &FdEntry) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(OsStr::from_bytes(path))
        .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == (entry.dev, entry.ino))
}

fn access_mode() -> u32 {
    flag(libc::O_ACCMODE)
}

fn flag(value: libc::c_int) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

/// Where a compile step puts temporary files, unless it is told: nobody else has names there that it
/// would have to look up.
const TEMPORARY: &[u8] = b"TMPDIR=/dev/shm\0";

/// Returns the environment as it is shipped: without secrets, and for a compile step without a
/// jobserver, and with a place for temporary files.
fn shipped(env: &[u8], compiles: bool) -> Bytes {
    let mut shipped = Vec::with_capacity(env.len());
    for variable in strings(env).filter(|variable| !is_secret(variable)) {
        if compiles {
            shipped.extend(without_jobserver(variable));
        } else {
            shipped.extend(variable);
        }
        shipped.push(0);
    }
    let told = |variable: &[u8]| {
        [b"TMPDIR=".as_slice(), b"TMP=", b"TEMP="].iter().any(|name| variable.starts_with(name))
    };
    if compiles && !strings(env).any(told) {
        shipped.extend(TEMPORARY);
    }
    shipped
}

/// Tells whether a variable gives access to something else than files.
fn is_secret(variable: &[u8]) -> bool {
    const NAMES: [&[u8]; 5] = [
        b"SSH_AUTH_SOCK",
        b"GPG_AGENT_INFO",
        b"SSH_AGENT_PID",
        b"DBUS_SESSION_BUS_ADDRESS",
        b"XAUTHORITY",
    ];
    const PREFIXES: [&[u8]; 3] = [b"AWS_", b"AZURE_", b"GOOGLE_APPLICATION_"];
    const SUFFIXES: [&[u8]; 5] = [b"_TOKEN", b"_PASSWORD", b"_SECRET", b"_SECRET_KEY", b"_API_KEY"];
    let name = variable.split(|&byte| byte == b'=').next().unwrap_or_default();
    NAMES.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || SUFFIXES.iter().any(|suffix| name.ends_with(suffix))
}

/// Takes the jobserver's descriptors out of make's flags: they lead to the origin's make.
fn without_jobserver(variable: &[u8]) -> Bytes {
    const NAMES: [&[u8]; 3] = [b"MAKEFLAGS=", b"MFLAGS=", b"CARGO_MAKEFLAGS="];
    if !NAMES.iter().any(|name| variable.starts_with(name)) {
        return variable.to_vec();
    }
    let words = variable.split(|&byte| byte == b' ');
    let other = |word: &&[u8]| {
        let flag = word.rsplit(|&byte| byte == b'=').nth(1).unwrap_or_default();
        !flag.ends_with(b"--jobserver-auth") && !flag.ends_with(b"--jobserver-fds")
    };
    words.filter(other).collect::<Vec<_>>().join(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fd: u32, mode: u32, flags: libc::c_int, ino: u64) -> FdEntry {
        FdEntry { fd, mode, flags: flag(flags), ino, offset: -1, ..FdEntry::default() }
    }

    #[test]
    fn outputs_to_one_place_share_it() {
        let out = entry(1, libc::S_IFIFO, libc::O_WRONLY, 7);
        let err = entry(2, libc::S_IFIFO, libc::O_WRONLY, 7);
        assert!(is_same_output(&out, &err));
        assert!(!is_same_output(&out, &entry(2, libc::S_IFIFO, libc::O_WRONLY, 8)));
        assert!(!is_same_output(&entry(0, libc::S_IFCHR, libc::O_RDWR, 7), &out));
    }

    #[test]
    fn secrets_do_not_travel() {
        let env = b"PATH=/bin\0SSH_AUTH_SOCK=/x\0AWS_KEY=1\0GITHUB_TOKEN=2\0A=b=c\0".as_slice();
        assert_eq!(shipped(env, false), b"PATH=/bin\0A=b=c\0");
    }

    #[test]
    fn compile_steps_have_no_jobserver() {
        let env = b"MAKEFLAGS= -j4 --jobserver-auth=3,4 -- A=1\0CARGO_MAKEFLAGS=-j --jobserver-fds=6,7 --jobserver-auth=6,7\0";
        let expected = b"MAKEFLAGS= -j4 -- A=1\0CARGO_MAKEFLAGS=-j\0".as_slice();
        assert_eq!(shipped(env, true), [expected, TEMPORARY].concat());
        assert_eq!(shipped(env, false), env);
    }

    #[test]
    fn compile_steps_keep_the_place_for_temporary_files_that_they_are_given() {
        for env in [b"TMPDIR=/x\0".as_slice(), b"A=1\0TEMP=/x\0"] {
            assert_eq!(shipped(env, true), env);
        }
        assert_eq!(shipped(b"", false), b"");
    }
}
