//! Writes a file's content packet by packet, preserving holes.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::model::Contents;
use crate::packet::{Hole, Manifest, PACKET_BYTES_MAX, PacketRef};
use crate::path::Bytes;

/// How far to search for a walk's tail among what others have appended before and after it.
const OTHERS_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The new content of a file.
pub(super) struct Pieces<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) contents: &'a Contents<'a>,
}

impl Pieces<'_> {
    pub(super) fn has_holes(&self) -> bool {
        !self.manifest.holes.is_empty()
    }

    /// Writes an empty file.
    pub(super) fn write_to(&self, file: &File) -> io::Result<()> {
        for (at, packet) in self.placed() {
            file.write_all_at(self.content(packet)?, at)?;
        }
        if self.manifest.holes.is_empty() { Ok(()) } else { file.set_len(self.manifest.bytes()) }
    }

    /// Appends the content, which has no holes, at the current end of the file, so that concurrent appends of
    /// others are kept. Finishes an append that was begun `before` at this offset.
    pub(super) fn append(&self, file: &File, before: Option<u64>) -> io::Result<()> {
        let tail = self.tail(0)?;
        let done = match before {
            Some(offset) => appended_before(file, offset, &tail)?,
            None => 0,
        };
        let mut file = file;
        file.write_all(&tail[done..])
    }

    /// Returns the content from an offset on.
    pub(super) fn tail(&self, offset: u64) -> io::Result<Bytes> {
        let mut tail = Bytes::new();
        for (at, packet) in self.manifest.covering(offset, u64::MAX) {
            let from = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
            tail.extend(self.content(packet)?.get(from..).unwrap_or_default());
        }
        Ok(tail)
    }

    /// Tells whether the first `bytes` bytes of a file equal this content.
    pub(super) fn are_as_in(&self, file: &File, bytes: u64) -> bool {
        self.manifest.covering(0, bytes).all(|(at, packet)| {
            let length = usize::try_from(bytes - at).unwrap_or(usize::MAX);
            self.content(packet)
                .is_ok_and(|content| has(file, at, &content[..length.min(content.len())]))
        })
    }

    /// Writes the packets that differ from the file's content.
    pub(super) fn write_over(&self, file: &File) -> io::Result<()> {
        let old_bytes = file.metadata()?.len();
        for (at, packet) in self.placed() {
            let content = self.content(packet)?;
            if !has(file, at, content) {
                file.write_all_at(content, at)?;
            }
        }
        for hole in &self.manifest.holes {
            empty(file, hole, old_bytes)?;
        }
        let bytes = self.manifest.bytes();
        let ends_in_hole = old_bytes < bytes && !self.manifest.holes.is_empty();
        if old_bytes > bytes || ends_in_hole { file.set_len(bytes) } else { Ok(()) }
    }

    /// Tells whether a file's content is a prefix of this content.
    pub(super) fn begin_with(&self, file: &File) -> bool {
        let Ok(bytes) = file.metadata().map(|metadata| metadata.len()) else { return false };
        bytes <= self.manifest.bytes() && self.are_as_in(file, bytes)
    }

    fn placed(&self) -> impl Iterator<Item = (u64, PacketRef)> + use<'_> {
        self.manifest.covering(0, u64::MAX)
    }

    fn content(&self, packet: PacketRef) -> io::Result<&[u8]> {
        let missing = || io::Error::other(format!("packet {} is missing", packet.digest));
        self.contents.get(&packet.digest).map(|content| &**content).ok_or_else(missing)
    }
}

/// Returns how much of a tail a file already contains: all of it somewhere after an offset, or a prefix at the
/// end.
fn appended_before(file: &File, offset: u64, tail: &[u8]) -> io::Result<usize> {
    let bytes = file.metadata()?.len().saturating_sub(offset);
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(tail.len() + OTHERS_BYTES_MAX);
    let mut behind = vec![0; bytes];
    file.read_exact_at(&mut behind, offset)?;
    if tail.is_empty() || behind.windows(tail.len()).any(|there| there == tail) {
        return Ok(tail.len());
    }
    let longest = behind.len().min(tail.len());
    Ok((0..=longest).rev().find(|&length| behind.ends_with(&tail[..length])).unwrap_or(0))
}

/// Tells whether a file has this content at an offset.
fn has(file: &File, at: u64, content: &[u8]) -> bool {
    let mut present = vec![0; content.len()];
    file.read_exact_at(&mut present, at).is_ok() && present == content
}

/// Removes the data of a file of `bytes` bytes where it should have a hole.
fn empty(file: &File, hole: &Hole, bytes: u64) -> io::Result<()> {
    let end = hole.end().min(bytes);
    let signed = |offset: u64| i64::try_from(offset).map_err(io::Error::other);
    if hole.at >= end {
        return Ok(());
    }
    match lseek(file, signed(hole.at)?, Whence::SeekData) {
        // Preallocated blocks are not data, and stay.
        Ok(data) if data >= signed(end)? => return Ok(()),
        Err(Errno::ENXIO) => return Ok(()),
        result => drop(result?),
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, signed(hole.at)?, signed(end - hole.at)?) {
        // The file system does not support holes.
        Err(Errno::EOPNOTSUPP) => zero(file, hole.at, end),
        result => Ok(result?),
    }
}

fn zero(file: &File, mut at: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; PACKET_BYTES_MAX];
    while at < end {
        let length = usize::try_from(end - at).unwrap_or(usize::MAX).min(zeros.len());
        file.write_all_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}
