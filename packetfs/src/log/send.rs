//! Reads feeds from a log: what other nodes are sent.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_bytes::ByteBuf;
use worknode::key::Signature;

use super::error::{Flaw, LogError};
use super::feed::Feed;
use super::place::{FeedHash, Place, Tip};
use super::record::{self, Item};
use super::scan::to_index;
use super::segment::Segments;

/// Most places that are remembered: one for each node that is sent events, and some for those that are catching up.
const KNOWN_MAX: usize = 64;
/// Bytes that are read at once, unless a record is longer.
const READ_BYTES: usize = 256 * 1024;

/// Places behind events that were sent last, where the next ones are read.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<BTreeMap<u64, Tip>>);

impl Known {
    fn before(&self, seq: u64) -> Option<Tip> {
        self.lock().range(..=seq).next_back().map(|(_, tip)| *tip)
    }

    fn add(&self, tip: Tip) {
        let mut known = self.lock();
        known.insert(tip.seq, tip);
        while known.len() > KNOWN_MAX {
            known.pop_first();
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Tip>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What may be read of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    /// The log's secret, with which records are hashed.
    pub(super) id: [u8; 32],
    /// The end of the last record.
    pub(super) end: Place,
    /// The last event that others may have.
    pub(super) shared: u64,
}

/// Returns the events after a number, up to the last signature within `bytes_max`, or else to the first signature. `None`
/// if there is nothing to send.
pub(super) fn read(
    segments: &Segments,
    known: &Known,
    extent: Extent,
    after: u64,
    bytes_max: usize,
) -> Result<Option<Feed>, LogError> {
    if after >= extent.shared {
        return Ok(None);
    }
    let tip = match known.before(after) {
        Some(tip) => tip,
        None => segments.find(after + 1, extent.end.segment)?.tip(),
    };
    let mut reader = Reader { segments, extent, tip, at: tip.place, buffer: Vec::new() };
    let mut run = Run::new(after, tip);
    while run.bytes <= bytes_max || run.signed.is_none() {
        let Some((item, payload)) = reader.next()? else { break };
        run.add(&item, payload, reader.tip, extent.shared);
    }
    Ok(run.end(known))
}

/// Reads records one after the other.
struct Reader<'a> {
    segments: &'a Segments,
    extent: Extent,
    /// The last record.
    tip: Tip,
    /// Where the buffer begins.
    at: Place,
    buffer: Vec<u8>,
}

impl Reader<'_> {
    /// Returns the next record with its payload.
    fn next(&mut self) -> Result<Option<(Item, Vec<u8>)>, LogError> {
        let Some(end) = self.segment_end()? else { return Ok(None) };
        let Place { segment, offset } = self.tip.place;
        let at = self.fill(end - offset)?;
        let damaged = |flaw| self.segments.damaged(segment, offset, flaw);
        let record = record::read(&self.buffer, at, &self.extent.id, &self.tip.chain);
        let record = record.map_err(damaged)?;
        let item = self.tip.follow(&record).map_err(damaged)?;
        self.tip.place.offset += (record.end - at) as u64;
        Ok(Some((item, record.payload.to_vec())))
    }

    /// Returns the end of the segment that has the next record, and goes on to the next segment if necessary.
    fn segment_end(&mut self) -> Result<Option<u64>, LogError> {
        loop {
            let (place, end) = (self.tip.place, self.extent.end);
            if place.segment == end.segment {
                return Ok((place.offset < end.offset).then_some(end.offset));
            }
            let next = self.segments.following(place.segment, end.segment)?;
            let Some(next) = next else { return Ok(None) };
            let header = self.segments.sound_header(next)?;
            if place.offset < header.before.place.offset {
                return Ok(Some(header.before.place.offset));
            }
            if header.before != self.tip {
                return Err(self.segments.damaged(next, 0, Flaw::Order));
            }
            self.tip = header.tip();
            self.at = self.tip.place;
            self.buffer.clear();
        }
    }

    /// Has the next record in the buffer. Returns where it begins there. `left` are the bytes until the segment ends.
    fn fill(&mut self, left: u64) -> Result<usize, LogError> {
        let at = to_index(self.tip.place.offset - self.at.offset);
        let bytes = record::span(&self.buffer, at);
        if bytes.is_some_and(|bytes| at + bytes <= self.buffer.len()) {
            return Ok(at);
        }
        self.at = self.tip.place;
        let count = bytes.unwrap_or(0).max(READ_BYTES).min(to_index(left));
        self.buffer = self.segments.read_part(self.at, count)?;
        match record::span(&self.buffer, 0) {
            Some(bytes) if bytes > self.buffer.len() && bytes as u64 <= left => {
                self.buffer = self.segments.read_part(self.at, bytes)?;
            }
            _ => {}
        }
        Ok(0)
    }
}

/// A feed that grows.
struct Run {
    after: u64,
    before: FeedHash,
    events: Vec<ByteBuf>,
    bytes: usize,
    /// The last signature that may be sent, and up to where.
    signed: Option<(Tip, Signature)>,
    /// Where its events end.
    tips: Vec<Tip>,
}

impl Run {
    fn new(after: u64, tip: Tip) -> Self {
        Self {
            after,
            before: tip.feed,
            events: Vec::new(),
            bytes: 0,
            signed: None,
            tips: Vec::new(),
        }
    }

    fn add(&mut self, item: &Item, payload: Vec<u8>, tip: Tip, shared: u64) {
        match item {
            Item::Event(_) if tip.seq <= self.after => self.before = tip.feed,
            Item::Event(_) => {
                self.bytes += payload.len();
                self.events.push(payload.into());
                self.tips.push(tip);
            }
            Item::Barrier(_) | Item::Seal(_) => {
                let signed = item.signature().filter(|(covers, _)| *covers <= shared);
                let Some((covers, signature)) = signed else { return };
                let index = covers.checked_sub(self.after + 1).map(to_index);
                if let Some(tip) = index.and_then(|index| self.tips.get(index)) {
                    self.signed = Some((*tip, signature));
                }
            }
        }
    }

    fn end(self, known: &Known) -> Option<Feed> {
        let (tip, signature) = self.signed?;
        known.add(tip);
        let mut events = self.events;
        events.truncate(to_index(tip.seq - self.after));
        Some(Feed { after: self.after, before: self.before, events, signature })
    }
}
