//! A killed agent loses nothing but an incomplete record; a power cut loses nothing that a barrier covers.

use super::support::*;
use crate::log::{Log, Place, Position};

const KILLS: u64 = 200;
const CUTS: u64 = 300;
/// What a disk writes as a whole.
const BLOCK_BYTES: usize = 4096;

/// Appends and syncs at random.
fn fill(log: &Log, dice: &mut Dice, steps: u64) {
    for _ in 0..steps {
        match dice.below(10) {
            0 => drop(sync(log)),
            _ => append(log, dice.below(30)),
        }
    }
}

/// Returns the log's files as they were when its agent was killed after `written` bytes of its last append: first of
/// the header of a new segment, if one was begun, then of the record.
fn torn(before: &Image, after: &Image, from: Place, end: Place, written: usize) -> Image {
    let (from, to) =
        if from.segment == end.segment { (from.offset, end.offset) } else { (0, end.offset) };
    let [from, to] = [from, to].map(|offset| usize::try_from(offset).expect("small"));
    let mut image = before.clone();
    let file = image.entry(name(end.segment)).or_default();
    file.resize(file.len().max(to), 0);
    let stop = to.min(from + written);
    file[from..stop].copy_from_slice(&after[&name(end.segment)][from..stop]);
    image
}

#[test]
fn a_killed_agent_loses_only_an_incomplete_record() {
    let mut dice = Dice::new();
    for _ in 0..KILLS {
        let dir = dir();
        let (log, _) = open(dir.path(), BOOT);
        let steps = 1 + dice.below(60);
        fill(&log, &mut dice, steps);
        let (before, count) = (image(dir.path()), log.last().0);
        let from = log.tail().tip.place;
        append(&log, 1);
        let (after, end) = (image(dir.path()), log.tail().tip.place);
        let written = dice.index(300);
        let killed = restore(&torn(&before, &after, from, end, written));
        check_killed(killed.path(), count, None);
    }
}

#[test]
fn a_record_that_is_cut_at_any_byte_is_dropped() {
    // The second of these begins a segment.
    for begins_segment in [false, true] {
        let dir = dir();
        let (log, _) = open(dir.path(), BOOT);
        append(&log, 20);
        let (before, from, end) = loop {
            let (before, from) = (image(dir.path()), log.tail().tip.place);
            append(&log, 1);
            let end = log.tail().tip.place;
            if (from.segment != end.segment) == begins_segment && end.offset < 600 + from.offset {
                break (before, from, end);
            }
        };
        let after = image(dir.path());
        let bytes = end.offset - if begins_segment { 0 } else { from.offset };
        for written in 0..=usize::try_from(bytes).expect("small") {
            let killed = restore(&torn(&before, &after, from, end, written));
            let is_whole = written as u64 == bytes;
            check_killed(killed.path(), log.last().0 - 1, Some(is_whole));
        }
    }
}

/// Checks that a log has `count` events, or one more, and can be used.
fn check_killed(dir: &std::path::Path, count: u64, is_whole: Option<bool>) {
    let (log, recovered) = open(dir, BOOT);
    let last = recovered.last.0;
    match is_whole {
        Some(is_whole) => assert_eq!(last, count + u64::from(is_whole)),
        None => assert!(last == count || last == count + 1, "{recovered:?} of {count}"),
    }
    assert_eq!(read(&log, 1), events(1..=last));
    append(&log, 3);
    sync(&log);
    assert_eq!(log.verify().expect("readable").findings, []);
    assert_eq!(read(&log, 1), events(1..=last + 3));
}

#[test]
fn a_power_cut_leaves_exactly_what_the_last_complete_barrier_covers() {
    let mut dice = Dice::new();
    let mut outcomes = [0; 2];
    for round in 0..CUTS {
        let dir = dir();
        let (log, _) = open(dir.path(), BOOT);
        let steps = dice.below(30);
        fill(&log, &mut dice, steps);
        append(&log, 1);
        let first = sync(&log);
        let durable = image(dir.path());
        // The second barrier's sync does not end. What is appended meanwhile precedes its record.
        append(&log, 1 + dice.below(400));
        let meanwhile = dice.below(20);
        let second = log.barrier(|| {
            append(&log, meanwhile);
            Ok(())
        });
        let (second, end) = (second.expect("the disk works"), log.tail().tip.place);
        let mut written = image(dir.path());
        append(&log, dice.below(100));
        // A segment that is begun later says that the barrier's sync did end.
        if log.tail().tip.place.segment == end.segment {
            written = image(dir.path());
        }
        let keeps = [0, 50, 95, 99, 100][dice.index(5)];
        let (cut, is_complete) = cut(&durable, &written, end, keeps, &mut dice);
        outcomes[usize::from(is_complete)] += 1;
        let expected = if is_complete { second } else { first };
        check_cut(&cut, expected, &format!("round {round}, keeps {keeps} %"));
    }
    assert!(outcomes.iter().all(|count| *count > 20), "{outcomes:?}");
}

/// Returns what a disk has after a power cut: of each block that was written since the last sync the former or the new
/// content. Tells whether it has all blocks up to a place.
fn cut(durable: &Image, written: &Image, end: Place, keeps: u64, dice: &mut Dice) -> (Image, bool) {
    let mut is_complete = true;
    let mut image = durable.clone();
    for (file, bytes) in written {
        let former = durable.get(file).cloned().unwrap_or_default();
        let mut mixed = former.clone();
        mixed.resize(bytes.len(), 0);
        for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let at = index * BLOCK_BYTES;
            let is_new = mixed[at..at + block.len()] != *block;
            if is_new && dice.below(100) < keeps {
                mixed[at..at + block.len()].copy_from_slice(block);
            } else if is_new {
                let is_before = *file < name(end.segment)
                    || *file == name(end.segment) && (at as u64) < end.offset;
                is_complete &= !is_before;
            }
        }
        image.insert(file.clone(), mixed);
    }
    (image, is_complete)
}

/// Checks that a log has exactly the events up to a position, now and after another power cut.
fn check_cut(cut: &Image, expected: Position, what: &str) {
    let dir = restore(cut);
    for boot in [NEXT_BOOT, BOOT] {
        let (log, recovered) = open(dir.path(), boot);
        assert!(recovered.has_rebooted);
        assert_eq!(
            (recovered.last, recovered.covered),
            (expected, expected),
            "{what}: {recovered:?}"
        );
        assert_eq!(read(&log, 1), events(1..=expected.0), "{what}");
        append(&log, 3);
    }
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!((recovered.last.0, recovered.covered), (expected.0 + 3, expected), "{what}");
    sync(&log);
    assert_eq!(log.verify().expect("readable").findings, [], "{what}");
}

#[test]
fn a_recovery_that_is_interrupted_is_done_again() {
    let dir = dir();
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 10);
    sync(&log);
    // Two more segments, and nothing covers what they have.
    append(&log, 1500);
    drop(log);
    let crashed = image(dir.path());
    assert!(crashed.len() > 3, "there are {} segments", crashed.len());
    drop(open(dir.path(), NEXT_BOOT));
    let recovered = image(dir.path());
    let (new, _) = recovered.last_key_value().expect("there are segments");
    // The new segment is there, but those that it replaces were not removed yet.
    let mut interrupted = crashed;
    interrupted.insert(new.clone(), recovered[new].clone());
    for boot in [NEXT_BOOT, BOOT] {
        let dir = restore(&interrupted);
        let (log, recovered) = open(dir.path(), boot);
        assert_eq!(recovered.last, Position(10));
        append(&log, 10);
        sync(&log);
        assert_eq!(log.verify().expect("readable").findings, []);
        assert_eq!(read(&log, 1), events(1..=20));
    }
}
