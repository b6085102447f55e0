//! Checks a whole log, and goes on behind damage.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};

use worknode::key::{Key, Signature};

use super::error::{Flaw, LogError};
use super::header::{HEADER_BYTES, Header};
use super::lock::Lock;
use super::place::{Chain, FeedHash, Place, Tip};
use super::record::{self, Item, Sought};
use super::scan::to_index;
use super::segment::{Begins, SEGMENT_BYTES, Segments, used};

/// What a check has found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verified {
    /// How many events are intact.
    pub events: u64,
    /// The keys by which barriers are signed, in the order in which they were used. Whether these are the node's own
    /// is for the caller to say.
    pub signers: Vec<Key>,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file of the segment.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// What is wrong.
    pub flaw: Flaw,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.path.display(), self.offset, self.flaw)
    }
}

/// Checks a log that is not open, even one that cannot be opened. An incomplete record at its end, which opening would
/// cut off, is a finding too.
///
/// # Errors
/// The log is in use, or cannot be read.
pub fn verify(dir: &Path) -> Result<Verified, LogError> {
    let _lock = Lock::take(dir)?;
    check(&Segments::new(dir, SEGMENT_BYTES), None)
}

/// Checks a log up to a place, or up to its end if that is not known.
pub(super) fn check(segments: &Segments, end: Option<Place>) -> Result<Verified, LogError> {
    let mut headers = segments.headers()?;
    headers.retain(|number, _| end.is_none_or(|end| *number <= end.segment));
    let mut check = Check::new(segments, end, &headers);
    let mut rest = headers.iter().peekable();
    while let Some((&number, &begins)) = rest.next() {
        let next = rest.peek().map(|(_, begins)| **begins);
        check.segment(number, begins, next)?;
    }
    Ok(check.found)
}

/// A check under way.
struct Check<'a> {
    segments: &'a Segments,
    end: Option<Place>,
    id: [u8; 32],
    tip: Tip,
    signer: Option<Key>,
    /// Whether it is not known what the next record follows on.
    is_lost: bool,
    /// Whether it is not known what the feed hash is: it follows on a damaged event.
    is_feed_lost: bool,
    /// Numbers and feed hashes of the events behind the last covered one, for signatures.
    events: VecDeque<(u64, FeedHash)>,
    found: Verified,
}

impl<'a> Check<'a> {
    fn new(segments: &'a Segments, end: Option<Place>, headers: &BTreeMap<u32, Begins>) -> Self {
        let first = headers.values().find_map(|begins| begins.ok().flatten());
        // Without a header no hash can be checked, so nothing is found that uses these.
        let id = first.map_or_else(Default::default, |header| header.id);
        let (tip, events, found) = (Tip::default(), VecDeque::new(), Verified::default());
        let (signer, is_lost, is_feed_lost) = (None, false, false);
        Self { segments, end, id, tip, signer, is_lost, is_feed_lost, events, found }
    }

    fn segment(
        &mut self,
        number: u32,
        begins: Begins,
        next: Option<Begins>,
    ) -> Result<(), LogError> {
        match begins {
            Ok(Some(header)) => self.enter(&header),
            // It was made ahead of need.
            Ok(None) if next.is_none() => return Ok(()),
            Ok(None) => self.lose(number, Flaw::Missing),
            Err(flaw) => self.lose(number, flaw),
        }
        let mut bytes = self.segments.read(number)?;
        let end = self.end_of(number, next);
        bytes.truncate(end.map_or(usize::MAX, to_index));
        if !self.is_lost || self.resync(&bytes) {
            self.records(&bytes, end.map_or_else(|| used(&bytes), to_index));
        }
        if end.is_some_and(|end| end > bytes.len() as u64) {
            self.tell(Place { segment: number, offset: bytes.len() as u64 }, Flaw::Length);
        }
        Ok(())
    }

    fn enter(&mut self, header: &Header) {
        if std::mem::take(&mut self.is_feed_lost) {
            self.tip.feed = header.before.feed;
        }
        if !self.is_lost && (header.before != self.tip || header.id != self.id) {
            self.tell(Place { segment: header.number, offset: 0 }, Flaw::Order);
        }
        (self.tip, self.signer, self.is_lost) = (header.tip(), header.signer, false);
        let new = header.signer.filter(|key| self.found.signers.last() != Some(key));
        self.found.signers.extend(new);
    }

    /// Takes note that the header of a segment is not to be read.
    fn lose(&mut self, number: u32, flaw: Flaw) {
        self.tell(Place { segment: number, offset: 0 }, flaw);
        self.tip.place = Place { segment: number, offset: HEADER_BYTES as u64 };
        self.is_lost = true;
    }

    fn end_of(&self, number: u32, next: Option<Begins>) -> Option<u64> {
        let before = next.and_then(|next| next.ok().flatten()).map(|next| next.before.place);
        let end = before.or(self.end).filter(|end| end.segment == number);
        end.map(|end| end.offset)
    }

    /// Checks records up to the end of the segment.
    fn records(&mut self, bytes: &[u8], end: usize) {
        while to_index(self.tip.place.offset) < end.min(bytes.len()) {
            let item = self.tip.advance(bytes, &self.id);
            match item.map(|item| self.item(&item)) {
                Ok(()) => {}
                Err(flaw) => {
                    self.tell(self.tip.place, flaw);
                    self.tip.place.offset += 1;
                    if !self.resync(bytes) {
                        return;
                    }
                }
            }
        }
    }

    /// Goes on with the next intact record of the segment, if there is one.
    fn resync(&mut self, bytes: &[u8]) -> bool {
        self.is_lost = true;
        self.is_feed_lost = true;
        self.events.clear();
        let from = to_index(self.tip.place.offset);
        let Some((at, record)) = record::find(bytes, from, &self.id, Sought::Any) else {
            return false;
        };
        self.tip.place.offset = at as u64;
        self.tip.chain.copy_from_slice(&bytes[at - size_of::<Chain>()..at]);
        self.tip.seq = match record.item() {
            Ok(Item::Event(event)) => event.dot.seq.saturating_sub(1),
            Ok(Item::Barrier(barrier)) => barrier.covers,
            Ok(Item::Seal(seal)) => seal.covers,
            Err(_) => self.tip.seq,
        };
        self.is_lost = false;
        true
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Event(_) => {
                self.found.events += 1;
                self.events.push_back((self.tip.seq, self.tip.feed));
            }
            Item::Barrier(barrier) => self.signature(barrier.covers, barrier.signature.as_ref()),
            Item::Seal(seal) => self.signature(seal.covers, Some(&seal.signature)),
        }
    }

    /// Checks a signature, unless an event that it signs is damaged.
    fn signature(&mut self, covers: u64, signature: Option<&Signature>) {
        while self.events.front().is_some_and(|(seq, _)| *seq < covers) {
            self.events.pop_front();
        }
        let covered = self.events.front().filter(|(seq, _)| *seq == covers);
        let (Some((covers, feed)), Some(key), false) = (covered, self.signer, self.is_feed_lost)
        else {
            return;
        };
        let message = record::signed(*covers, feed);
        let is_valid = |signature| key.verify(&message, signature).is_ok();
        if !signature.is_some_and(is_valid) {
            self.tell(self.tip.place, Flaw::Signature);
        }
    }

    fn tell(&mut self, place: Place, flaw: Flaw) {
        let path = self.segments.path(place.segment);
        self.found.findings.push(Finding { path, offset: place.offset, flaw });
    }
}
