//! Packets: immutable chunks of file content, named by their BLAKE3 digest. A manifest lists the packets
//! of a file.

mod holes;
mod layout;

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

pub use holes::Hole;

/// Files up to this size are one packet.
pub const WHOLE_BYTES_MAX: usize = 64 * 1024;
/// FastCDC's chunk sizes for larger files: a local edit changes one or two packets.
const CHUNK_BYTES_MIN: usize = 16 * 1024;
const CHUNK_BYTES_AVERAGE: usize = 64 * 1024;
/// The largest packet.
pub const PACKET_BYTES_MAX: usize = 256 * 1024;
/// Parts of files up to this size are read whole; larger ones are split while being read.
const WHOLE_READ_BYTES: u64 = 8 * 1024 * 1024;
/// On a compiler's files, level 2 is 3.7 % smaller than level 1 for a sixth more time; level 3 would save
/// only another 1.5 % for the same extra time.
const ZSTD_LEVEL: i32 = 2;

/// The name of a packet: the BLAKE3 digest of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Returns the digest of `content`.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self(*blake3::hash(content).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A packet of a file: its name and its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PacketRef {
    /// The packet's name.
    pub digest: Digest,
    /// Bytes of its content.
    pub bytes: u32,
}

/// The packets of a file, in order, and the holes before, between and after them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The packets.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub packets: Vec<PacketRef>,
    /// The holes.
    #[serde(deserialize_with = "crate::allowance::list")]
    pub holes: Vec<Hole>,
}

impl Manifest {
    /// Splits `content` into packets and lists them.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self { packets: split(content).map(reference).collect(), holes: Vec::new() }
    }

    /// Returns the bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let holes = self.holes.iter().map(|hole| hole.bytes);
        holes.fold(self.data_bytes(), u64::saturating_add)
    }

    /// Returns the bytes of its content.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.packets.iter().map(|packet| u64::from(packet.bytes)).sum()
    }

    /// Returns the packets that hold `range`, each with its offset in the file.
    pub fn covering(
        &self,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = (u64, PacketRef)> + use<'_> {
        self.placed().filter(move |&(at, packet)| {
            let after = at.saturating_add(u64::from(packet.bytes));
            start < end && at < end && after > start
        })
    }
}

/// Splits content into the pieces that become packets.
pub fn split(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    let small = content.len() <= WHOLE_BYTES_MAX;
    let whole = (small && !content.is_empty()).then_some(content);
    let large = if small { &[] } else { content };
    let chunks =
        fastcdc::v2020::FastCDC::new(large, CHUNK_BYTES_MIN, CHUNK_BYTES_AVERAGE, PACKET_BYTES_MAX);
    whole.into_iter().chain(chunks.map(|chunk| &large[chunk.offset..chunk.offset + chunk.length]))
}

/// Splits a file of `bytes` and `blocks` like [`split`], separately between its holes, and passes each
/// piece to a callback. Keeps little of a large file in memory.
///
/// # Errors
/// The file cannot be read.
pub fn split_file(
    file: &File,
    bytes: u64,
    blocks: u64,
    mut piece: impl FnMut(PacketRef, &[u8]),
) -> io::Result<Manifest> {
    try_split_file(file, bytes, blocks, |packet, content| {
        piece(packet, content);
        Ok(())
    })
}

/// Does the same until the callback fails.
///
/// # Errors
/// The file cannot be read, or the callback's.
pub fn try_split_file(
    file: &File,
    bytes: u64,
    blocks: u64,
    mut piece: impl FnMut(PacketRef, &[u8]) -> io::Result<()>,
) -> io::Result<Manifest> {
    let parts = holes::data(file, bytes, blocks)?;
    let mut manifest = Manifest { packets: Vec::new(), holes: holes::between(&parts, bytes) };
    for (start, end) in parts {
        let mut part = file;
        part.seek(SeekFrom::Start(start))?;
        split_part(part.take(end - start), end - start, |content| {
            let packet = reference(content);
            manifest.packets.push(packet);
            piece(packet, content)
        })?;
    }
    Ok(manifest)
}

fn split_part(
    mut part: impl Read,
    bytes: u64,
    mut piece: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    if bytes <= WHOLE_READ_BYTES {
        let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        part.read_to_end(&mut content)?;
        return split(&content).try_for_each(piece);
    }
    let chunks = fastcdc::v2020::StreamCDC::new(
        part,
        CHUNK_BYTES_MIN,
        CHUNK_BYTES_AVERAGE,
        PACKET_BYTES_MAX,
    );
    for chunk in chunks {
        piece(&chunk.map_err(io::Error::from)?.data)?;
    }
    Ok(())
}

/// Returns the reference to a piece of content.
///
/// # Panics
/// If the piece is larger than a packet may be.
#[must_use]
pub fn reference(piece: &[u8]) -> PacketRef {
    let bytes = u32::try_from(piece.len()).expect("packets are at most 256 KiB");
    PacketRef { digest: Digest::of(piece), bytes }
}

// Reused, because allocating zstd's tables costs as much as compressing a small packet.
thread_local! {
    static PACKER: RefCell<io::Result<Compressor<'static>>> =
        RefCell::new(Compressor::new(ZSTD_LEVEL));
    static UNPACKER: RefCell<io::Result<Decompressor<'static>>> =
        RefCell::new(Decompressor::new());
}

/// A packet's content on disk and on the wire: compressed if that saves at least a tenth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Whether the bytes are zstd-compressed.
    pub compressed: bool,
    /// The bytes.
    #[serde(with = "serde_bytes")]
    pub body: Vec<u8>,
}

/// A packet whose bytes do not match its name.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// zstd refused the body.
    #[error("packet {0} does not decompress")]
    Undecodable(Digest),
    /// The content has another digest or length.
    #[error("packet {0} does not match its digest")]
    Mismatch(Digest),
}

impl Packed {
    /// Packs content.
    #[must_use]
    pub fn pack(content: &[u8]) -> Self {
        let compressed = PACKER.with_borrow_mut(|packer| match packer {
            Ok(packer) => packer.compress(content),
            Err(error) => Err(error.kind().into()),
        });
        match compressed {
            Ok(body) if body.len() + content.len() / 10 < content.len() => {
                Self { compressed: true, body }
            }
            _ => Self::plain(content),
        }
    }

    /// Stores content uncompressed.
    #[must_use]
    pub fn plain(content: &[u8]) -> Self {
        Self { compressed: false, body: content.to_vec() }
    }

    /// Tells whether the sizes fit the packet that `expected` names, so that accounting by `expected` is
    /// accurate.
    #[must_use]
    pub fn may_be(&self, expected: PacketRef) -> bool {
        let bytes = expected.bytes as usize;
        let longest = if self.compressed { bytes.saturating_sub(1) } else { bytes };
        let shortest = if self.compressed { 1 } else { bytes };
        (1..=PACKET_BYTES_MAX).contains(&bytes) && (shortest..=longest).contains(&self.body.len())
    }

    /// Returns the content after checking it against `expected`.
    ///
    /// # Errors
    /// The body is damaged or is another packet's.
    pub fn unpack(&self, expected: PacketRef) -> Result<Cow<'_, [u8]>, PacketError> {
        let content = self.content(expected.bytes as usize);
        let content = content.map_err(|_| PacketError::Undecodable(expected.digest))?;
        if content.len() as u64 == u64::from(expected.bytes)
            && Digest::of(&content) == expected.digest
        {
            Ok(content)
        } else {
            Err(PacketError::Mismatch(expected.digest))
        }
    }

    /// The same, without a copy of what is not compressed.
    ///
    /// # Errors
    /// See [`Self::unpack`].
    pub fn into_content(self, expected: PacketRef) -> Result<Vec<u8>, PacketError> {
        match self.unpack(expected)? {
            Cow::Owned(content) => Ok(content),
            Cow::Borrowed(_) => Ok(self.body),
        }
    }

    /// Tells whether the content has this digest, whatever its length.
    pub(crate) fn is_sound(&self, digest: &Digest) -> bool {
        self.content(PACKET_BYTES_MAX).is_ok_and(|content| reference(&content).digest == *digest)
    }

    /// Returns the content, unchecked, if it has at most so many bytes.
    pub(crate) fn content(&self, bytes_max: usize) -> io::Result<Cow<'_, [u8]>> {
        if !self.compressed {
            return Ok(Cow::Borrowed(self.body.as_slice()));
        }
        let unpacked = UNPACKER.with_borrow_mut(|unpacker| match unpacker {
            Ok(unpacker) => unpacker.decompress(&self.body, bytes_max.min(PACKET_BYTES_MAX)),
            Err(error) => Err(error.kind().into()),
        });
        unpacked.map(Cow::Owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(bytes: usize) -> Vec<u8> {
        let mut state = 7_u32;
        (0..bytes)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state.to_le_bytes()[3]
            })
            .collect()
    }

    #[test]
    fn splits_and_joins() {
        for bytes in [0, 1, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1, 3_000_000] {
            let content = noise(bytes);
            let pieces: Vec<_> = split(&content).collect();
            assert_eq!(pieces.concat(), content);
            assert!(pieces.iter().all(|piece| piece.len() <= PACKET_BYTES_MAX));
            let manifest = Manifest::of(&content);
            assert_eq!(manifest.bytes(), bytes as u64);
        }
    }

    #[test]
    fn covering_finds_the_packets_of_a_range() {
        let content = noise(1_000_000);
        let manifest = Manifest::of(&content);
        let (start, end) = (123_456, 654_321);
        let mut joined: Vec<u8> = Vec::new();
        let mut first = None;
        for (at, packet) in manifest.covering(start, end) {
            first.get_or_insert(at);
            let at = usize::try_from(at).expect("the file is small");
            joined.extend(&content[at..at + packet.bytes as usize]);
        }
        let first = first.expect("the range is not empty");
        assert!(first <= start && first + joined.len() as u64 >= end);
        assert_eq!(manifest.covering(5, 5).count(), 0);
    }

    #[test]
    fn an_edit_changes_few_packets() {
        let content = noise(2_000_000);
        let mut edited = content.clone();
        edited.splice(1_000_000..1_000_000, *b"inserted");
        let before = Manifest::of(&content).packets;
        let changed =
            Manifest::of(&edited).packets.iter().filter(|packet| !before.contains(packet)).count();
        assert!(changed <= 3, "{changed} packets changed");
    }

    #[test]
    fn packed_content_is_checked() {
        for content in [noise(1000), vec![b'a'; 100_000], Vec::new()] {
            for packed in [Packed::pack(&content), Packed::plain(&content)] {
                assert!(packed.may_be(reference(&content)) || content.is_empty());
                assert_eq!(packed.unpack(reference(&content)).expect("just packed"), content);
            }
        }
        let packed = Packed::pack(&[b'a'; 1000]);
        assert!(packed.compressed);
        assert!(packed.unpack(reference(b"other")).is_err());
        for bytes in [0, 1, 3, u32::MAX] {
            let lie = PacketRef { bytes, ..reference(&[7; 9]) };
            assert!(!Packed::plain(&[7; 9]).may_be(lie), "{bytes} bytes that are 9");
        }
        assert!(!Packed::plain(b"").may_be(reference(b"")), "a packet is never empty");
        let broken = Packed { compressed: true, body: vec![1, 2, 3] };
        assert!(broken.unpack(reference(b"abc")).is_err());
    }
}
