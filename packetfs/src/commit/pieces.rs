//! Writes a file's content, packet by packet. Holes stay holes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::unistd::{Whence, lseek};

use super::Contents;
use crate::packet::{Hole, Manifest, PACKET_BYTES_MAX, PacketRef};

/// What a file is to consist of.
pub(super) struct Pieces<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) contents: &'a Contents<'a>,
}

impl Pieces<'_> {
    /// Writes a file that is empty.
    pub(super) fn write_to(&self, file: &File) -> io::Result<()> {
        self.write_behind(file, 0)?;
        if self.manifest.holes.is_empty() { Ok(()) } else { file.set_len(self.manifest.bytes()) }
    }

    /// Writes the content from an offset on.
    pub(super) fn write_behind(&self, file: &File, offset: u64) -> io::Result<()> {
        for (at, packet) in self.placed() {
            file.write_all_at(self.content(packet)?, offset + at)?;
        }
        Ok(())
    }

    /// Writes what differs from what the file has. A file that was appended to is only appended to.
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

    /// Tells whether a file has nothing but a beginning of this content.
    pub(super) fn begin_with(&self, file: &File) -> bool {
        let Ok(bytes) = file.metadata().map(|metadata| metadata.len()) else { return false };
        let has_all = self.manifest.covering(0, bytes).all(|(at, packet)| {
            let length = usize::try_from(bytes - at).unwrap_or(usize::MAX);
            self.content(packet)
                .is_ok_and(|content| has(file, at, &content[..length.min(content.len())]))
        });
        bytes <= self.manifest.bytes() && has_all
    }

    fn placed(&self) -> impl Iterator<Item = (u64, PacketRef)> + use<'_> {
        self.manifest.covering(0, u64::MAX)
    }

    fn content(&self, packet: PacketRef) -> io::Result<&[u8]> {
        let missing = || io::Error::other(format!("packet {} is missing", packet.digest));
        self.contents.get(&packet.digest).map(|content| &**content).ok_or_else(missing)
    }
}

/// Tells whether a file has this content at an offset.
fn has(file: &File, at: u64, content: &[u8]) -> bool {
    let mut present = vec![0; content.len()];
    file.read_exact_at(&mut present, at).is_ok() && present == content
}

/// Takes the data away that a file of so many bytes has where a hole is to be.
fn empty(file: &File, hole: &Hole, bytes: u64) -> io::Result<()> {
    let end = hole.end().min(bytes);
    let signed = |offset: u64| i64::try_from(offset).map_err(io::Error::other);
    if hole.at >= end {
        return Ok(());
    }
    match lseek(file, signed(hole.at)?, Whence::SeekData) {
        // Blocks that were only set aside are no data: they stay.
        Ok(data) if data >= signed(end)? => return Ok(()),
        Err(Errno::ENXIO) => return Ok(()),
        result => drop(result?),
    }
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    match fallocate(file, flags, signed(hole.at)?, signed(end - hole.at)?) {
        // A file system without holes.
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
