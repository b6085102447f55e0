//! The log of events on disk: append-only, hash-chained, signed in batches, and safe against crashes.
//!
//! [`Log::append`] writes an event into the page cache: it survives the agent, but not the machine. [`Log::barrier`]
//! makes all events so far durable, after all that they refer to. [`Log::open`] recovers: after a killed agent every
//! event counts, after a power cut those that the last barrier covers.
//!
//! Reading order: `place` and `record` (pure: what is on disk), `header` and `segment` (one file), `scan` and `recover`
//! (what counts), `tail` (what is appended), `group` (who syncs for whom), `events` and `verify` (who reads), `feed` and
//! `send` (what other nodes get).
//!
//! The log of another node's events is *foreign*: it has no key to sign with, and grows by feeds ([`Log::extend`]).

mod boot;
mod error;
mod events;
mod feed;
mod group;
mod header;
mod lock;
mod place;
mod record;
mod recover;
mod scan;
mod segment;
mod send;
mod tail;
mod verify;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use worknode::history::{Author, Event};
use worknode::key::{Key, SecretKey};

use group::Group;
use lock::Lock;
use segment::{FOREIGN_SEGMENT_BYTES, SEGMENT_BYTES, Segments};
use send::Known;
use tail::Tail;

pub use boot::BootId;
pub use error::{Flaw, LogError};
pub use events::Events;
pub use feed::{Feed, Unfit};
pub use place::{Place, Position};
pub use recover::{Cut, Recovered};
pub use verify::{Finding, Verified, verify};

/// A log that is open for appending. All methods may be called from any thread.
#[derive(Debug)]
pub struct Log {
    segments: Segments,
    signer: Option<SecretKey>,
    tail: Mutex<Tail>,
    group: Group,
    known: Known,
    /// Whether the events are another node's.
    is_foreign: bool,
    /// Held until the log is dropped.
    _lock: Lock,
}

impl Log {
    /// Opens the log in `dir`, creating it if necessary, and cuts off what does not count. `boot` is the machine's
    /// [`BootId::current`]. With a `signer`, barriers are signed.
    ///
    /// # Errors
    /// The log is in use, has another version, or is damaged where it was durable; or the disk is full or fails.
    /// Nothing was cut off then.
    pub fn open(
        dir: &Path,
        boot: BootId,
        signer: Option<SecretKey>,
    ) -> Result<(Self, Recovered), LogError> {
        Self::open_sized(dir, boot, signer, 0, SEGMENT_BYTES)
    }

    /// Opens a log that must have the events up to a number, since somebody has seen them. Otherwise it is damaged.
    ///
    /// # Errors
    /// See [`Log::open`].
    pub fn open_known(
        dir: &Path,
        boot: BootId,
        signer: Option<SecretKey>,
        known: u64,
    ) -> Result<(Self, Recovered), LogError> {
        Self::open_sized(dir, boot, signer, known, SEGMENT_BYTES)
    }

    /// Opens the log of another node's events, which `key` signs. The events up to `known` must be there.
    ///
    /// # Errors
    /// See [`Log::open`].
    pub fn open_foreign(
        dir: &Path,
        boot: BootId,
        key: Key,
        known: u64,
    ) -> Result<(Self, Recovered), LogError> {
        let lock = Lock::take(dir)?;
        let segments = Segments::new(dir, FOREIGN_SEGMENT_BYTES);
        let (tail, recovered) = recover::recover(&segments, boot, Some(key), known)?;
        Ok((Self::new(segments, None, tail, lock, true), recovered))
    }

    /// Opens a log with segments of a given length.
    fn open_sized(
        dir: &Path,
        boot: BootId,
        signer: Option<SecretKey>,
        known: u64,
        segment_bytes: u64,
    ) -> Result<(Self, Recovered), LogError> {
        let lock = Lock::take(dir)?;
        let segments = Segments::new(dir, segment_bytes);
        let key = signer.as_ref().map(SecretKey::key);
        let (tail, recovered) = recover::recover(&segments, boot, key, known)?;
        Ok((Self::new(segments, signer, tail, lock, false), recovered))
    }

    fn new(
        segments: Segments,
        signer: Option<SecretKey>,
        tail: Tail,
        lock: Lock,
        is_foreign: bool,
    ) -> Self {
        Self {
            segments,
            signer,
            tail: Mutex::new(tail),
            group: Group::default(),
            known: Known::default(),
            is_foreign,
            _lock: lock,
        }
    }

    /// Appends an event, whose number follows that of the last one. It survives the agent from now on, and the machine
    /// after the next barrier. Never waits for the disk.
    ///
    /// # Errors
    /// The number is not the next one, the event is too long, the disk is full or fails, or the log has failed. The
    /// event is not in the log then.
    pub fn append(&self, event: &Event) -> Result<Position, LogError> {
        let mut tail = self.tail();
        let position = tail.append(event)?;
        if let Some(signer) = self.signer.as_ref().filter(|_| tail.is_seal_due())
            && let Err(error) = tail.seal(signer)
        {
            // The next event or barrier is signed instead.
            tracing::debug!(%error, "the log has no room for a signature");
        }
        Ok(position)
    }

    /// Appends a feed to the log of its author, if it is what `key` has signed and follows on the events that are here.
    /// Returns the new events. They are not durable before the next [`Log::sync`].
    ///
    /// # Errors
    /// The feed does not fit, or the log does not work. Called by one thread at a time.
    pub fn extend(
        &self,
        feed: &Feed,
        author: Author,
        key: &Key,
    ) -> Result<Result<Vec<Event>, Unfit>, LogError> {
        let here = self.tail().tip;
        let events = match feed.check((author, key), (here.seq, &here.feed)) {
            Ok(events) => events,
            Err(unfit) => return Ok(Err(unfit)),
        };
        let mut tail = self.tail();
        for event in &events {
            tail.append(event)?;
        }
        tail.append_signature(feed.covers(), feed.signature)?;
        Ok(Ok(events))
    }

    /// Makes all events of a foreign log durable.
    ///
    /// # Errors
    /// The disk fails: the log has failed then.
    pub fn sync(&self) -> Result<(), LogError> {
        let target = self.last();
        let is_covered = || Some(()).filter(|()| self.covered() >= target);
        self.group.share(is_covered, || {
            let (last, unsynced) = {
                let mut tail = self.tail();
                (tail.tip.seq, tail.take_unsynced())
            };
            unsynced.sync(&self.segments).map_err(|error| self.tail().fail(error))?;
            self.tail().covered = last;
            Ok(())
        })
    }

    /// Returns the number of the last event that other nodes may have: what a power cut takes back nobody has seen.
    #[must_use]
    pub fn shared(&self) -> u64 {
        let tail = self.tail();
        if self.is_foreign { tail.tip.seq } else { tail.covered }
    }

    /// Returns the events after a number, for another node: about `bytes_max`, or more where the author has signed no
    /// part of them, and none after `up_to`. `None` if there are none to send.
    ///
    /// # Errors
    /// The log is damaged, or cannot be read.
    pub fn feed(&self, after: u64, up_to: u64, bytes_max: usize) -> Result<Option<Feed>, LogError> {
        let shared = self.shared().min(up_to);
        let extent = self.tail().extent(shared);
        send::read(&self.segments, &self.known, extent, after, bytes_max)
    }

    /// Makes all events that were appended before this call durable, and returns up to where events are durable.
    ///
    /// `settle` makes durable what events refer to: everything that any event so far needs, not only the caller's.
    /// Callers that arrive while one barrier is made share the next one, and only one of them runs its `settle`. What
    /// concerns the caller alone, such as the content of the file that it syncs, it makes durable before it calls.
    /// Nothing is done if the events are durable already. `settle` may append to the log, but not make a barrier.
    ///
    /// # Errors
    /// The disk is full: a later barrier may succeed. Or `settle` or a sync fails: what it was to make durable may be
    /// lost, so the log has failed, and nothing can be appended until it is opened again.
    pub fn barrier(&self, settle: impl FnOnce() -> io::Result<()>) -> Result<Position, LogError> {
        let target = self.last();
        let is_covered = || Some(self.covered()).filter(|covered| *covered >= target);
        self.group.share(is_covered, || self.make_barrier(settle))
    }

    /// Returns the position of the last event.
    #[must_use]
    pub fn last(&self) -> Position {
        Position(self.tail().tip.seq)
    }

    /// Returns the position up to which events are durable. Later ones may be lost with the machine, and their numbers
    /// then be given to other events: they must not leave the machine before.
    #[must_use]
    pub fn covered(&self) -> Position {
        Position(self.tail().covered)
    }

    /// Returns the number of the first event that the log has or will have.
    ///
    /// # Errors
    /// The first segment cannot be read.
    pub fn first_seq(&self) -> Result<u64, LogError> {
        self.segments.first_seq()
    }

    /// Returns the events from number `seq` to the last one appended so far.
    ///
    /// # Errors
    /// The segments cannot be listed, or the one where the events begin cannot be found.
    pub fn read_from(&self, seq: u64) -> Result<Events, LogError> {
        let end = self.tail().tip.place;
        Events::new(&self.segments, seq, end)
    }

    /// Checks chain and signatures of all that was appended so far.
    ///
    /// # Errors
    /// The segments cannot be read.
    pub fn verify(&self) -> Result<Verified, LogError> {
        let end = self.tail().tip.place;
        verify::check(&self.segments, Some(end))
    }

    /// Makes a barrier. Called by one thread at a time. An event that is appended after `settle` has begun may precede
    /// the barrier's record, but is not covered by it.
    fn make_barrier(&self, settle: impl FnOnce() -> io::Result<()>) -> Result<Position, LogError> {
        let (covers, feed) = self.tail().begin_barrier()?;
        settle().map_err(|source| self.tail().fail(LogError::Settle { source }))?;
        let signature = self.signer.as_ref().map(|key| key.sign(&record::signed(covers, &feed)));
        let unsynced = self.tail().append_barrier(covers, signature)?;
        unsynced.sync(&self.segments).map_err(|error| self.tail().fail(error))?;
        self.tail().covered = covers;
        self.prepare_segment();
        Ok(Position(covers))
    }

    /// Makes the next segment ahead of need. If that fails, `append` tries again when it needs one.
    fn prepare_segment(&self) {
        let Some(number) = self.tail().missing_spare() else { return };
        match self.segments.make(number) {
            Ok(file) => self.tail().keep_spare(number, file),
            Err(error) => tracing::debug!(%error, "the log has no spare segment"),
        }
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        // The tail changes only after its record is written.
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
