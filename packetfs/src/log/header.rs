//! The header of a segment. Pure.
//!
//! A segment belongs to one boot of the machine and to one key. Its header says where the segment before it ends: what
//! stands behind that end was cut off.

use serde::{Deserialize, Serialize};
use worknode::key::Key;

use super::boot::BootId;
use super::error::Flaw;
use super::place::{Chain, Place, Tip};

/// The version of segments and records.
pub(super) const VERSION: u32 = 2;
/// What a segment begins with, before its version.
const MAGIC: [u8; 8] = *b"OSWALKLG";
/// Length of a header. Its last bytes are the hash of those before, which the first record follows on.
pub(super) const HEADER_BYTES: usize = 256;
const HASH_AT: usize = HEADER_BYTES - size_of::<Chain>();
const FIELDS_AT: usize = MAGIC.len() + 4;

/// What a segment's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) number: u32,
    /// The log's secret, with which records are hashed.
    pub(super) id: [u8; 32],
    /// The end of the segment before.
    pub(super) before: Tip,
    /// The last event that was durable when the segment was begun.
    pub(super) covered: u64,
    pub(super) boot: BootId,
    /// Who signs its barriers.
    pub(super) signer: Option<Key>,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
        bytes[MAGIC.len()..FIELDS_AT].copy_from_slice(&VERSION.to_le_bytes());
        postcard::to_slice(self, &mut bytes[FIELDS_AT..HASH_AT])
            .expect("the fields take 202 bytes at most");
        let hash = blake3::hash(&bytes[..HASH_AT]);
        bytes[HASH_AT..].copy_from_slice(hash.as_bytes());
        bytes
    }

    /// Decodes the header of a segment. There is none in a segment that was made ahead of need.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, Flaw> {
        if bytes.iter().take(HEADER_BYTES).all(|byte| *byte == 0) {
            return Ok(None);
        }
        let bytes = bytes.get(..HEADER_BYTES).ok_or(Flaw::Header)?;
        let version = bytes[MAGIC.len()..FIELDS_AT].try_into().expect("four bytes");
        match u32::from_le_bytes(version) {
            _ if bytes[..MAGIC.len()] != MAGIC => return Err(Flaw::Header),
            VERSION => {}
            // The header is incomplete.
            0 => return Err(Flaw::Header),
            other => return Err(Flaw::Version(other)),
        }
        if blake3::hash(&bytes[..HASH_AT]) != bytes[HASH_AT..] {
            return Err(Flaw::Header);
        }
        let fields = postcard::from_bytes(&bytes[FIELDS_AT..HASH_AT]);
        fields.map(Some).map_err(|_| Flaw::Header)
    }

    /// Returns the place of the first record.
    pub(super) fn tip(&self) -> Tip {
        let place = Place { segment: self.number, offset: HEADER_BYTES as u64 };
        let hash = &self.encode()[HASH_AT..];
        Tip { place, chain: hash.try_into().expect("as long as a hash"), ..self.before }
    }
}
