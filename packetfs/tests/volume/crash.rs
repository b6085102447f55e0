//! After a crash everything is there that programs were promised. `OSWALK_ROUNDS` sets the number of crashes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use super::dice::{Dice, number};
use super::load::{Crash, Load};
use super::mounted::Mounted;
use super::power::Machine;

const KILLS: u64 = 20;
const POWER_CUTS: u64 = 5;
/// Most acknowledged steps before a crash.
const STEPS_MAX: u64 = 300;
#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = |name: &str| scratch.path().join(name);
    let mut workers = Vec::new();
    let mut slowest = Duration::ZERO;
    let mut mounted = Mounted::new(&dir("store"), &dir("mount"), dice.below(2) == 0);
    for _ in 0..number("OSWALK_ROUNDS").unwrap_or(KILLS) {
        let load = Load::start(&dir("mount"), &mut dice, workers);
        load.wait(dice.below(STEPS_MAX));
        mounted.kill();
        workers = load.end();
        mounted.start();
        slowest = slowest.max(mounted.took);
        workers.iter_mut().for_each(|worker| worker.check(Crash::Process));
    }
    println!("the slowest mount took {slowest:?}");
}

/// A content that no program makes durable is so within this time.
const WRITTEN_BACK: Duration = Duration::from_secs(40);
/// Pause between two looks at something that nothing else tells.
const POLL: Duration = Duration::from_millis(20);

/// Waits until the content of every open file was made durable by the volume itself: until then its name says otherwise.
fn wait_for_write_back(store: &Path) {
    let begin = Instant::now();
    let is_volatile = |entry: io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().ends_with(b".new"))
    };
    while fs::read_dir(store.join("open")).expect("a directory").any(is_volatile) {
        assert!(begin.elapsed() < WRITTEN_BACK, "a content is not made durable");
        std::thread::sleep(POLL);
    }
}

#[test]
fn a_file_that_stays_open_is_made_durable() {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let mut machine = Machine::new(scratch.path());
    let root = scratch.path().join("mount");
    let mut mounted = Mounted::new(&machine.store(), &root, true);
    let mut file = File::create(root.join("log")).expect("the disk has room");
    file.write_all(b"a line").expect("the disk has room");
    wait_for_write_back(&machine.store());
    // The new name is durable with whatever is made durable after it.
    File::create(root.join("other")).and_then(|other| other.sync_all()).expect("the disk works");
    machine.cut();
    mounted.kill();
    drop(file);
    mounted.unmount();
    machine.start(&mut dice);
    mounted.boot = 1;
    mounted.start();
    assert_eq!(fs::read(root.join("log")).expect("it is there"), b"a line");
    mounted.stop();
}

#[test]
fn nothing_durable_is_lost_when_the_power_is_cut() {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let mut machine = Machine::new(scratch.path());
    let mut mounted =
        Mounted::new(&machine.store(), &scratch.path().join("mount"), dice.below(2) == 0);
    let mut workers = Vec::new();
    for round in 1..=number("OSWALK_ROUNDS").unwrap_or(POWER_CUTS) {
        let load = Load::start(&scratch.path().join("mount"), &mut dice, workers);
        load.wait(dice.below(STEPS_MAX));
        machine.cut();
        mounted.kill();
        workers = load.end();
        mounted.unmount();
        machine.start(&mut dice);
        mounted.boot = u8::try_from(round % 250).unwrap_or(0) + 1;
        mounted.start();
        workers.iter_mut().for_each(|worker| worker.check(Crash::Machine));
    }
    mounted.stop();
}
