//! The hello: a stub's description of its process.

use super::limits::VERSION;
use super::payload::{TERMIOS_BYTES, Termios, Window, decode_window};

/// Resource limits that a process has on Linux (`RLIM_NLIMITS`).
pub const RLIMITS: usize = 16;

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
    fn records_round_trip() {
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
