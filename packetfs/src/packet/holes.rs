//! Holes: unallocated ranges of a sparse file, which read as zeros. A manifest lists them beside the
//! packets, so that a file stays sparse on every machine.

use std::fs::File;
use std::io;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};

/// Most holes per file. Later ones are read as content, which is slower but correct.
const HOLES_MAX: usize = 65_536;

/// An unallocated range of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hole {
    /// Where it begins in the file.
    pub at: u64,
    /// How long it is.
    pub bytes: u64,
}

impl Hole {
    /// Returns where it ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.bytes)
    }
}

/// Returns the start and end of each range of a file that holds data. A file whose blocks (of 512 bytes)
/// suffice for all its bytes is not searched for holes.
pub(super) fn data(file: &File, bytes: u64, blocks: u64) -> io::Result<Vec<(u64, u64)>> {
    if blocks.saturating_mul(512) >= bytes {
        return Ok((bytes > 0).then_some((0, bytes)).into_iter().collect());
    }
    let mut parts = Vec::new();
    let mut at = 0;
    while at < bytes {
        let Some(start) = seek(file, at, Whence::SeekData)?.filter(|&start| start < bytes) else {
            break;
        };
        let last = parts.len() == HOLES_MAX;
        let end = if last { None } else { seek(file, start, Whence::SeekHole)? };
        at = end.unwrap_or(bytes).min(bytes);
        parts.push((start, at));
    }
    Ok(parts)
}

/// Returns the holes between parts with data.
pub(super) fn between(parts: &[(u64, u64)], bytes: u64) -> Vec<Hole> {
    let ends = [0].into_iter().chain(parts.iter().map(|&(_, end)| end));
    let starts = parts.iter().map(|&(start, _)| start).chain([bytes]);
    let holes = ends.zip(starts).filter(|(at, end)| at < end);
    holes.map(|(at, end)| Hole { at, bytes: end - at }).collect()
}

/// Returns where the next range begins, or `None` if there is none.
fn seek(file: &File, from: u64, whence: Whence) -> io::Result<Option<u64>> {
    let from = i64::try_from(from).map_err(io::Error::other)?;
    match lseek(file, from, whence) {
        Ok(at) => Ok(u64::try_from(at).ok()),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
