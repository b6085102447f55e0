//! The protocol between the stub and the agent over the agent's unix socket, the door.
//!
//! A frame is an 8-byte header, `u8 kind, u8 0, u16 fd, u32 payload bytes` (little-endian), and the
//! payload. The stub begins with [`Kind::Hello`]; the agent ends the conversation with [`Kind::Exit`],
//! [`Kind::RunHere`] or [`Kind::Refused`]. `oswalk` sends its requests over the same socket, as
//! [`Kind::Request`].

/// Version of this protocol, in the hello.
pub const VERSION: u32 = 4;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;
/// Longest payload of a [`Kind::Data`] frame.
pub const DATA_BYTES_MAX: usize = 32 * 1024;
/// Longest payload of a hello: the kernel limits arguments and environment to 6 MiB.
pub const HELLO_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Bytes in flight towards a descriptor of the stub before the agent waits for
/// [`Kind::Written`].
pub const WINDOW_BYTES: usize = 256 * 1024;

/// The kinds of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Stub: everything about the process (see [`HelloHead`]).
    Hello = 1,
    /// Both: bytes of a descriptor.
    Data = 2,
    /// Stub: the descriptor is at end of file.
    Eof = 3,
    /// Stub: `u32` bytes were written to the descriptor.
    Written = 4,
    /// Stub: the descriptor has no reader any more.
    Broken = 5,
    /// Stub: a signal to forward: `u32` number, `u32` 1 if the terminal sent it to the whole process group.
    Signal = 6,
    /// Stub: the terminal's size, `u16` rows, columns, x pixels, y pixels.
    Resize = 7,
    /// Agent: send up to `u32` bytes of the descriptor, in one or more [`Kind::Data`], the last of which
    /// is shorter than [`DATA_BYTES_MAX`]. They are only peeked: unless the descriptor is a terminal, the
    /// bytes stay in it until [`Kind::Took`]. With 0 bytes: send [`Kind::Ready`] when input arrives.
    Want = 8,
    /// Agent: the walk closed the descriptor.
    Close = 9,
    /// Agent: the walk ended with this `i32` wait status.
    Exit = 10,
    /// Agent: execute the program at the origin instead; `u8` reason.
    RunHere = 11,
    /// `oswalk`: a request, as JSON; the answer is one frame of the same kind.
    Request = 12,
    /// Agent: the request failed; UTF-8 text.
    Failed = 13,
    /// Agent: the program cannot walk, and the session forbids running it at the origin; UTF-8 text.
    Refused = 14,
    /// Agent: the walk has read the file behind the descriptor up to this `u64` offset.
    Seek = 15,
    /// Agent: the walk has read `u32` of the bytes sent: consume them from the descriptor.
    Took = 16,
    /// Stub: the terminal has input.
    Ready = 17,
    /// Both: the terminal's settings ([`Termios`]). From the agent, a `u8` follows: 1 discards unread
    /// input (`TCSAFLUSH`).
    Settings = 18,
    /// Agent: the walk was stopped by this `u32` signal.
    Stopped = 19,
    /// Agent: the walk starts over, so forget all [`Kind::Want`]s. The stub answers with the same frame.
    Rewind = 20,
}

impl Kind {
    /// Returns the kind with this number.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        const ALL: [Kind; 20] = [
            Kind::Hello,
            Kind::Data,
            Kind::Eof,
            Kind::Written,
            Kind::Broken,
            Kind::Signal,
            Kind::Resize,
            Kind::Want,
            Kind::Close,
            Kind::Exit,
            Kind::RunHere,
            Kind::Request,
            Kind::Failed,
            Kind::Refused,
            Kind::Seek,
            Kind::Took,
            Kind::Ready,
            Kind::Settings,
            Kind::Stopped,
            Kind::Rewind,
        ];
        ALL.get(usize::from(value).checked_sub(1)?).copied()
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: Kind,
    /// The stub's descriptor that the frame concerns; 0 if it concerns none.
    pub fd: u16,
    /// Bytes of the payload.
    pub payload_bytes: u32,
}

impl Header {
    /// Returns the encoded header.
    #[must_use]
    pub fn encode(self) -> [u8; HEADER_BYTES] {
        let fd = self.fd.to_le_bytes();
        let size = self.payload_bytes.to_le_bytes();
        [self.kind as u8, 0, fd[0], fd[1], size[0], size[1], size[2], size[3]]
    }

    /// Returns the header in these bytes, or `None` if the kind is unknown.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Option<Self> {
        Some(Self {
            kind: Kind::from_u8(bytes[0])?,
            fd: u16::from_le_bytes([bytes[2], bytes[3]]),
            payload_bytes: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        })
    }
}

/// Resource limits that a process has on Linux (`RLIM_NLIMITS`).
pub const RLIMITS: usize = 16;
/// Bytes of a terminal's settings (the kernel's `struct termios`): `u32` input, output, control and
/// local flags, `u8` line discipline, 19 control characters.
pub const TERMIOS_BYTES: usize = 36;
/// A terminal's settings.
pub type Termios = [u8; TERMIOS_BYTES];
/// A terminal's size: rows, columns, x pixels, y pixels.
pub type Window = [u16; 4];

/// The fixed part of a hello. It is followed, without gaps, by `fds` records of [`FdEntry`], the path,
/// the working directory, the arguments and the environment. The last two are consecutive
/// NUL-terminated strings, as the kernel lays them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HelloHead {
    /// [`VERSION`] of the stub.
    pub version: u32,
    /// Number of [`FdEntry`] records.
    pub fds: u32,
    /// The session's number, from the policy page.
    pub session: u64,
    /// The process's umask.
    pub umask: u32,
    /// The process's nice value.
    pub nice: i32,
    /// Blocked signals, bit `n - 1` for signal `n`.
    pub blocked: u64,
    /// Ignored signals.
    pub ignored: u64,
    /// Soft and hard limits.
    pub rlimits: [(u64, u64); RLIMITS],
    /// Settings of the first descriptor that is a terminal, if there is one.
    pub termios: Termios,
    /// Its size.
    pub window: Window,
    /// Bytes of the path of the program.
    pub path_bytes: u32,
    /// Bytes of the working directory.
    pub cwd_bytes: u32,
    /// Bytes of the arguments with their NULs.
    pub argv_bytes: u32,
    /// Bytes of the environment with its NULs.
    pub env_bytes: u32,
}

/// Bytes of a [`HelloHead`].
pub const HELLO_HEAD_BYTES: usize =
    4 + 4 + 8 + 4 + 4 + 8 + 8 + RLIMITS * 16 + TERMIOS_BYTES + 8 + 16;

impl HelloHead {
    /// Makes a head for the session with all other fields zero.
    #[must_use]
    pub fn new(session: u64) -> Self {
        Self {
            version: VERSION,
            fds: 0,
            session,
            umask: 0,
            nice: 0,
            blocked: 0,
            ignored: 0,
            rlimits: [(0, 0); RLIMITS],
            termios: [0; TERMIOS_BYTES],
            window: [0; 4],
            path_bytes: 0,
            cwd_bytes: 0,
            argv_bytes: 0,
            env_bytes: 0,
        }
    }

    /// Returns the encoded head.
    #[must_use]
    pub fn encode(&self) -> [u8; HELLO_HEAD_BYTES] {
        let mut out = Writer { bytes: [0; HELLO_HEAD_BYTES], at: 0 };
        out.put(&self.version.to_le_bytes());
        out.put(&self.fds.to_le_bytes());
        out.put(&self.session.to_le_bytes());
        out.put(&self.umask.to_le_bytes());
        out.put(&self.nice.to_le_bytes());
        out.put(&self.blocked.to_le_bytes());
        out.put(&self.ignored.to_le_bytes());
        for (soft, hard) in self.rlimits {
            out.put(&soft.to_le_bytes());
            out.put(&hard.to_le_bytes());
        }
        out.put(&self.termios);
        self.window.iter().for_each(|word| out.put(&word.to_le_bytes()));
        for size in [self.path_bytes, self.cwd_bytes, self.argv_bytes, self.env_bytes] {
            out.put(&size.to_le_bytes());
        }
        out.bytes
    }

    /// Returns the head at the start of `bytes` and what follows it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = bytes.split_at_checked(HELLO_HEAD_BYTES)?;
        let mut reader = Reader { bytes: head };
        let head = Self {
            version: u32::from_le_bytes(reader.take()?),
            fds: u32::from_le_bytes(reader.take()?),
            session: u64::from_le_bytes(reader.take()?),
            umask: u32::from_le_bytes(reader.take()?),
            nice: i32::from_le_bytes(reader.take()?),
            blocked: u64::from_le_bytes(reader.take()?),
            ignored: u64::from_le_bytes(reader.take()?),
            rlimits: {
                let mut rlimits = [(0, 0); RLIMITS];
                for limit in &mut rlimits {
                    let soft = u64::from_le_bytes(reader.take()?);
                    *limit = (soft, u64::from_le_bytes(reader.take()?));
                }
                rlimits
            },
            termios: reader.take()?,
            window: decode_window(&reader.take()?),
            path_bytes: u32::from_le_bytes(reader.take()?),
            cwd_bytes: u32::from_le_bytes(reader.take()?),
            argv_bytes: u32::from_le_bytes(reader.take()?),
            env_bytes: u32::from_le_bytes(reader.take()?),
        };
        Some((head, rest))
    }
}

/// Returns the size in the payload of [`Kind::Resize`].
#[must_use]
pub fn decode_window(bytes: &[u8; 8]) -> Window {
    core::array::from_fn(|at| u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]]))
}

/// Returns the payload of [`Kind::Resize`].
#[must_use]
pub fn encode_window(window: Window) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes
        .chunks_exact_mut(2)
        .zip(window)
        .for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
    bytes
}

/// An open descriptor of the process, as `fstat` and `fcntl` report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FdEntry {
    /// The descriptor's number.
    pub fd: u32,
    /// `F_GETFL`.
    pub flags: u32,
    /// `st_mode`.
    pub mode: u32,
    /// 1 if it is a terminal.
    pub terminal: u32,
    /// `st_dev`.
    pub dev: u64,
    /// `st_ino`.
    pub ino: u64,
    /// `st_rdev`.
    pub rdev: u64,
    /// The file offset, or -1 where there is none.
    pub offset: i64,
}

/// Bytes of an [`FdEntry`].
pub const FD_ENTRY_BYTES: usize = 48;

impl FdEntry {
    /// Returns the encoded entry.
    #[must_use]
    pub fn encode(&self) -> [u8; FD_ENTRY_BYTES] {
        let mut out = Writer { bytes: [0; FD_ENTRY_BYTES], at: 0 };
        for word in [self.fd, self.flags, self.mode, self.terminal] {
            out.put(&word.to_le_bytes());
        }
        for word in [self.dev, self.ino, self.rdev] {
            out.put(&word.to_le_bytes());
        }
        out.put(&self.offset.to_le_bytes());
        out.bytes
    }

    /// Returns the entry at the start of `bytes` and what follows it.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (entry, rest) = bytes.split_at_checked(FD_ENTRY_BYTES)?;
        let mut reader = Reader { bytes: entry };
        let entry = Self {
            fd: u32::from_le_bytes(reader.take()?),
            flags: u32::from_le_bytes(reader.take()?),
            mode: u32::from_le_bytes(reader.take()?),
            terminal: u32::from_le_bytes(reader.take()?),
            dev: u64::from_le_bytes(reader.take()?),
            ino: u64::from_le_bytes(reader.take()?),
            rdev: u64::from_le_bytes(reader.take()?),
            offset: i64::from_le_bytes(reader.take()?),
        };
        Some((entry, rest))
    }
}

struct Writer<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Writer<N> {
    fn put(&mut self, part: &[u8]) {
        self.bytes[self.at..self.at + part.len()].copy_from_slice(part);
        self.at += part.len();
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (part, rest) = self.bytes.split_first_chunk()?;
        self.bytes = rest;
        Some(*part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_dense() {
        for value in 1..=20 {
            assert_eq!(Kind::from_u8(value).map(|kind| kind as u8), Some(value));
        }
        assert_eq!(Kind::from_u8(0), None);
        assert_eq!(Kind::from_u8(21), None);
    }

    #[test]
    fn records_round_trip() {
        let header = Header { kind: Kind::Data, fd: 513, payload_bytes: 70_000 };
        assert_eq!(Header::decode(header.encode()), Some(header));

        let mut head = HelloHead { nice: -5, session: 7, ..HelloHead::new(9) };
        head.termios[35] = 8;
        head.window = [24, 80, 0, 513];
        head.rlimits[15] = (1, u64::MAX);
        head.env_bytes = 99;
        let mut bytes = head.encode().to_vec();
        bytes.extend(b"rest");
        assert_eq!(HelloHead::decode(&bytes), Some((head, b"rest".as_slice())));
        assert_eq!(HelloHead::decode(&bytes[..100]), None);

        let entry = FdEntry { fd: 1, offset: -1, dev: 9, terminal: 1, ..Default::default() };
        assert_eq!(FdEntry::decode(&entry.encode()), Some((entry, b"".as_slice())));
    }
}
