//! What the log costs: `cargo bench -p packetfs --bench log -- [DIR]`. Barriers cost what the disk below DIR needs for a
//! sync; DIR is the current directory if none is given.
#![expect(clippy::print_stdout, reason = "a measuring program prints its results")]

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use packetfs::log::{BootId, Log};
use worknode::history::{Author, Dot, Event, Hlc, Kind, Op, Permissions};
use worknode::key::SecretKey;

const ROUNDS: usize = 5;
const APPENDS: u32 = 300_000;
const BARRIERS: u32 = 200;

fn main() {
    let dir = std::env::args_os().skip(1).find(|arg| arg != "--bench");
    let dir = dir.map_or_else(|| PathBuf::from("."), PathBuf::from);
    let scratch = tempfile::tempdir_in(dir).expect("the directory is writable");
    let log = open(scratch.path());
    println!("medians of {ROUNDS}");
    say("append", || appends(&log));
    say("barrier, 1 caller", || barriers(&log, 1));
    say("barrier, 16 callers", || barriers(&log, 16));
    let events = log.last().0;
    drop(log);
    println!("a log of {events} events:");
    say("open", || timed(1, || drop(open(scratch.path()))));
    let log = open(scratch.path());
    let count = u32::try_from(events).expect("few");
    say("read, for each event", || timed(count, || drop(log.read_from(1).map(Iterator::count))));
    say("verify, for each event", || timed(count, || drop(log.verify())));
}

fn open(dir: &Path) -> Log {
    let boot = BootId::current().expect("there is a /proc");
    Log::open(dir, boot, Some(SecretKey::from_seed(&[1; 32]))).expect("a sound log").0
}

/// Appends many events, with a barrier now and then that is not counted. Returns the time of one.
fn appends(log: &Log) -> Duration {
    let mut total = Duration::ZERO;
    for _ in 0..APPENDS / 10_000 {
        total += timed(1, || (0..10_000).for_each(|_| append(log)));
        log.barrier(|| Ok(())).expect("the disk works");
    }
    total / APPENDS
}

/// Appends an event and makes a barrier, many times, by several threads. Returns the time of one for its caller.
fn barriers(log: &Log, callers: u32) -> Duration {
    let volume = Mutex::new(());
    timed(BARRIERS, || {
        std::thread::scope(|scope| {
            for _ in 0..callers {
                scope.spawn(|| (0..BARRIERS).for_each(|_| sync(log, &volume)));
            }
        });
    })
}

fn sync(log: &Log, volume: &Mutex<()>) {
    {
        let _volume = volume.lock().expect("no panic");
        append(log);
    }
    log.barrier(|| Ok(())).expect("the disk works");
}

fn append(log: &Log) {
    let seq = log.last().0 + 1;
    let permissions = Permissions { mode: 0o644, uid: 1000, gid: 1000 };
    let name = b"some_file_of_the_usual_length.c".to_vec();
    let op = Op::Make { dir: Dot::default(), name, kind: Kind::File, permissions };
    let dot = Dot { author: Author([1; 16]), seq };
    let event = Event { dot, hlc: Hlc::at_ms(seq), time: 1, parents: Vec::new(), op };
    log.append(&event).expect("the disk has room");
}

fn timed(times: u32, step: impl FnOnce()) -> Duration {
    let began = Instant::now();
    step();
    began.elapsed() / times
}

/// Prints the median of several measurements.
fn say(what: &str, measure: impl Fn() -> Duration) {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| measure()).collect();
    times.sort_unstable();
    println!("{what:24} {:?}", times[ROUNDS / 2]);
}
