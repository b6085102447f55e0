//! Damage is found and named, and never read as an event.

use std::path::Path;

use super::support::*;
use crate::log::record::{self, Kind, Sought};
use crate::log::segment::Segments;
use crate::log::{Finding, LogError, verify};

const FLIPS: u64 = 1000;
const DECODED: u64 = 100_000;

/// Returns the files of a log of several boots and segments.
fn sound() -> (Image, u64) {
    let dir = dir();
    for boot in [BOOT, NEXT_BOOT, BOOT] {
        let (log, _) = open(dir.path(), boot);
        for _ in 0..6 {
            append(&log, 20);
            sync(&log);
        }
        append(&log, 10);
    }
    let (log, recovered) = open(dir.path(), BOOT);
    assert_eq!(log.verify().expect("readable").findings, []);
    drop(log);
    (image(dir.path()), recovered.last.0)
}

/// A flipped bit.
struct Flip {
    file: String,
    offset: usize,
}

fn flip(image: &mut Image, dice: &mut Dice) -> Flip {
    // Behind the last record there are zeros, which mean nothing.
    let used = |bytes: &[u8]| crate::log::segment::used(bytes);
    let all: usize = image.values().map(|bytes| used(bytes)).sum();
    let (mut offset, bit) = (dice.index(all), dice.below(8));
    for (file, bytes) in image.iter_mut() {
        if offset < used(bytes) {
            bytes[offset] ^= 1 << bit;
            return Flip { file: file.clone(), offset };
        }
        offset -= used(bytes);
    }
    unreachable!("the offset is within all bytes")
}

fn check(dir: &Path) -> Vec<Finding> {
    crate::log::verify::check(&Segments::new(dir, SEGMENT_BYTES), None).expect("readable").findings
}

#[test]
fn every_flipped_bit_is_found_and_named_and_no_event_is_wrong() {
    let mut dice = Dice::new();
    let (sound, last) = sound();
    assert!(sound.len() > 4, "there are {} segments", sound.len());
    for round in 0..FLIPS {
        let mut image = sound.clone();
        let flip = flip(&mut image, &mut dice);
        let what = format!("round {round}, {} at {}", flip.file, flip.offset);
        let dir = restore(&image);
        let findings = check(dir.path());
        let is_named = findings.iter().any(|finding| names(finding, &flip));
        assert!(is_named, "{what}: {findings:?}");
        for boot in [BOOT, NEXT_BOOT] {
            check_open(restore(&image).path(), boot, last, &what);
        }
        check_while_open(&sound, &image, &flip, &what);
    }
}

/// Tells whether a finding is at the record or header that has the flipped bit.
fn names(finding: &Finding, flip: &Flip) -> bool {
    let offset = usize::try_from(finding.offset).expect("small");
    // The longest record is that of an event with 5,000 bytes.
    finding.path.ends_with(&flip.file) && offset <= flip.offset && flip.offset < offset + 5200
}

/// Checks that a damaged log is refused, or tells what it lost, or ends with an error: its events are a prefix.
fn check_open(dir: &Path, boot: crate::log::BootId, last: u64, what: &str) {
    let before = image(dir);
    let (log, recovered) = match try_open(dir, boot) {
        Ok(opened) => opened,
        Err(LogError::Damaged { .. } | LogError::Version { .. }) => {
            return assert!(image(dir) == before, "{what}: a damaged log was changed");
        }
        Err(error) => panic!("{what}: {error}"),
    };
    let mut count = 0;
    let is_whole = log.read_from(1).map(|mut events| {
        events.try_for_each(|found| {
            count += 1;
            assert_eq!(found.map_err(|_| ())?, event(count), "{what}");
            Ok::<_, ()>(())
        })
    });
    let is_whole = matches!(is_whole, Ok(Ok(())));
    assert!(
        !is_whole || recovered.cut.is_some() && recovered.last.0 <= last,
        "{what}: {recovered:?}"
    );
}

/// Checks that an open log finds damage that comes meanwhile.
fn check_while_open(sound: &Image, damaged: &Image, flip: &Flip, what: &str) {
    let dir = restore(sound);
    let (log, _) = open(dir.path(), BOOT);
    std::fs::write(dir.path().join(&flip.file), &damaged[&flip.file]).expect("writable");
    let findings = log.verify().expect("readable").findings;
    assert!(findings.iter().any(|finding| names(finding, flip)), "{what}: {findings:?}");
    let Ok(events) = log.read_from(1) else { return };
    let events: Vec<_> = events.collect();
    let (error, sound) = events.split_last().expect("there is something");
    assert!(matches!(error, Err(LogError::Damaged { .. } | LogError::Version { .. })), "{what}");
    let intact =
        sound.iter().zip(1..).all(|(found, seq)| *found.as_ref().expect("one error") == event(seq));
    assert!(intact, "{what}");
}

#[test]
fn damage_before_a_later_barrier_is_not_taken_for_a_power_cut() {
    let dir = dir();
    let (log, _) = open(dir.path(), BOOT);
    append(&log, 10);
    sync(&log);
    let offset = log.tail().tip.place.offset;
    append(&log, 10);
    sync(&log);
    append(&log, 1);
    sync(&log);
    drop(log);
    let mut image = image(dir.path());
    image.get_mut(&name(1)).expect("there is one")[usize::try_from(offset).expect("small") + 20] ^=
        1;
    let refused = try_open(restore(&image).path(), NEXT_BOOT).expect_err("it is damaged");
    let LogError::Damaged { path, offset: found, .. } = refused else { panic!("{refused}") };
    assert!(path.ends_with(name(1)) && found == offset);
}

#[test]
fn a_segment_that_is_missing_is_found() {
    let (sound, _) = sound();
    for file in sound.keys() {
        let mut image = sound.clone();
        image.remove(file);
        let dir = restore(&image);
        let is_last = sound.keys().next_back() == Some(file);
        let is_found = !check(dir.path()).is_empty();
        // The one that is made ahead of need may be missing.
        assert!(is_found || is_last, "{file}");
    }
}

#[test]
fn random_bytes_are_no_log() {
    let mut dice = Dice::new();
    for _ in 0..200 {
        let bytes: Vec<u8> = (0..=dice.below(2000)).map(|_| dice.byte()).collect();
        let dir = restore(&[(name(1), bytes)].into());
        assert!(!check(dir.path()).is_empty());
        assert!(try_open(dir.path(), BOOT).is_err());
        assert!(verify(dir.path()).is_ok());
    }
}

#[test]
fn random_payloads_decode_or_not() {
    let mut dice = Dice::new();
    let (id, before) = ([1; 32], [2; 32]);
    let mut sample = Vec::new();
    record::begin(&mut sample, Kind::Event, &event(1)).expect("short");
    for round in 0..DECODED {
        let mut bytes = sample.clone();
        for _ in 0..dice.below(8) {
            let at = dice.index(bytes.len());
            bytes[at] = dice.byte();
        }
        if round % 3 == 0 {
            bytes.truncate(dice.index(bytes.len()).max(6));
        }
        let length = u32::try_from(bytes.len() - 5).expect("short");
        bytes[..4].copy_from_slice(&length.to_le_bytes());
        record::end(&mut bytes, &id, &before);
        let record = record::read(&bytes, 0, &id, &before).expect("its hash is right");
        drop(record.item());
        assert!(record::find(&bytes, 0, &id, Sought::Any).is_none());
    }
}
