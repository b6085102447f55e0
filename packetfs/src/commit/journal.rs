//! The journal: one file with room for one commit, overwritten in place.
//!
//! `u64 body bytes, u64 0, digest[32], body`. The head is written after the body and zeroed when
//! the commit is done. A process that is killed between two writes leaves a head that does not fit
//! its body, or none: then nothing was begun. (The page cache survives the process; a power cut is
//! no worse than one in the middle of the user's own program.)

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Commit;
use crate::packet::Digest;
use crate::tree::Time;

const HEAD_BYTES: usize = 48;
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
        head.extend([0; 8]);
        head.extend(Digest::of(&body).0);
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

    /// Returns when the journal was last written.
    pub(super) fn written(&self) -> io::Result<Time> {
        let metadata = self.file.metadata()?;
        let nanos = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
        Ok(Time { seconds: metadata.mtime(), nanos })
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
        let whole = Digest::of(&body).0 == rest[8..40];
        Ok(if whole { postcard::from_bytes(&body).ok() } else { None })
    }
}
