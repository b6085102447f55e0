//! Scans the end of a log: the records that are intact, and whether intact ones follow on damage.

use std::collections::{BTreeMap, VecDeque};

use super::error::{Flaw, LogError};
use super::header::Header;
use super::place::{Place, Tip};
use super::record::{self, Item, Sought};
use super::segment::{Begins, Segments, used};

/// The end of a log, as far as it is intact.
#[derive(Debug)]
pub(super) struct Scan {
    /// The header of the last segment of the chain.
    pub(super) header: Header,
    /// The last record of the chain.
    pub(super) tip: Tip,
    /// The last event that is known to be durable, and all events behind it.
    since: VecDeque<Tip>,
    /// The last event that a barrier covers.
    pub(super) covered: u64,
    /// The last event that is known to be durable: a barrier's sync may have failed.
    pub(super) durable: u64,
    /// What ended the chain before the end of the log.
    pub(super) flaw: Option<(Place, Flaw)>,
}

/// What stands behind the end of a chain.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Behind {
    /// Whether there are intact records.
    pub(super) is_intact: bool,
    /// The last event that was durable when one of them was written.
    pub(super) covered: u64,
}

/// The segments of a log, and from which one on its end is scanned.
#[derive(Debug)]
pub(super) struct Ends<'a> {
    segments: &'a Segments,
    headers: BTreeMap<u32, Begins>,
    /// The newest segment that has a header.
    newest: Header,
}

impl<'a> Ends<'a> {
    /// Reads the headers. Returns `None` if there is no log.
    pub(super) fn read(segments: &'a Segments) -> Result<Option<Self>, LogError> {
        let headers = segments.headers()?;
        let Some((&first, _)) = headers.first_key_value() else { return Ok(None) };
        let version =
            |begins: &Begins| begins.err().filter(|flaw| matches!(flaw, Flaw::Version(_)));
        if let Some((number, flaw)) = headers.iter().find_map(|(n, b)| Some((*n, version(b)?))) {
            return Err(segments.damaged(number, 0, flaw));
        }
        let newest = headers.values().rev().find_map(|begins| begins.ok().flatten());
        let newest = newest.ok_or_else(|| segments.damaged(first, 0, Flaw::Header))?;
        Ok(Some(Self { segments, headers, newest }))
    }

    /// Returns the header of the segment that has the last covered event, or begins right behind it.
    fn first(&self) -> Result<Header, LogError> {
        let mut valid = self.headers.values().rev().filter_map(|begins| begins.ok().flatten());
        valid
            .find(|header| header.before.seq <= self.newest.covered)
            .ok_or_else(|| self.segments.damaged(self.newest.number, 0, Flaw::Missing))
    }

    /// Scans the records from the last covered event on.
    pub(super) fn scan(&self) -> Result<Scan, LogError> {
        let mut scan = Scan::new(self.first()?, self.newest.covered);
        scan.flaw = loop {
            let number = scan.tip.place.segment;
            let bytes = self.segments.read(number)?;
            if let Err(flaw) = scan.read(&bytes, self.end_of(number)) {
                break Some((scan.tip.place, flaw));
            }
            let Some((next, begins)) = self.behind_segment(number) else { break None };
            let entered = begins.and_then(|header| scan.enter(header.ok_or(Flaw::Missing)?));
            if let Err(flaw) = entered {
                let place = Place { segment: next, offset: 0 };
                break self.is_flaw(next).then_some((place, flaw));
            }
        };
        Ok(scan)
    }

    /// Looks for what was written after the damage at which a scan ended.
    pub(super) fn behind(&self, scan: &Scan, sought: Sought) -> Result<Behind, LogError> {
        let mut behind = Behind::default();
        let from = scan.tip.place;
        for (&number, begins) in self.headers.range(from.segment..) {
            if let (true, Ok(Some(header))) = (number > from.segment, begins) {
                behind.add(header.covered);
            }
            let bytes = self.segments.read(number)?;
            let mut at = if number == from.segment { to_index(from.offset) } else { 0 };
            while let Some((_, record)) = record::find(&bytes, at, &scan.header.id, sought) {
                behind.add(match record.item() {
                    Ok(Item::Barrier(barrier)) => barrier.covered,
                    _ => 0,
                });
                at = record.end;
            }
        }
        Ok(behind)
    }

    /// Counts the bytes behind a place, without the zeros at the end of each segment.
    pub(super) fn bytes_behind(&self, from: Place) -> Result<u64, LogError> {
        let mut count = 0;
        for &number in self.headers.range(from.segment..).map(|(number, _)| number) {
            let bytes = self.segments.read(number)?;
            let start = if number == from.segment { to_index(from.offset) } else { 0 };
            let rest = bytes.get(start..).unwrap_or_default();
            count += used(rest) as u64;
        }
        Ok(count)
    }

    /// Returns the number that the next segment has.
    pub(super) fn next_number(&self) -> u32 {
        self.headers.last_key_value().map_or(1, |(last, _)| last + 1)
    }

    /// Tells whether a segment was not cut off by an earlier recovery.
    pub(super) fn has(&self, number: u32) -> bool {
        self.headers.contains_key(&number)
    }

    fn behind_segment(&self, number: u32) -> Option<(u32, Begins)> {
        self.headers.range(number + 1..).next().map(|(next, begins)| (*next, *begins))
    }

    /// Returns where a segment ends, as the next one says.
    fn end_of(&self, number: u32) -> Option<u64> {
        let before = self.behind_segment(number)?.1.ok()??.before.place;
        (before.segment == number).then_some(before.offset)
    }

    /// Tells whether it is a flaw that the chain does not go on in a segment: there is something behind.
    fn is_flaw(&self, number: u32) -> bool {
        self.headers.range(number..).any(|(_, begins)| !matches!(begins, Ok(None)))
    }
}

impl Behind {
    fn add(&mut self, covered: u64) {
        self.is_intact = true;
        self.covered = self.covered.max(covered);
    }
}

impl Scan {
    fn new(header: Header, durable: u64) -> Self {
        let tip = header.tip();
        Self { header, tip, since: [tip].into(), covered: durable, durable, flaw: None }
    }

    /// Returns the event of a number, which is not before the last durable one. Where the scan began stands for the last
    /// event before.
    pub(super) fn event(&self, seq: u64) -> Tip {
        *self.since.iter().find(|event| event.seq == seq).expect("the scan has come so far")
    }

    /// Takes note of what was durable when something was written.
    pub(super) fn add_durable(&mut self, seq: u64) {
        self.durable = self.durable.max(seq);
        self.covered = self.covered.max(seq);
        while self.since.len() > 1 && self.since[1].seq <= self.durable {
            self.since.pop_front();
        }
    }

    /// Reads the records of a segment up to its end, if that is known, or to zeros.
    fn read(&mut self, bytes: &[u8], end: Option<u64>) -> Result<(), Flaw> {
        let known = end.map(|end| bytes.get(..to_index(end)).ok_or(Flaw::Length)).transpose();
        let bytes = known?.unwrap_or(bytes);
        let end = end.unwrap_or_else(|| used(bytes) as u64);
        while self.tip.place.offset < end {
            self.step(bytes)?;
        }
        Ok(())
    }

    fn step(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        match self.tip.advance(bytes, &self.header.id)? {
            Item::Event(_) => self.since.push_back(self.tip),
            Item::Barrier(barrier) => {
                self.covered = self.covered.max(barrier.covers);
                self.durable = self.durable.max(barrier.covered);
            }
            Item::Seal(_) => {}
        }
        self.add_durable(self.durable);
        Ok(())
    }

    /// Goes on in the next segment.
    fn enter(&mut self, header: Header) -> Result<(), Flaw> {
        if header.id != self.header.id || header.before != self.tip {
            return Err(Flaw::Order);
        }
        (self.header, self.tip) = (header, header.tip());
        Ok(())
    }
}

/// Returns an offset in a segment that is in memory.
pub(super) fn to_index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
