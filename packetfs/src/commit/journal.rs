//! The journal: one file with room for one commit, overwritten in place.
//!
//! `u64 body bytes, digest[32], u64 cleared, body`: 1 once all is taken aside that has to be. The head is written after the body and zeroed when
//! the commit is done. A process that is killed between two writes leaves a head that does not fit
//! its body, or none: then nothing was begun. (The page cache survives the process; a power cut is
//! no worse than one in the middle of the user's own program.)

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Commit;
use super::apply::Begun;
use crate::packet::Digest;
use crate::tree::Time;

const HEAD_BYTES: usize = 48;
const CLEARED_AT: u64 = 40;
/// A journal larger than this is cut back after its commit.
const KEPT_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn write(&self, commit: &Commit) -> io::Result<()> {
        let body = postcard::to_allocvec(commit).map_err(io::Error::other)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        head.extend((body.len() as u64).to_le_bytes());
        head.extend(Digest::of(&body).0);
        head.extend([0; 8]);
        self.file.write_all_at(&body, HEAD_BYTES as u64)?;
        self.file.write_all_at(&head, 0)
    }

    pub(super) fn strike(&self) -> io::Result<()> {
        self.file.write_all_at(&[0; HEAD_BYTES], 0)?;
        if self.file.metadata()?.len() > KEPT_BYTES {
            self.file.set_len(HEAD_BYTES as u64)?;
        }
        Ok(())
    }

    /// Notes that everything is taken aside.
    pub(super) fn note_cleared(&self) -> io::Result<()> {
        self.file.write_all_at(&1_u64.to_le_bytes(), CLEARED_AT)
    }

    /// Returns how far the commit in it had come.
    pub(super) fn begun(&self) -> io::Result<Begun> {
        let metadata = self.file.metadata()?;
        let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        let mut cleared = [0; 8];
        self.file.read_exact_at(&mut cleared, CLEARED_AT)?;
        let at = Time { seconds: metadata.mtime(), nanos };
        Ok(Begun { at, is_cleared: u64::from_le_bytes(cleared) == 1 })
    }

    /// Returns the commit that was begun and not finished, if any.
    pub(super) fn pending(&self) -> io::Result<Option<Commit>> {
        let length = self.file.metadata()?.len();
        if length < HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut head = [0; HEAD_BYTES];
        self.file.read_exact_at(&mut head, 0)?;
        let (bytes, rest) = head.split_first_chunk::<8>().expect("the head has 48 bytes");
        let bytes = u64::from_le_bytes(*bytes);
        if bytes == 0 || bytes > length - HEAD_BYTES as u64 {
            return Ok(None);
        }
        let mut body = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut body, HEAD_BYTES as u64)?;
        let whole = Digest::of(&body).0 == rest[..32];
        Ok(if whole { postcard::from_bytes(&body).ok() } else { None })
    }
}
