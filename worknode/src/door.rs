//! The protocol between the stub and the agent over the agent's unix socket, the door.
//!
//! A frame is an 8-byte header, `u8 kind, u8 0, u16 fd, u32 payload bytes` (little-endian), and the
//! payload. The stub begins with [`Kind::Hello`]; the agent ends the conversation with [`Kind::Exit`],
//! [`Kind::RunHere`] or [`Kind::Refused`]. `oswalk` sends its requests over the same socket, as
//! [`Kind::Request`].

mod hello;
mod limits;
mod payload;

pub use hello::{FD_ENTRY_BYTES, FdEntry, HELLO_HEAD_BYTES, HelloHead, RLIMITS};
pub use limits::{DATA_BYTES_MAX, HELLO_BYTES_MAX, ROOT_BYTES_MAX, VERSION, WINDOW_BYTES};
pub use payload::{
    Here, Settings, Signal, TERMIOS_BYTES, Termios, Window, decode_number, decode_offset,
    decode_status, decode_window, encode_window,
};

/// The state directory of the agent that serves all users of a machine.
pub const SYSTEM_STATE: &str = "/var/lib/oswalk";
/// The directory of that agent's door, and of the policy pages of its sessions.
pub const SYSTEM_DIR: &str = "/run/oswalk";
/// The name of a door: in that directory, and in each state directory.
pub const NAME: &str = "door";

/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;

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
    /// Preload library: asks for the root of the volume that is mounted at the path in the payload. The agent answers with the
    /// same frame, empty, and the descriptor as ancillary data, or with [`Kind::Failed`].
    Root = 21,
}

impl Kind {
    /// All kinds, by number from 1 on.
    pub const ALL: [Self; 21] = [
        Self::Hello,
        Self::Data,
        Self::Eof,
        Self::Written,
        Self::Broken,
        Self::Signal,
        Self::Resize,
        Self::Want,
        Self::Close,
        Self::Exit,
        Self::RunHere,
        Self::Request,
        Self::Failed,
        Self::Refused,
        Self::Seek,
        Self::Took,
        Self::Ready,
        Self::Settings,
        Self::Stopped,
        Self::Rewind,
        Self::Root,
    ];

    /// Returns the kind with this number.
    #[must_use]
    pub fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value).checked_sub(1)?).copied()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_dense() {
        for value in 1..=21 {
            assert_eq!(Kind::from_u8(value).map(|kind| kind as u8), Some(value));
        }
        assert_eq!(Kind::from_u8(0), None);
        assert_eq!(Kind::from_u8(22), None);
    }

    #[test]
    fn headers_round_trip() {
        let header = Header { kind: Kind::Data, fd: 513, payload_bytes: 70_000 };
        assert_eq!(Header::decode(header.encode()), Some(header));
    }
}
