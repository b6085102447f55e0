//! The frames of a link. A WebSocket message is one or more frames; a frame is
//! `u8 kind, u24 payload bytes, u32 stream` (little-endian) and its payload. The top bit of the kind
//! is set if the payload continues in the next frame of that stream.

use bytes::{Buf, Bytes};

use super::limits::{ASSEMBLED_BYTES_MAX, LONG_BYTES_MAX, PAYLOAD_BYTES_MAX, SHORT_BYTES_MAX};

/// Bytes of a frame's header.
pub const HEAD_BYTES: usize = 8;
const MORE: u8 = 0x80;

/// The kinds of frame. For requests about files, the stream is the number of the request, otherwise that of
/// the walk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Origin: execute this walk ([`super::message::Open`]).
    Open = 1,
    /// Both: bytes of a descriptor: `u8 fd`, the bytes.
    Data = 2,
    /// Origin: no more bytes for the descriptor: `u8 fd`.
    Eof = 3,
    /// Both: credit for more bytes of the descriptor: `u8 fd, u32 bytes`. 0 bytes, for a terminal that the
    /// walk does not read yet, requests [`Kind::Ready`] when it has input.
    Credit = 4,
    /// Origin: the descriptor has no reader any more: `u8 fd`.
    Broken = 5,
    /// Origin: a signal: `u32` number, `u32` 1 if the terminal sent it to the whole process group.
    Signal = 6,
    /// Origin: cancel the walk.
    Cancel = 7,
    /// Origin: answers to the expected questions of a walk, sent ahead of it ([`super::message::Told`]).
    Told = 8,
    /// Runner: packets of changed files, ahead of the exit.
    Packets = 9,
    /// Runner: the walk ended ([`super::message::Exit`]).
    Exit = 10,
    /// Runner: a question about the origin's tree ([`super::message::Ask`]).
    Ask = 11,
    /// Origin: the answer ([`super::message::Answer`]).
    Answer = 12,
    /// Origin: changes of its tree.
    Changes = 13,
    /// Both: a liveness check.
    Ping = 14,
    /// Both: the answer to a liveness check.
    Pong = 15,
    /// Runner: the walk has read so many bytes of its input: `u8 fd, u32 bytes`.
    Took = 16,
    /// Origin: the terminal has input: `u8 fd`.
    Ready = 17,
    /// Both: the terminal's settings: `u8 fd`, a [`worknode::door::Termios`].
    Settings = 18,
    /// Origin: the terminal's size: `u8 fd`, four `u16`.
    Resize = 19,
    /// Runner: the walk was stopped by this `u32` signal.
    Stopped = 20,
    /// Origin: a session's token, before its first walk, or the end of a session ([`super::message::Introduction`]).
    Session = 21,
    /// Both: which events of volumes are here ([`super::feed::Has`]).
    Has = 22,
    /// Both: events of a volume ([`super::feed::Events`]).
    Events = 23,
    /// Both: requests events ([`super::feed::Want`]).
    Want = 24,
    /// Both: requests packets of a volume ([`super::feed::Fetch`]).
    Fetch = 25,
    /// Both: those of the requested packets that are here ([`super::message::Packets`]).
    Fetched = 26,
    /// Both: asks which packets of a volume are there ([`super::feed::Probe`]).
    Probe = 27,
    /// Both: which are ([`super::feed::Probed`]).
    Probed = 28,
    /// Origin: the key of the tickets for what this runner holds ([`super::holding::TicketKey`]).
    TicketKey = 29,
    /// Origin: packets that other runners give ([`super::holding::Held`]).
    Held = 30,
    /// Both: requests packets of an origin that this runner holds ([`super::holding::Claim`]).
    Claim = 31,
    /// Both: those of the claimed packets that are here ([`super::message::Packets`]).
    Given = 32,
    /// Both: locks on files of volumes ([`packetfs::locks::Envelope`]).
    Locks = 33,
}

impl Kind {
    /// Returns the longest assembled payload of this kind.
    fn bytes_max(self) -> usize {
        match self {
            Self::Exit | Self::Answer | Self::Changes => ASSEMBLED_BYTES_MAX,
            Self::Open
            | Self::Told
            | Self::Packets
            | Self::Events
            | Self::Fetched
            | Self::Given => LONG_BYTES_MAX,
            _ => SHORT_BYTES_MAX,
        }
    }

    /// All kinds, by number from 1 on.
    pub const ALL: [Self; 33] = [
        Self::Open,
        Self::Data,
        Self::Eof,
        Self::Credit,
        Self::Broken,
        Self::Signal,
        Self::Cancel,
        Self::Told,
        Self::Packets,
        Self::Exit,
        Self::Ask,
        Self::Answer,
        Self::Changes,
        Self::Ping,
        Self::Pong,
        Self::Took,
        Self::Ready,
        Self::Settings,
        Self::Resize,
        Self::Stopped,
        Self::Session,
        Self::Has,
        Self::Events,
        Self::Want,
        Self::Fetch,
        Self::Fetched,
        Self::Probe,
        Self::Probed,
        Self::TicketKey,
        Self::Held,
        Self::Claim,
        Self::Given,
        Self::Locks,
    ];

    /// Tells whether it is between volumes, or for walks of another origin, and so no part of a walk of either side.
    #[must_use]
    pub fn is_aside(self) -> bool {
        matches!(
            self,
            Self::Has
                | Self::Events
                | Self::Want
                | Self::Fetch
                | Self::Fetched
                | Self::Probe
                | Self::Probed
                | Self::Claim
                | Self::Given
                | Self::Locks
        )
    }

    fn from_u8(value: u8) -> Option<Self> {
        Self::ALL.get(usize::from(value).checked_sub(1)?).copied()
    }
}

/// A complete frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub stream: u32,
    pub payload: Bytes,
}

impl Frame {
    /// Appends the frame to a message, split into pieces if it is long.
    pub fn encode(&self, message: &mut Vec<u8>) {
        let mut rest = self.payload.as_ref();
        loop {
            let (piece, after) = rest.split_at(rest.len().min(PAYLOAD_BYTES_MAX));
            let more = if after.is_empty() { 0 } else { MORE };
            let length = u32::try_from(piece.len()).expect("a piece is at most 64 KiB");
            message.push(self.kind as u8 | more);
            message.extend(&length.to_le_bytes()[..3]);
            message.extend(self.stream.to_le_bytes());
            message.extend(piece);
            rest = after;
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// Splits a message at frame boundaries into parts of at most `bytes_max`, or of one longer frame.
#[must_use]
pub fn parts(message: Vec<u8>, bytes_max: usize) -> Vec<Vec<u8>> {
    if message.len() <= bytes_max {
        return vec![message];
    }
    let mut parts = vec![Vec::new()];
    let mut rest = message.as_slice();
    while !rest.is_empty() {
        let length = u32::from_le_bytes([rest[1], rest[2], rest[3], 0]) as usize;
        let (frame, after) = rest.split_at(HEAD_BYTES + length);
        if parts.last().is_some_and(|part| part.len() + frame.len() > bytes_max) {
            parts.push(Vec::new());
        }
        parts.last_mut().expect("there is always a part").extend(frame);
        rest = after;
    }
    parts
}

/// Why bytes are not frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame is truncated")]
    Truncated,
    #[error("a frame has the unknown kind {0}")]
    Kind(u8),
    #[error("a frame is too long for its kind")]
    TooLong,
    #[error("a frame does not continue the unfinished one before it")]
    Discontinued,
}

/// A frame as it was sent, or a piece of a long one.
struct Piece {
    kind: Kind,
    /// The frame goes on in the next piece.
    more: bool,
    stream: u32,
    payload: Bytes,
}

impl Piece {
    /// Takes the first piece off a message, whose memory it shares.
    fn take_off(message: &mut Bytes) -> Result<Self, FrameError> {
        let head = *message.first_chunk::<HEAD_BYTES>().ok_or(FrameError::Truncated)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], 0]) as usize;
        if message.len() - HEAD_BYTES < length {
            return Err(FrameError::Truncated);
        }
        message.advance(HEAD_BYTES);
        Ok(Self {
            kind: Kind::from_u8(head[0] & !MORE).ok_or(FrameError::Kind(head[0]))?,
            more: head[0] & MORE != 0,
            stream: u32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            payload: message.split_to(length),
        })
    }
}

/// Joins the pieces of long frames, which must be consecutive.
#[derive(Debug, Default)]
pub struct Assembler {
    partial: Option<(Kind, u32, Vec<u8>)>,
}

impl Assembler {
    /// Splits a message into frames. They share its memory, except those that came in pieces.
    ///
    /// # Errors
    /// The bytes are not frames, or the frames are too long.
    pub fn frames(&mut self, mut message: Bytes) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while !message.is_empty() {
            frames.extend(self.join(Piece::take_off(&mut message)?)?);
        }
        Ok(frames)
    }

    /// Returns the frame that a piece completes.
    fn join(&mut self, piece: Piece) -> Result<Option<Frame>, FrameError> {
        let Piece { kind, more, stream, payload } = piece;
        let mut begun = match self.partial.take() {
            None if !more => return Ok(Some(Frame { kind, stream, payload })),
            None => Vec::new(),
            Some((first, of, begun)) if (first, of) == (kind, stream) => begun,
            Some(_) => return Err(FrameError::Discontinued),
        };
        if begun.len() + payload.len() > kind.bytes_max() {
            return Err(FrameError::TooLong);
        }
        begun.extend(&payload);
        if more {
            self.partial = Some((kind, stream, begun));
            return Ok(None);
        }
        Ok(Some(Frame { kind, stream, payload: begun.into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_round_trip() {
        let frames = [
            Frame { kind: Kind::Open, stream: 7, payload: vec![1; 200_000].into() },
            Frame { kind: Kind::Ping, stream: 0, payload: Bytes::new() },
            Frame { kind: Kind::Data, stream: 9, payload: Bytes::from_static(b"\x01hello") },
        ];
        let mut message = Vec::new();
        frames.iter().for_each(|frame| frame.encode(&mut message));
        let mut assembler = Assembler::default();
        let mut first = Bytes::from(message);
        let second = first.split_off(HEAD_BYTES + PAYLOAD_BYTES_MAX);
        let mut read = assembler.frames(first).expect("sound");
        read.extend(assembler.frames(second).expect("sound"));
        assert_eq!(read, frames);
    }

    #[test]
    fn bad_bytes_are_refused() {
        let frames = |bytes: &[u8]| Assembler::default().frames(Bytes::copy_from_slice(bytes));
        assert_eq!(frames(&[1, 2]), Err(FrameError::Truncated));
        assert_eq!(frames(&[1, 5, 0, 0, 0, 0, 0, 0]), Err(FrameError::Truncated));
        assert_eq!(frames(&[0x7f, 0, 0, 0, 0, 0, 0, 0]), Err(FrameError::Kind(0x7f)));
        let mixed = [0x81, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(frames(&mixed), Err(FrameError::Discontinued));
    }

    #[test]
    fn frame_lengths_are_bounded_by_kind() {
        let frames = |kind, bytes| {
            let mut message = Vec::new();
            Frame { kind, stream: 1, payload: vec![0; bytes].into() }.encode(&mut message);
            Assembler::default().frames(message.into())
        };
        for (kind, bytes) in [(Kind::Data, SHORT_BYTES_MAX), (Kind::Open, LONG_BYTES_MAX)] {
            assert!(frames(kind, bytes).is_ok());
            assert_eq!(frames(kind, bytes + 1), Err(FrameError::TooLong));
        }
    }
}
