//! The end of the log, where records are appended. Its owner holds a lock around every call.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use serde::Serialize;
use worknode::history::Event;
use worknode::key::{SecretKey, Signature};

use super::error::LogError;
use super::header::Header;
use super::place::{FeedHash, Position, Tip};
use super::record::{self, Barrier, Kind, Seal};
use super::segment::Segments;
use super::send::Extent;

/// Events are signed when there are so many bytes of them, also between barriers. With the longest event, a signature and
/// what it covers fit a message of a link.
const UNSIGNED_BYTES_MAX: usize = 256 * 1024;

/// The end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    segments: Segments,
    /// The header of the segment that is appended to.
    header: Header,
    file: Arc<File>,
    /// The last record.
    pub(super) tip: Tip,
    /// Bytes of events that no signature covers.
    unsigned_bytes: usize,
    /// The last event that is durable.
    pub(super) covered: u64,
    /// The next segment, if it was made ahead of need.
    spare: Option<File>,
    /// Earlier segments that may not be on disk.
    unsynced: Vec<Arc<File>>,
    /// Whether names of segments may not be on disk.
    is_dir_unsynced: bool,
    has_failed: bool,
    buffer: Vec<u8>,
}

/// What a barrier must sync.
#[derive(Debug)]
pub(super) struct Unsynced {
    files: Vec<Arc<File>>,
    is_dir_unsynced: bool,
}

impl Unsynced {
    pub(super) fn sync(&self, segments: &Segments) -> Result<(), LogError> {
        for file in &self.files {
            file.sync_data().map_err(LogError::io("sync", segments.dir()))?;
        }
        if self.is_dir_unsynced { segments.sync() } else { Ok(()) }
    }
}

impl Tail {
    pub(super) fn new(
        segments: &Segments,
        header: Header,
        file: File,
        tip: Tip,
        covered: u64,
        unsynced: Vec<Arc<File>>,
    ) -> Self {
        Self {
            segments: segments.clone(),
            header,
            file: Arc::new(file),
            tip,
            unsigned_bytes: 0,
            covered,
            spare: None,
            // The kernel may not have written the names of segments either.
            is_dir_unsynced: !unsynced.is_empty(),
            unsynced,
            has_failed: false,
            buffer: Vec::new(),
        }
    }

    pub(super) fn append(&mut self, event: &Event) -> Result<Position, LogError> {
        let next = self.tip.seq + 1;
        if event.dot.seq != next {
            return Err(LogError::OutOfOrder { next, found: event.dot.seq });
        }
        self.put(Kind::Event, event)?;
        let encoded = record::payload(&self.buffer);
        self.tip.feed = record::feed_hash(&self.tip.feed, encoded);
        self.unsigned_bytes += encoded.len();
        (self.tip.seq, self.tip.hlc) = (next, event.hlc);
        Ok(Position(next))
    }

    /// Tells whether so many events are not signed that a seal is due.
    pub(super) fn is_seal_due(&self) -> bool {
        self.unsigned_bytes >= UNSIGNED_BYTES_MAX
    }

    /// Signs all events so far.
    pub(super) fn seal(&mut self, signer: &SecretKey) -> Result<(), LogError> {
        let covers = self.tip.seq;
        let signature = signer.sign(&record::signed(covers, &self.tip.feed));
        self.put(Kind::Seal, &Seal { covers, signature })?;
        self.unsigned_bytes = 0;
        Ok(())
    }

    /// Returns what a barrier that begins now covers, and the feed hash to sign.
    pub(super) fn begin_barrier(&self) -> Result<(u64, FeedHash), LogError> {
        self.check()?;
        Ok((self.tip.seq, self.tip.feed))
    }

    /// Appends the record of a barrier. Returns what to sync.
    pub(super) fn append_barrier(
        &mut self,
        covers: u64,
        signature: Option<Signature>,
    ) -> Result<Unsynced, LogError> {
        self.put(Kind::Barrier, &Barrier { covers, covered: self.covered, signature })?;
        self.unsigned_bytes = 0;
        Ok(self.take_unsynced())
    }

    /// Appends the record of a signature that another node has made.
    pub(super) fn append_signature(
        &mut self,
        covers: u64,
        signature: Signature,
    ) -> Result<(), LogError> {
        let signature = Some(signature);
        self.put(Kind::Barrier, &Barrier { covers, covered: self.covered, signature })
    }

    /// Returns what a sync of all records so far must write.
    pub(super) fn take_unsynced(&mut self) -> Unsynced {
        let mut files = std::mem::take(&mut self.unsynced);
        files.push(Arc::clone(&self.file));
        let is_dir_unsynced = std::mem::take(&mut self.is_dir_unsynced);
        Unsynced { files, is_dir_unsynced }
    }

    /// Returns what may be read up to an event.
    pub(super) fn extent(&self, shared: u64) -> Extent {
        Extent { id: self.header.id, end: self.tip.place, shared }
    }

    /// Takes note that memory and disk may differ, and returns why.
    pub(super) fn fail(&mut self, error: LogError) -> LogError {
        self.has_failed = true;
        error
    }

    /// Returns the number of the next segment if it was not made yet.
    pub(super) fn missing_spare(&self) -> Option<u32> {
        self.spare.is_none().then_some(self.header.number + 1)
    }

    /// Keeps a segment for later, unless the log has come so far meanwhile.
    pub(super) fn keep_spare(&mut self, number: u32, file: File) {
        if number == self.header.number + 1 {
            self.spare = Some(file);
        }
    }

    #[cfg(test)]
    pub(super) fn add_unsynced(&mut self, file: Arc<File>) {
        self.unsynced.push(file);
    }

    fn check(&self) -> Result<(), LogError> {
        if self.has_failed { Err(LogError::Failed) } else { Ok(()) }
    }

    fn put<T: Serialize>(&mut self, kind: Kind, payload: &T) -> Result<(), LogError> {
        self.check()?;
        record::begin(&mut self.buffer, kind, payload)?;
        if self.tip.place.offset + record::length(&self.buffer) > self.segments.bytes_max {
            self.next_segment()?;
        }
        let chain = record::end(&mut self.buffer, &self.header.id, &self.tip.chain);
        self.write()?;
        self.tip.chain = chain;
        self.tip.place.offset += self.buffer.len() as u64;
        Ok(())
    }

    fn write(&self) -> Result<(), LogError> {
        let at = self.tip.place.offset;
        self.file.write_all_at(&self.buffer, at).map_err(|source| {
            if let Err(error) = self.erase(at) {
                tracing::debug!(%error, "an incomplete record of the log stays until the next one");
            }
            LogError::io("write", self.segments.path(self.header.number))(source)
        })
    }

    /// Erases what was written of a record: it must not count after a restart, even if all of it was written.
    fn erase(&self, at: u64) -> io::Result<()> {
        let is_at_end = self.file.metadata()?.len() <= at + self.buffer.len() as u64;
        if is_at_end {
            self.file.set_len(at)
        } else {
            self.file.write_all_at(&vec![0; self.buffer.len()], at)
        }
    }

    fn next_segment(&mut self) -> Result<(), LogError> {
        let number = self.header.number + 1;
        let header = Header { number, before: self.tip, covered: self.covered, ..self.header };
        let file = match self.spare.take() {
            Some(file) => file,
            None => self.segments.make(number)?,
        };
        if let Err(source) = file.write_all_at(&header.encode(), 0) {
            self.segments.remove(number)?;
            return Err(LogError::io("write", self.segments.path(number))(source));
        }
        self.unsynced.push(std::mem::replace(&mut self.file, Arc::new(file)));
        self.is_dir_unsynced = true;
        (self.header, self.tip) = (header, header.tip());
        Ok(())
    }
}
