//! Exchanges events and packets with other nodes' volumes: says what is here, gives it, and learns what others have.
//!
//! [`foreign`] keeps the logs of other nodes, [`statement`] says whose they are, [`prompt`] makes changes durable at once
//! while somebody waits for them, and [`arrive`] hands events over to the tables. Who is asked and when is not decided here.

mod arrive;
pub(super) mod at_once;
mod batch;
pub(super) mod foreign;
pub(super) mod prompt;
pub(super) mod statement;

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use worknode::history::{Author, Op, Packet, Summary};
use worknode::key::Key;

use super::error::VolumeError;
use super::library::Source;
use super::model::Volume;
use crate::log::Feed;
use crate::packet::{Digest, Packed, PacketRef, WHOLE_BYTES_MAX};
pub use batch::{Batch, Refused};
pub use statement::{Statement, author_of};

impl Volume {
    /// Returns who makes the events of this volume.
    #[must_use]
    pub fn author(&self) -> Author {
        self.shared.author
    }

    /// Says whose the events of this volume are. Without it they are not given to anybody.
    pub fn set_statement(&self, statement: Statement) {
        *self.shared.foreign.own.write().unwrap_or_else(PoisonError::into_inner) = Some(statement);
    }

    /// Returns up to which event this volume has all of each author, as far as others may have them.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = self.shared.foreign.summary();
        let own = self.shared.log.shared();
        if own > 0 {
            summary.0.insert(self.shared.author, own);
        }
        summary
    }

    /// Returns all authors with the keys of the nodes that have stated whose their events are.
    #[must_use]
    pub fn authors(&self) -> Vec<(Author, Key)> {
        let own = self.shared.foreign.own.read().unwrap_or_else(PoisonError::into_inner).clone();
        let foreign = self.shared.foreign.all();
        let stated = foreign.iter().map(|it| &it.statement).chain(&own);
        stated.map(|statement| (statement.author(), statement.node)).collect()
    }

    /// Returns an author's events after a number: about `bytes_max`, or up to the first signature. `None` if there are none, or
    /// if they are kept back until a file that was closed before them is packets.
    ///
    /// # Errors
    /// The log is damaged, or cannot be read.
    pub fn events_after(
        &self,
        author: Author,
        after: u64,
        bytes_max: usize,
    ) -> Result<Option<Batch>, VolumeError> {
        let foreign = &self.shared.foreign;
        let (statement, feed) = if author == self.shared.author {
            let own = foreign.own.read().unwrap_or_else(PoisonError::into_inner).clone();
            let durable = self.shared.log.shared();
            let limit = self.shared.holds.limit(durable, Instant::now());
            (own, self.shared.log.feed(after, limit, bytes_max)?)
        } else {
            let Some(known) = foreign.get(author) else { return Ok(None) };
            (Some(known.statement.clone()), known.log.feed(after, u64::MAX, bytes_max)?)
        };
        Ok(statement.zip(feed).map(|(statement, feed)| Batch { statement, feed }))
    }

    /// Takes in another node's events, and returns how many were new. Before it returns, kernels have forgotten what
    /// the events change. That the statement is by a member is for the caller to check.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn learn(&self, batch: &Batch) -> Result<u64, Refused> {
        let locks = &self.shared.locks;
        locks.begin_learning();
        let count = self.shared.learn(batch);
        if count.as_ref().is_ok_and(|count| *count > 0) {
            locks.applied.notify_all();
            self.wait_told();
        }
        locks.end_learning();
        count
    }

    /// Makes changes durable at once from now on, so that others get them soon. `listener` is called when there is more
    /// to give, until it returns false: it must not block. Without listeners, changes become durable each second.
    pub fn grown(&self, listener: impl Fn() -> bool + Send + 'static) {
        self.shared.prompt.listen(Box::new(listener));
    }

    /// Returns the packets that are here and intact.
    #[must_use]
    pub fn packets(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        let library = &self.shared.library;
        wanted.iter().filter_map(|packet| Some((*packet, library.packed(*packet)?))).collect()
    }

    /// Returns packets that are here or that other nodes have. Blocks for a bounded time.
    #[must_use]
    pub fn obtain(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        // What could not be fetched or stored is missing in the answer.
        let _ = self.shared.library.fetch_missing(wanted);
        self.packets(wanted)
    }

    /// Stores packets of others that match their digests. Returns whether all did.
    ///
    /// # Errors
    /// The disk is full or fails.
    pub fn keep(&self, packets: &[(PacketRef, Packed)]) -> Result<bool, VolumeError> {
        self.shared.library.keep_checked(packets)
    }

    /// Fetches packets that are not here from a source from now on.
    pub fn set_source(&self, source: Arc<dyn Source>) {
        self.shared.library.set_source(source);
    }
}

/// Returns the packets of small contents that events of a feed write, which are sent with it.
pub fn small_packets(feed: &Feed) -> impl Iterator<Item = PacketRef> {
    feed.events.iter().filter_map(|event| {
        let event: worknode::history::Event = postcard::from_bytes(event).ok()?;
        let Op::Write { content, .. } = event.op else { return None };
        let Packet { digest, bytes, is_list } = content.packet?;
        let is_small = !is_list && bytes as usize <= WHOLE_BYTES_MAX;
        is_small.then_some(PacketRef { digest: Digest(digest), bytes })
    })
}
