//! Decides which records count when a log is opened, and cuts off the others.
//!
//! The page cache survives a killed agent: then every record of the intact chain counts. After a reboot only what a
//! barrier covers does. What is cut off must not have been durable: each later barrier, and each later header, says
//! what was durable when it was written. Otherwise the log is damaged and left as it is.
//!
//! To cut off, a new segment is begun that follows on the last record that counts.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use worknode::history::Hlc;
use worknode::key::Key;

use super::boot::BootId;
use super::error::{Flaw, LogError};
use super::header::{HEADER_BYTES, Header};
use super::place::{Place, Position, Tip};
use super::record::Sought;
use super::scan::{Ends, Scan, to_index};
use super::segment::Segments;
use super::tail::Tail;

/// What was found when a log was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovered {
    /// The position of the last event.
    pub last: Position,
    /// The moment of the last event; zero if there is none.
    pub hlc: Hlc,
    /// The position up to which events are known to be durable. After a killed agent that is what the barrier before
    /// the last one covered: it cannot be known whether the sync of the last one ended.
    pub covered: Position,
    /// Whether the machine was booted since the log was written.
    pub has_rebooted: bool,
    /// What was cut off.
    pub cut: Option<Cut>,
}

/// What was cut off from the end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// From where on.
    pub place: Place,
    /// How many bytes, without the zeros at the end.
    pub bytes: u64,
    /// How many intact events, which no barrier covered.
    pub events: u64,
    /// The incomplete record, if there was one.
    pub flaw: Option<Flaw>,
}

/// Finds the end of a log, makes a log if there is none, and cuts off what does not count. The events up to `known` must be
/// there.
pub(super) fn recover(
    segments: &Segments,
    boot: BootId,
    signer: Option<Key>,
    known: u64,
) -> Result<(Tail, Recovered), LogError> {
    let Some(ends) = Ends::read(segments)? else {
        if known > 0 {
            return Err(segments.damaged(1, 0, Flaw::Missing));
        }
        let tail = first(segments, boot, signer)?;
        return Ok((tail, Recovered::default()));
    };
    let mut scan = ends.scan()?;
    let has_rebooted = scan.header.boot != boot;
    check_durable(segments, &ends, &mut scan, has_rebooted)?;
    let kept = kept(&scan, has_rebooted);
    if kept.seq < known {
        let end = (kept.place, Flaw::Covers);
        let (place, flaw) = scan.flaw.unwrap_or(end);
        return Err(segments.damaged(place.segment, place.offset, flaw));
    }
    let cut = cut(&ends, &scan, kept)?;
    let covered = if has_rebooted { kept.seq } else { scan.durable };
    let unsynced = if has_rebooted { Vec::new() } else { rewrite(segments, &scan)? };
    let is_same = !has_rebooted && cut.is_none() && scan.header.signer == signer;
    let number = if is_same { kept.place.segment } else { ends.next_number() };
    let (header, file) = if is_same {
        (scan.header, segments.open(number)?)
    } else {
        let header = Header { number, before: kept, covered, boot, signer, ..scan.header };
        (header, begin(segments, &header, cut.is_none())?)
    };
    remove_others(segments, &ends, kept.place.segment, number)?;
    let tip = if is_same { kept } else { header.tip() };
    let tail = Tail::new(segments, header, file, tip, covered, unsynced);
    let (last, covered) = (Position(kept.seq), Position(covered));
    Ok((tail, Recovered { last, hlc: kept.hlc, covered, has_rebooted, cut }))
}

/// Makes the first segment of a new log.
fn first(segments: &Segments, boot: BootId, signer: Option<Key>) -> Result<Tail, LogError> {
    let id = random().map_err(LogError::io("read", RANDOM))?;
    let header = Header { number: 1, id, before: Tip::default(), covered: 0, boot, signer };
    let file = segments.begin(&header)?;
    Ok(Tail::new(segments, header, file, header.tip(), 0, Vec::new()))
}

/// Where the kernel gives random bytes.
const RANDOM: &str = "/dev/urandom";

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    File::open(RANDOM)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Checks that nothing durable is behind the end of the chain, and learns from there what barriers covered.
fn check_durable(
    segments: &Segments,
    ends: &Ends<'_>,
    scan: &mut Scan,
    has_rebooted: bool,
) -> Result<(), LogError> {
    let Some((place, flaw)) = scan.flaw else { return Ok(()) };
    // The kernel writes blocks back in any order, but a header lies in one block, and a killed agent's writes are in
    // order: then nothing that is intact can follow on what is not.
    let is_ordered = !has_rebooted || flaw == Flaw::Header;
    let sought = if is_ordered { Sought::Any } else { Sought::Barriers };
    let behind = ends.behind(scan, sought)?;
    if behind.covered > scan.tip.seq || is_ordered && behind.is_intact {
        return Err(segments.damaged(place.segment, place.offset, flaw));
    }
    scan.add_durable(behind.covered);
    Ok(())
}

/// Returns the last record that counts.
fn kept(scan: &Scan, has_rebooted: bool) -> Tip {
    if has_rebooted && scan.covered < scan.tip.seq { scan.event(scan.covered) } else { scan.tip }
}

/// Says what is cut off.
fn cut(ends: &Ends<'_>, scan: &Scan, kept: Tip) -> Result<Option<Cut>, LogError> {
    let bytes = ends.bytes_behind(kept.place)?;
    let flaw = scan.flaw.map(|(_, flaw)| flaw);
    let events = scan.tip.seq - kept.seq;
    Ok((bytes > 0 || flaw.is_some()).then_some(Cut { place: kept.place, bytes, events, flaw }))
}

/// Writes again what may not be on disk. A sync that failed has left pages in memory that the kernel takes for written:
/// a later sync would not write them.
fn rewrite(segments: &Segments, scan: &Scan) -> Result<Vec<Arc<File>>, LogError> {
    let (from, end) = (scan.event(scan.durable).place, scan.tip.place);
    let mut files = Vec::new();
    for number in
        segments.numbers()?.into_iter().filter(|n| (from.segment..=end.segment).contains(n))
    {
        let bytes = segments.read(number)?;
        // Where events begin, the header may not be on disk either.
        let is_inside = number == from.segment && from.offset > HEADER_BYTES as u64;
        let start = if is_inside { to_index(from.offset) } else { 0 };
        let stop = if number == end.segment { to_index(end.offset) } else { bytes.len() };
        let file = segments.open(number)?;
        let written = file.write_all_at(&bytes[start..stop], start as u64);
        written.map_err(LogError::io("write", segments.path(number)))?;
        files.push(Arc::new(file));
    }
    Ok(files)
}

/// Begins a segment behind the last one, and gives back what that one does not need. If nothing is cut off, that is
/// done first: the disk may be full.
fn begin(segments: &Segments, header: &Header, is_whole: bool) -> Result<File, LogError> {
    let Place { segment, offset } = header.before.place;
    if is_whole {
        segments.shorten(segment, offset)?;
    }
    let file = segments.begin(header)?;
    if !is_whole {
        segments.shorten(segment, offset)?;
    }
    Ok(file)
}

/// Removes the segments that were cut off, now or when a recovery was interrupted, and those made ahead of need.
fn remove_others(
    segments: &Segments,
    ends: &Ends<'_>,
    kept: u32,
    last: u32,
) -> Result<(), LogError> {
    let is_needed = |number: u32| number == last || number <= kept && ends.has(number);
    let mut others = segments.numbers()?.into_iter().filter(|number| !is_needed(*number));
    others.try_for_each(|number| segments.remove(number))
}
