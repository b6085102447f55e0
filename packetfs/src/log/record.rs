//! Records: how events and barriers stand in a segment. Pure.
//!
//! A record is a length (four bytes), a kind, a payload of that length, and a hash. The hash is over the hash of the
//! record before, kind and payload, keyed with the log's secret id, so that no user can make a record inside of an event.

use serde::{Deserialize, Serialize};
use worknode::history::Event;
use worknode::key::Signature;

use super::error::{Flaw, LogError};
use super::place::{Chain, FeedHash, Tip};

/// Longest payload. An attribute's value has 64 KiB at most, and each parent of a merge takes 30 bytes at most.
pub(super) const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Longest payload of a barrier: two numbers of ten bytes, and a signature of 66.
const BARRIER_BYTES_MAX: usize = 96;
/// The length and the kind.
const HEAD_BYTES: usize = 5;
const HASH_BYTES: usize = size_of::<Chain>();

/// What a signature is for.
const SIGNED_CONTEXT: &[u8] = b"oswalk 2026 events of a file system up to ";
/// Context string for deriving feed hashes.
const FEED_CONTEXT: &str = "oswalk 2026 feed";

/// What a record's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Event = 1,
    Barrier = 2,
    Seal = 3,
}

/// The payload of a barrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Barrier {
    /// The last event that it covers. Later events may precede this record.
    pub(super) covers: u64,
    /// The last event that was covered, and durable, when this record was written.
    pub(super) covered: u64,
    /// The signature of [`signed`].
    pub(super) signature: Option<Signature>,
}

/// The payload of a seal: a signature that says nothing about what is durable. It bounds how many events must be sent
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seal {
    /// The last event that it covers.
    pub(super) covers: u64,
    /// The signature of [`signed`].
    pub(super) signature: Signature,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    Event(Box<Event>),
    Barrier(Barrier),
    Seal(Seal),
}

impl Item {
    /// Returns the last event that is signed, and the signature.
    pub(super) fn signature(&self) -> Option<(u64, Signature)> {
        match self {
            Self::Event(_) => None,
            Self::Barrier(barrier) => Some((barrier.covers, barrier.signature?)),
            Self::Seal(seal) => Some((seal.covers, seal.signature)),
        }
    }
}

/// A record whose hash is right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    kind: u8,
    pub(super) payload: &'a [u8],
    pub(super) chain: Chain,
    /// The offset of its end.
    pub(super) end: usize,
}

/// Begins a record in `buffer`: everything but the hash.
pub(super) fn begin<T: Serialize>(
    buffer: &mut Vec<u8>,
    kind: Kind,
    payload: &T,
) -> Result<(), LogError> {
    let mut record = std::mem::take(buffer);
    record.clear();
    record.extend([0, 0, 0, 0, kind as u8]);
    *buffer = postcard::to_extend(payload, record).expect("events encode, and memory grows");
    let bytes = buffer.len() - HEAD_BYTES;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= PAYLOAD_BYTES_MAX => {
            buffer[..4].copy_from_slice(&length.to_le_bytes());
            Ok(())
        }
        _ => Err(LogError::TooLong { bytes, max: PAYLOAD_BYTES_MAX }),
    }
}

/// Returns the length that a begun record will have.
pub(super) fn length(begun: &[u8]) -> u64 {
    (begun.len() + HASH_BYTES) as u64
}

/// Returns the payload of a record that was ended.
pub(super) fn payload(ended: &[u8]) -> &[u8] {
    &ended[HEAD_BYTES..ended.len() - HASH_BYTES]
}

/// Ends a record that follows on `before`. Returns its hash.
pub(super) fn end(buffer: &mut Vec<u8>, id: &[u8; 32], before: &Chain) -> Chain {
    let chain = hash(id, before, &buffer[4..]);
    buffer.extend(chain);
    chain
}

/// Returns the record at an offset.
pub(super) fn read<'a>(
    bytes: &'a [u8],
    at: usize,
    id: &[u8; 32],
    before: &Chain,
) -> Result<Record<'a>, Flaw> {
    let length = length_at(bytes, at).filter(|length| *length <= PAYLOAD_BYTES_MAX);
    let length = length.ok_or(Flaw::Length)?;
    let payload = at + HEAD_BYTES;
    let end = payload + length + HASH_BYTES;
    let record = bytes.get(at + 4..end).ok_or(Flaw::Length)?;
    let (content, stored) = record.split_at(1 + length);
    let chain = hash(id, before, content);
    if chain != stored {
        return Err(Flaw::Chain);
    }
    Ok(Record { kind: content[0], payload: &content[1..], chain, end })
}

/// Returns the bytes of the record at an offset, as its head says.
pub(super) fn span(bytes: &[u8], at: usize) -> Option<usize> {
    let length = length_at(bytes, at).filter(|length| *length <= PAYLOAD_BYTES_MAX)?;
    Some(HEAD_BYTES + length + HASH_BYTES)
}

fn length_at(bytes: &[u8], at: usize) -> Option<usize> {
    let length = bytes.get(at..at + 4)?.try_into().expect("four bytes");
    usize::try_from(u32::from_le_bytes(length)).ok().filter(|length| *length > 0)
}

fn hash(id: &[u8; 32], before: &Chain, content: &[u8]) -> Chain {
    *blake3::Hasher::new_keyed(id).update(before).update(content).finalize().as_bytes()
}

impl Record<'_> {
    /// Decodes what it says. The hash is right, so this log wrote it, and lists are as long as they were.
    pub(super) fn item(&self) -> Result<Item, Flaw> {
        if self.kind == Kind::Event as u8 {
            decode(self.payload).map(|event| Item::Event(Box::new(event)))
        } else if self.kind == Kind::Barrier as u8 {
            decode(self.payload).map(Item::Barrier)
        } else if self.kind == Kind::Seal as u8 {
            decode(self.payload).map(Item::Seal)
        } else {
            Err(Flaw::Content)
        }
    }
}

fn decode<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, Flaw> {
    match postcard::take_from_bytes(payload) {
        Ok((value, [])) => Ok(value),
        _ => Err(Flaw::Content),
    }
}

impl Tip {
    /// Reads the record that follows, and moves behind it.
    pub(super) fn advance(&mut self, bytes: &[u8], id: &[u8; 32]) -> Result<Item, Flaw> {
        let at = usize::try_from(self.place.offset).map_err(|_| Flaw::Length)?;
        let record = read(bytes, at, id, &self.chain)?;
        let item = self.follow(&record)?;
        self.place.offset = record.end as u64;
        Ok(item)
    }

    /// Moves behind a record, except for the place.
    pub(super) fn follow(&mut self, record: &Record<'_>) -> Result<Item, Flaw> {
        let item = record.item()?;
        match &item {
            Item::Event(event) if event.dot.seq != self.seq + 1 => {
                return Err(Flaw::Gap { next: self.seq + 1, found: event.dot.seq });
            }
            Item::Event(event) => {
                (self.seq, self.hlc) = (event.dot.seq, event.hlc);
                self.feed = feed_hash(&self.feed, record.payload);
            }
            Item::Barrier(Barrier { covers, .. }) | Item::Seal(Seal { covers, .. })
                if *covers > self.seq =>
            {
                return Err(Flaw::Covers);
            }
            Item::Barrier(_) | Item::Seal(_) => {}
        }
        self.chain = record.chain;
        Ok(item)
    }
}

/// Which records are looked for behind damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    Any,
    Barriers,
}

/// Finds the first intact record behind `from`: one whose hash follows on the 32 bytes before it.
pub(super) fn find<'a>(
    bytes: &'a [u8],
    from: usize,
    id: &[u8; 32],
    sought: Sought,
) -> Option<(usize, Record<'a>)> {
    let length_max = if sought == Sought::Any { PAYLOAD_BYTES_MAX } else { BARRIER_BYTES_MAX };
    let first = from.max(HASH_BYTES);
    (first..bytes.len().saturating_sub(HEAD_BYTES)).find_map(|at| {
        let kind = bytes[at + 4];
        let is_other = kind == Kind::Event as u8 || kind == Kind::Seal as u8;
        let is_sought = kind == Kind::Barrier as u8 || sought == Sought::Any && is_other;
        length_at(bytes, at).filter(|length| is_sought && *length <= length_max)?;
        let before = bytes[at - HASH_BYTES..at].try_into().expect("as long as a hash");
        read(bytes, at, id, &before).ok().map(|record| (at, record))
    })
}

/// Returns the message that a signature signs: `feed` is the feed hash of the last event that it covers.
pub(super) fn signed(covers: u64, feed: &FeedHash) -> Vec<u8> {
    [SIGNED_CONTEXT, &covers.to_le_bytes(), feed].concat()
}

/// Returns the feed hash of an encoded event.
pub(super) fn feed_hash(before: &FeedHash, event: &[u8]) -> FeedHash {
    *blake3::Hasher::new_derive_key(FEED_CONTEXT).update(before).update(event).finalize().as_bytes()
}
