//! The payloads of the larger frames, encoded with postcard.

use packetfs::change::ChangeSet;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::TreePath;
use packetfs::tree::{Content, Listing};
use serde::{Deserialize, Serialize};
use worknode::capability::Token;
use worknode::id::{Attempt, SessionId};
use worknode::spec::{Outcome, SPEC_BYTES_MAX};

use super::limits::{ASK_BYTES_MAX, INTRODUCTION_BYTES_MAX, PACKETS_PER_ASK};
use super::squeeze::{Damaged, Squeezed, Squeezer, Unsqueezer};

/// Introduces a session to a runner, which believes its token until the session ends or the link does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The session.
    pub session: SessionId,
    /// Its token; absent when the session has ended.
    pub token: Option<Token>,
}

impl Introduction {
    /// Decodes an introduction. Returns `None` if it is damaged or too long.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let fits = payload.len() <= INTRODUCTION_BYTES_MAX;
        fits.then(|| postcard::from_bytes(payload).ok()).flatten()
    }
}

/// An order to execute a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The granted attempt.
    pub attempt: Attempt,
    /// The encoded [`worknode::spec::WalkSpec`].
    pub spec: Squeezed,
}

impl Open {
    /// Encodes the message that has a spec executed.
    #[must_use]
    pub fn encode(attempt: Attempt, spec: &[u8], squeezer: &mut Squeezer) -> Vec<u8> {
        encode(&Self { attempt, spec: squeezer.squeeze(spec) })
    }

    /// Returns the spec, or `None` if it is not wanted.
    ///
    /// # Errors
    /// See [`Unsqueezer::take`].
    pub fn decode_spec(
        payload: &[u8],
        unsqueezer: &mut Unsqueezer,
        wanted: bool,
    ) -> Result<Option<Vec<u8>>, Damaged> {
        let open: Self = postcard::from_bytes(payload).map_err(|_| Damaged)?;
        unsqueezer.take(open.spec, SPEC_BYTES_MAX, wanted)
    }
}

/// The end of a walk, and its changes. Their packets have been sent before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How it ended.
    pub outcome: Outcome,
    /// The changes to apply at the origin.
    pub changes: ChangeSet,
    /// File offsets of the files that were open for reading at the start, by descriptor.
    #[serde(deserialize_with = "packetfs::allowance::list")]
    pub offsets: Vec<(u32, u64)>,
    /// Why its result must not be used if the walk can be repeated.
    pub doubt: Option<Doubt>,
}

/// How a walk's view or files differed from the origin's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// Some files or attributes were not shown to it.
    ShownLess,
    /// It read a file during a change.
    Torn,
    /// It left files in a directory that is private to the walk, where they are lost.
    Left,
    /// It accessed files that are local to its runner.
    Elsewhere,
}

/// Packets of changed files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packets {
    /// The packets.
    pub packets: Vec<(PacketRef, Packed)>,
}

/// A question about the origin's tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// The listing of a directory.
    Listing(TreePath),
    /// The manifest of a file.
    Content(TreePath),
    /// Packets of a file, each with its offset.
    Packets(TreePath, Vec<(u64, PacketRef)>),
}

impl Ask {
    /// Decodes a question. Returns `None` if it is damaged, or asks for more at once than a runner does.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        if payload.len() > ASK_BYTES_MAX {
            return None;
        }
        let ask = postcard::from_bytes(payload).ok()?;
        let is_bounded = !matches!(&ask, Self::Packets(_, all) if all.len() > PACKETS_PER_ASK);
        is_bounded.then_some(ask)
    }

    /// Returns the path that it is about.
    pub fn path(&self) -> &[u8] {
        let (Self::Listing(path) | Self::Content(path) | Self::Packets(path, _)) = self;
        path
    }
}

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The directory.
    Listing(Listing),
    /// The file, with its packet if there is only one.
    Content(Content, Option<Packed>),
    /// Those of the packets that still exist.
    Packets(Vec<(PacketRef, Packed)>),
    /// `errno`.
    Failed(i32),
}

/// An expected question with its answer, sent ahead of a walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The question.
    pub ask: Ask,
    /// The answer to a question.
    pub answer: Answer,
}

impl Told {
    /// Estimates the encoded bytes.
    pub fn bytes(&self) -> usize {
        const ENTRY_BYTES: usize = 64;
        match &self.answer {
            Answer::Listing(listing) => listing.entries.len() * ENTRY_BYTES,
            Answer::Content(content, inline) => {
                let inline = inline.as_ref().map_or(0, |packed| packed.body.len());
                inline + content.manifest.packets.len() * ENTRY_BYTES
            }
            Answer::Packets(packets) => packets.iter().map(|(_, packed)| packed.body.len()).sum(),
            Answer::Failed(_) => 0,
        }
    }
}

/// Encodes a message.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).expect("a message fits a growing buffer")
}

#[cfg(test)]
mod tests {
    use packetfs::path::PATH_BYTES_MAX;

    use super::*;

    #[test]
    fn the_length_of_a_question_is_bounded() {
        let path = || TreePath::new("/x".repeat(PATH_BYTES_MAX / 2)).expect("as long as any");
        let packet = PacketRef { digest: packetfs::packet::Digest([1; 32]), bytes: u32::MAX };
        let ask = |count| Ask::Packets(path(), vec![(u64::MAX, packet); count]);
        let longest = ask(PACKETS_PER_ASK);
        assert_eq!(Ask::decode(&encode(&longest)), Some(longest));
        assert_eq!(Ask::decode(&encode(&ask(PACKETS_PER_ASK + 1))), None);
        let short = Ask::Packets(TreePath::root(), vec![(0, packet); PACKETS_PER_ASK + 1]);
        assert_eq!(Ask::decode(&encode(&short)), None);
    }
}
