//! Events, logs with short segments, and images of their files.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use tempfile::TempDir;
use worknode::history::{Author, Dot, Event, FileId, Hlc, Op};
use worknode::key::SecretKey;

use crate::log::{BootId, Log, Position, Recovered};

pub(super) const BOOT: BootId = BootId([1; 16]);
pub(super) const NEXT_BOOT: BootId = BootId([2; 16]);
/// So short that tests fill many.
pub(super) const SEGMENT_BYTES: u64 = 16 << 10;

/// The files of a log by name.
pub(super) type Image = BTreeMap<String, Vec<u8>>;

/// Pseudo-random numbers (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    /// Begins with `OSWALK_SEED`, or with a number of its own; prints it, for when the test fails.
    #[expect(clippy::print_stderr, reason = "a test tells how to repeat it")]
    pub(super) fn new() -> Self {
        let seed = std::env::var("OSWALK_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(now()));
        eprintln!("OSWALK_SEED={seed}");
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    pub(super) fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).expect("below 256")
    }

    pub(super) fn index(&mut self, bound: usize) -> usize {
        usize::try_from(self.below(bound as u64)).expect("below an index")
    }
}

fn now() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").subsec_nanos()
}

pub(super) fn secret() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

/// Makes a directory in memory if possible: tests sync often, and none looks at what a disk does.
pub(super) fn dir() -> TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    in_memory.expect("a temporary directory")
}

pub(super) fn open(dir: &Path, boot: BootId) -> (Log, Recovered) {
    try_open(dir, boot).expect("the log is sound")
}

pub(super) fn try_open(dir: &Path, boot: BootId) -> Result<(Log, Recovered), crate::log::LogError> {
    Log::open_sized(dir, boot, Some(secret()), 0, SEGMENT_BYTES)
}

/// Returns the event of a number, which says all about it.
pub(super) fn event(seq: u64) -> Event {
    let bytes = if seq.is_multiple_of(50) { 5000 } else { seq % 90 };
    sized(seq, usize::try_from(bytes).expect("small"))
}

pub(super) fn sized(seq: u64, bytes: usize) -> Event {
    let dot = Dot { author: Author([3; 16]), seq };
    let byte = u8::try_from(seq % 251).expect("below 251");
    let (name, value) = (b"user.name".to_vec(), Some(vec![byte; bytes]));
    let op = Op::Xattr { file: FileId::default(), name, value };
    Event { dot, hlc: Hlc::at_ms(1_700_000_000_000 + seq), time: 5, parents: vec![dot], op }
}

pub(super) fn events(numbers: RangeInclusive<u64>) -> Vec<Event> {
    numbers.map(event).collect()
}

pub(super) fn append(log: &Log, count: u64) {
    for _ in 0..count {
        log.append(&event(log.last().0 + 1)).expect("the disk has room");
    }
}

pub(super) fn sync(log: &Log) -> Position {
    log.barrier(|| Ok(())).expect("the disk works")
}

pub(super) fn read(log: &Log, from: u64) -> Vec<Event> {
    let events = log.read_from(from).expect("a sound log");
    events.collect::<Result<_, _>>().expect("sound events")
}

/// Copies the files of a log.
pub(super) fn image(dir: &Path) -> Image {
    let entries =
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("readable"));
    let names = entries.map(|entry| entry.file_name().into_string().expect("plain names"));
    let logs = names.filter(|name| name.ends_with(".log"));
    logs.map(|name| (name.clone(), std::fs::read(dir.join(name)).expect("readable"))).collect()
}

/// Makes a directory of a log's files.
pub(super) fn restore(image: &Image) -> TempDir {
    let dir = dir();
    for (name, bytes) in image {
        std::fs::write(dir.path().join(name), bytes).expect("writable");
    }
    dir
}

/// Returns the name of a segment's file.
pub(super) fn name(segment: u32) -> String {
    format!("{segment:08}.log")
}
