//! What origin and runner tell each other about a walk: what to execute, and how it ended.

use serde::{Deserialize, Serialize};

use crate::bounded::at_most;
use crate::door::{RLIMITS, TERMIOS_BYTES};
use crate::id::WalkId;
use crate::principal::Principal;
use crate::said::Said;

/// First byte of every encoded spec. The error for another version names both.
pub const SPEC_VERSION: u8 = 4;

/// Longest spec: a hello of at most 8 MiB, and the little that the agent adds.
pub const SPEC_BYTES_MAX: usize = 9 * 1024 * 1024;
/// Most descriptors of a walk. An origin carries half as many, and links number them with one byte.
pub const FDS_MAX: usize = 256;
/// Most bytes of arguments and environment together: the kernel's limit.
const STRINGS_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Longest path.
const PATH_BYTES_MAX: usize = 65_536;

/// A byte string that need not be UTF-8, such as a path or an argument.
pub type Bytes = Vec<u8>;

/// Everything a runner needs to execute a process as the origin would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkSpec {
    /// The walk.
    pub walk: WalkId,
    /// Who asks for it. Its node is the walk's origin, whose files it sees.
    pub principal: Principal,
    /// The program as given to exec: absolute, or relative to the working directory.
    #[serde(with = "serde_bytes")]
    pub path: Bytes,
    /// The arguments, as consecutive NUL-terminated strings.
    #[serde(with = "serde_bytes")]
    pub argv: Bytes,
    /// The environment, likewise.
    #[serde(with = "serde_bytes")]
    pub env: Bytes,
    /// The working directory.
    #[serde(with = "serde_bytes")]
    pub cwd: Bytes,
    /// Host name of the origin.
    #[serde(with = "serde_bytes")]
    pub hostname: Bytes,
    /// The pid of the process at the origin; the walk has the same.
    pub pid: u32,
    /// File mode creation mask.
    pub umask: u32,
    /// Nice value.
    pub nice: i32,
    /// Blocked signals, bit `n - 1` for signal `n`.
    pub blocked: u64,
    /// Ignored signals.
    pub ignored: u64,
    /// Soft and hard resource limits, in the kernel's order.
    #[serde(deserialize_with = "at_most::<_, _, RLIMITS>")]
    pub rlimits: Vec<(u64, u64)>,
    /// The open descriptors.
    #[serde(deserialize_with = "at_most::<_, _, FDS_MAX>")]
    pub fds: Vec<FdSpec>,
    /// The terminal behind some of them.
    pub terminal: Option<TerminalSpec>,
    /// The walk may also change system directories: the overlay covers the whole tree.
    pub whole_tree: bool,
    /// It is a compile step, which reads no extended attributes and needs no network.
    pub compiles: bool,
    /// It has no network but a loopback device, even if it is no compile step.
    pub offline: bool,
}

/// A descriptor of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSpec {
    /// Its number.
    pub fd: u32,
    /// What it refers to.
    pub kind: FdKind,
}

/// What the runner opens as a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdKind {
    /// `/dev/null`, opened with these flags.
    Null {
        /// Open flags.
        flags: u32,
    },
    /// A stream the walk reads.
    Input,
    /// A stream the walk writes.
    Output,
    /// A duplicate of another descriptor of the list.
    Same {
        /// That descriptor.
        fd: u32,
    },
    /// A file of the origin's tree, open for reading.
    File {
        /// Its path.
        #[serde(deserialize_with = "at_most::<_, _, PATH_BYTES_MAX>")]
        path: Bytes,
        /// Its file offset.
        offset: u64,
    },
    /// The terminal.
    Terminal,
}

/// A terminal's state when the walk begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSpec {
    /// Its settings: a [`crate::door::Termios`].
    #[serde(with = "serde_bytes")]
    pub termios: Bytes,
    /// Its size.
    pub window: crate::door::Window,
    /// Whether the walk may read it.
    pub reads: bool,
}

/// How a walk ended on its runner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// The process ended; its changes are ready to be committed.
    Ended(Ending),
    /// It could not be executed there, and left nothing behind.
    Fault(Fault),
}

/// The end of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Wait status, as from `waitpid`.
    pub status: i32,
    /// Wall time on the runner, from the walk's arrival to the end of its program, in microseconds.
    pub run_us: u64,
    /// User and system time of the process and its children, in microseconds.
    pub cpu_us: u64,
}

/// Why a runner could not execute a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// The runner refused the walk or could not set it up; the text says why.
    Sandbox(String),
    /// The program could not be executed: `errno`.
    NotExecuted(i32),
    /// The runner's disk or memory for changes is full.
    Full,
    /// The origin refused a path that the walk asked for.
    NotExported(Bytes),
    /// Reserved: no runner sends it. Keeps the numbers of those below.
    Leaving,
    /// The runner has as many walks as it admits.
    Busy,
    /// The walk created a path longer than the origin's kernel accepts in one call.
    TooDeep,
    /// The session's token does not allow it; the text says what it lacks.
    NotAllowed(Said),
}

impl WalkSpec {
    /// Tells whether it has no network but a loopback device.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        self.compiles || self.offline
    }

    /// Returns the encoded spec, its version first.
    ///
    /// # Panics
    /// Never: the buffer grows.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![SPEC_VERSION]).expect("a spec fits a growing buffer")
    }

    /// Decodes a spec.
    ///
    /// # Errors
    /// The version differs, the bytes are damaged, or no origin can send such a spec.
    pub fn decode(bytes: &[u8]) -> Result<Self, SpecError> {
        if bytes.len() > SPEC_BYTES_MAX {
            return Err(SpecError::Impossible("it is too long"));
        }
        match bytes.split_first() {
            Some((&SPEC_VERSION, body)) => {
                let spec: Self = postcard::from_bytes(body)?;
                spec.check().map_err(SpecError::Impossible).map(|()| spec)
            }
            Some((&other, _)) => Err(SpecError::Version(other)),
            None => Err(SpecError::Empty),
        }
    }

    /// Checks that an origin can send such a spec. The bounds matter because readers scan its lists repeatedly.
    fn check(&self) -> Result<(), &'static str> {
        if self.argv.len().saturating_add(self.env.len()) > STRINGS_BYTES_MAX {
            return Err("its arguments and environment are longer than the kernel accepts");
        }
        if self.path.len().max(self.cwd.len()) > PATH_BYTES_MAX {
            return Err("a path is too long");
        }
        let mut seen = [false; FDS_MAX];
        for spec in &self.fds {
            let number = usize::try_from(spec.fd).unwrap_or(FDS_MAX);
            match (seen.get(number), &spec.kind) {
                (None, _) => return Err("a descriptor's number is too high"),
                (Some(true), _) => return Err("it lists a descriptor twice"),
                (_, FdKind::Same { fd })
                    if !usize::try_from(*fd).is_ok_and(|fd| seen.get(fd) == Some(&true)) =>
                {
                    return Err("a descriptor duplicates one that is not listed before it");
                }
                (Some(false), _) => seen[number] = true,
            }
        }
        match &self.terminal {
            Some(terminal) if terminal.termios.len() != TERMIOS_BYTES => {
                Err("its terminal's settings have the wrong size")
            }
            _ => Ok(()),
        }
    }

    /// Returns the arguments one by one.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> + Clone {
        strings(&self.argv)
    }

    /// Tells whether a descriptor refers to the terminal.
    #[must_use]
    pub fn is_terminal(&self, fd: u32) -> bool {
        self.fds.iter().any(|spec| spec.fd == fd && spec.kind == FdKind::Terminal)
    }

    /// Returns the descriptor that frames use for the terminal's output.
    #[must_use]
    pub fn terminal_output(&self) -> Option<u32> {
        let all = || self.fds.iter().map(|spec| spec.fd).filter(|&fd| self.is_terminal(fd));
        [1, 2].into_iter().find(|&fd| self.is_terminal(fd)).or_else(|| all().min())
    }

    /// Returns the descriptor that frames use for the terminal's input.
    #[must_use]
    pub fn terminal_input(&self) -> Option<u32> {
        self.fds.iter().map(|spec| spec.fd).filter(|&fd| self.is_terminal(fd)).min()
    }

    /// Returns the environment's entries one by one.
    pub fn environment(&self) -> impl Iterator<Item = &[u8]> + Clone {
        strings(&self.env)
    }
}

/// Why a spec cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Written by another version of OS Walk.
    #[error(
        "walk spec has version {0}, this agent reads {SPEC_VERSION}: install one version of OS Walk on all nodes"
    )]
    Version(u8),
    /// No bytes.
    #[error("walk spec is empty")]
    Empty,
    /// No origin has such a process.
    #[error("walk spec is impossible: {0}")]
    Impossible(&'static str),
    /// Not a spec.
    #[error("walk spec is damaged")]
    Damaged(#[from] postcard::Error),
}

/// Splits consecutive NUL-terminated strings.
pub fn strings(block: &[u8]) -> impl Iterator<Item = &[u8]> + Clone {
    block.split_inclusive(|&byte| byte == 0).map(|text| text.strip_suffix(b"\0").unwrap_or(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SessionId;

    fn principal(groups: Vec<u32>) -> Principal {
        Principal { node: "laptop".parse().expect("a valid name"), uid: 1000, gid: 1000, groups }
    }

    fn spec() -> WalkSpec {
        WalkSpec {
            walk: WalkId { session: SessionId(1), number: 2 },
            principal: principal(vec![4]),
            path: b"/usr/bin/gcc".to_vec(),
            argv: b"gcc\0-c\0a.c\0".to_vec(),
            env: b"PATH=/usr/bin\0X=\xff\0".to_vec(),
            cwd: b"/work".to_vec(),
            hostname: b"laptop".to_vec(),
            pid: 4711,
            umask: 0o22,
            nice: 0,
            blocked: 0,
            ignored: 0,
            rlimits: vec![(1, 2); 16],
            fds: vec![FdSpec { fd: 0, kind: FdKind::Input }],
            terminal: None,
            whole_tree: false,
            compiles: false,
            offline: false,
        }
    }

    #[test]
    fn specs_round_trip() {
        let spec = spec();
        assert_eq!(WalkSpec::decode(&spec.encode()).expect("just encoded"), spec);
        assert_eq!(spec.arguments().collect::<Vec<_>>(), [b"gcc".as_slice(), b"-c", b"a.c"]);
        assert_eq!(spec.environment().nth(1), Some(b"X=\xff".as_slice()));
    }

    #[test]
    fn damaged_specs_are_refused() {
        let bytes = spec().encode();
        assert!(matches!(WalkSpec::decode(&[]), Err(SpecError::Empty)));
        assert!(matches!(WalkSpec::decode(&[9, 1]), Err(SpecError::Version(9))));
        for end in 1..bytes.len() {
            assert!(WalkSpec::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn specs_that_no_origin_sends_are_refused() {
        let fd = |fd, kind| FdSpec { fd, kind };
        let input = |number| fd(number, FdKind::Input);
        let refused = |spec: &WalkSpec| WalkSpec::decode(&spec.encode()).is_err();
        let with_fds = |fds| WalkSpec { fds, ..spec() };
        assert!(!refused(&with_fds((0..256).map(input).collect())));
        assert!(refused(&with_fds(vec![input(256)])));
        assert!(refused(&with_fds(vec![input(7), input(7)])));
        assert!(refused(&with_fds(vec![input(0); 100_000])));
        let same = |other| fd(2, FdKind::Same { fd: other });
        assert!(!refused(&with_fds(vec![fd(1, FdKind::Output), same(1)])));
        for other in [2, 3, u32::MAX] {
            assert!(refused(&with_fds(vec![fd(1, FdKind::Output), same(other)])), "{other}");
        }
        let file = |bytes| FdKind::File { path: vec![b'/'; bytes], offset: 0 };
        assert!(!refused(&with_fds(vec![fd(3, file(65_536))])));
        assert!(refused(&with_fds(vec![fd(3, file(65_537))])));
        let with_groups = |count| principal(vec![4; count]);
        assert!(!refused(&WalkSpec { principal: with_groups(65_536), ..spec() }));
        assert!(refused(&WalkSpec { principal: with_groups(65_537), ..spec() }));
        assert!(refused(&WalkSpec { rlimits: vec![(1, 2); 17], ..spec() }));
        let half = vec![0; 3 * 1024 * 1024];
        let strings = |argv: &[u8]| WalkSpec { argv: argv.to_vec(), env: half.clone(), ..spec() };
        assert!(!refused(&strings(&half)));
        assert!(refused(&strings(&[half.as_slice(), b"\0"].concat())));
        assert!(refused(&WalkSpec { cwd: vec![b'/'; 65_537], ..spec() }));
        let terminal =
            |bytes| TerminalSpec { termios: vec![0; bytes], window: [0; 4], reads: true };
        assert!(!refused(&WalkSpec { terminal: Some(terminal(TERMIOS_BYTES)), ..spec() }));
        assert!(refused(&WalkSpec { terminal: Some(terminal(3)), ..spec() }));
    }
}
