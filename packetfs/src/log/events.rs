//! Reads events in order, a segment at a time.

use worknode::history::Event;

use super::error::{Flaw, LogError};
use super::header::Header;
use super::place::{Place, Tip};
use super::record::Item;
use super::scan::to_index;
use super::segment::Segments;

/// The events of a log from one number on. It ends at the first damage, which it returns.
#[derive(Debug)]
pub struct Events {
    segments: Segments,
    /// The first number that is returned.
    from: u64,
    /// The end of the last record.
    end: Place,
    /// What is read next; none behind the end.
    at: Option<At>,
}

/// A place in a segment that is in memory.
#[derive(Debug)]
struct At {
    header: Header,
    tip: Tip,
    /// The segment up to its end.
    bytes: Vec<u8>,
}

impl Events {
    pub(super) fn new(segments: &Segments, from: u64, end: Place) -> Result<Self, LogError> {
        let mut events = Self { segments: segments.clone(), from: from.max(1), end, at: None };
        let header = events.segments.find(events.from, end.segment)?;
        events.at = Some(events.begin(header)?);
        Ok(events)
    }

    /// Reads a segment up to its end.
    fn begin(&self, header: Header) -> Result<At, LogError> {
        let number = header.number;
        let end = match self.segments.following(number, self.end.segment)? {
            Some(next) => self.segments.sound_header(next)?.before.place.offset,
            None => self.end.offset,
        };
        let mut bytes = self.segments.read(number)?;
        bytes.truncate(to_index(end));
        if (bytes.len() as u64) < end {
            return Err(self.segments.damaged(number, bytes.len() as u64, Flaw::Length));
        }
        Ok(At { tip: header.tip(), header, bytes })
    }

    fn step(&mut self) -> Result<Option<Event>, LogError> {
        while let Some(at) = &mut self.at {
            if at.tip.place.offset == at.bytes.len() as u64 {
                self.enter_next()?;
                continue;
            }
            match at.tip.advance(&at.bytes, &at.header.id) {
                Ok(Item::Event(event)) if event.dot.seq >= self.from => return Ok(Some(*event)),
                Ok(_) => {}
                Err(flaw) => {
                    let Place { segment, offset } = at.tip.place;
                    return Err(self.segments.damaged(segment, offset, flaw));
                }
            }
        }
        Ok(None)
    }

    fn enter_next(&mut self) -> Result<(), LogError> {
        let Some(At { header, tip, .. }) = self.at.take() else { return Ok(()) };
        let Some(number) = self.segments.following(header.number, self.end.segment)? else {
            return Ok(());
        };
        let next = self.segments.sound_header(number)?;
        if next.before != tip || next.id != header.id {
            return Err(self.segments.damaged(number, 0, Flaw::Order));
        }
        self.at = Some(self.begin(next)?);
        Ok(())
    }
}

impl Iterator for Events {
    type Item = Result<Event, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.at = None;
        }
        step.transpose()
    }
}
