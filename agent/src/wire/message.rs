//! What the larger frames of a link carry, in postcard.

use packetfs::change::ChangeSet;
use packetfs::packet::{Packed, PacketRef};
use packetfs::path::TreePath;
use packetfs::tree::{Content, Listing};
use serde::{Deserialize, Serialize};
use worknode::id::Attempt;
use worknode::spec::{Outcome, SPEC_BYTES_MAX};

use super::limits::{ASK_BYTES_MAX, PACKETS_PER_ASK};
use super::squeeze::{Damaged, Squeezed, Squeezer, Unsqueezer};

/// Execute this walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// The attempt that was granted.
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

    /// Returns the spec, or nothing if it is not wanted.
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

/// How a walk ended, and what it changed. Its packets have gone ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How it ended.
    pub outcome: Outcome,
    /// What is to be applied at the origin.
    pub changes: ChangeSet,
    /// Where reading stands in the files that were open at the start, by descriptor.
    #[serde(deserialize_with = "packetfs::allowance::list")]
    pub offsets: Vec<(u32, u64)>,
    /// Why it is not to be believed where it can be repeated.
    pub doubt: Option<Doubt>,
}

/// What a walk saw that is not as it is at the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Doubt {
    /// There is more than it was shown.
    ShownLess,
    /// A file that was changed while it was read.
    Torn,
    /// It has left files in a directory that it alone had, where they are lost.
    Left,
    /// It was led to what its runner has of its own.
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
    /// What is in this directory?
    Listing(TreePath),
    /// What packets is this file?
    Content(TreePath),
    /// These packets of the file, each with its offset.
    Packets(TreePath, Vec<(u64, PacketRef)>),
}

impl Ask {
    /// Reads a question; nothing if it is damaged, or asks for more at once than a runner does.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        if payload.len() > ASK_BYTES_MAX {
            return None;
        }
        let ask = postcard::from_bytes(payload).ok()?;
        let is_bounded = !matches!(&ask, Self::Packets(_, all) if all.len() > PACKETS_PER_ASK);
        is_bounded.then_some(ask)
    }
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The directory.
    Listing(Listing),
    /// The file, with its packet if there is only one.
    Content(Content, Option<Packed>),
    /// The packets that are still there.
    Packets(Vec<(PacketRef, Packed)>),
    /// `errno`.
    Failed(i32),
}

/// The answer to a question that a runner would ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The question.
    pub ask: Ask,
    /// The answer.
    pub answer: Answer,
}

impl Told {
    /// Returns about how much there is to send.
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
    fn a_question_is_as_long_as_a_runner_asks() {
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
