//! Random operations on several volumes that meet now and then, beside the pure tree of all events.
//!
//! `OSWALK_SEED` selects one world, `OSWALK_STEPS` the number of its steps, `OSWALK_ROUNDS` the number of worlds.

use std::collections::BTreeSet;
use std::env;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use worknode::history::{Op, Tree};

use super::super::agree::Lost;
use super::super::key;
use super::super::row::Row;
use super::SUPERUSER;
use super::dice::Dice;
use super::exchange::{give, open, settle};
use super::model::{change, found};
use super::picture::Picture;
use crate::packet::{Packed, PacketRef};
use crate::volume::{Source, Version, Volume};

const ROUNDS: u64 = 6;
const STEPS: u64 = 120;
const HOUR: i64 = 3_600_000_000_000;
/// Longest wait until closed files show what another node wrote.
const SETTLED: Duration = Duration::from_secs(60);

/// The volumes that have what one of them lacks.
#[derive(Debug, Default)]
struct Neighbours(Mutex<Vec<Weak<Volume>>>);

impl Source for Neighbours {
    fn fetch(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        let volumes = self.0.lock().expect("no test panics with it").clone();
        volumes.iter().filter_map(Weak::upgrade).flat_map(|it| it.packets(wanted)).collect()
    }
}

struct World {
    dice: Dice,
    dirs: Vec<TempDir>,
    volumes: Vec<Arc<Volume>>,
    skews: Vec<i64>,
    /// Which volumes reach each other.
    groups: Vec<usize>,
    /// Files that programs have open for writing: of which volume, the file, and its handle.
    opened: Vec<(usize, u64, u64)>,
    neighbours: Arc<Neighbours>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let count = 2 + dice.below(3);
        let dirs: Vec<_> =
            (0..count).map(|_| tempfile::tempdir().expect("a temporary directory")).collect();
        // Small ones are believed; large ones are not until all clocks are right again.
        let hour = if dice.below(2) == 0 { HOUR } else { HOUR / 3600 };
        let skews = (0..count).map(|_| *dice.one(&[0, 0, -hour, hour]).expect("four")).collect();
        let (groups, neighbours) = (vec![0; count], Arc::default());
        let mut world =
            Self { dice, dirs, volumes: Vec::new(), skews, groups, opened: Vec::new(), neighbours };
        for number in 0..count {
            let volume = world.open(number);
            world.volumes.push(volume);
        }
        world
    }

    fn open(&self, number: usize) -> Arc<Volume> {
        let volume = open(self.dirs[number].path(), u8::try_from(number).expect("few"));
        {
            let mut state = volume.shared.lock();
            state.tree.brief_ms = 0;
            state.skew = self.skews[number];
        }
        volume.set_source(Arc::clone(&self.neighbours) as Arc<dyn Source>);
        self.neighbours.0.lock().expect("no test panics with it").push(Arc::downgrade(&volume));
        volume
    }

    fn step(&mut self) {
        let one = self.dice.below(self.volumes.len());
        match self.dice.below(20) {
            0..=1 => {
                let other = self.dice.below(self.volumes.len());
                if one != other && self.groups[one] == self.groups[other] {
                    self.meet(one, other);
                }
            }
            2 => {
                let ways = 1 + self.dice.below(2);
                self.groups = (0..self.volumes.len()).map(|_| self.dice.below(ways)).collect();
            }
            3 if self.dice.below(4) == 0 => self.restart(one),
            4 => self.open_or_close(one),
            5 => self.decide(one),
            _ => change(&self.volumes[one], &mut self.dice),
        }
    }

    /// Opens a file and writes to it, or writes and closes one.
    fn open_or_close(&mut self, number: usize) {
        let volume = &self.volumes[number];
        let data = self.dice.bytes();
        if let Some(at) = self.opened.iter().position(|(of, _, _)| *of == number) {
            let (_, ino, handle) = self.opened.swap_remove(at);
            if self.dice.below(2) == 0 {
                volume.write(ino, 3, &data, false).expect("the disk has room");
            }
            return volume.close_file(handle);
        }
        let files = found(volume).1;
        let Some(&ino) = self.dice.one(&files) else { return };
        let handle = volume.open_file(ino, libc::O_RDWR, SUPERUSER).expect("a file").handle;
        if self.dice.below(2) == 0 {
            volume.write(ino, 0, &data, false).expect("the disk has room");
        }
        self.opened.push((number, ino, handle));
    }

    /// Ends a conflict.
    fn decide(&mut self, number: usize) {
        let volume = &self.volumes[number];
        let conflicts = volume.conflicts(b"").expect("the root is there");
        let Some(conflict) = self.dice.one(&conflicts) else { return };
        let Some(version) = self.dice.one(&conflict.versions) else { return };
        if self.dice.below(2) == 0 {
            // What a program has written just now ends the conflict, too.
            let _ = volume.dismiss(&conflict.path, &version.name);
        } else {
            // A directory has no content.
            let _ = volume.choose(&conflict.path, &version.name);
        }
    }

    fn meet(&self, one: usize, other: usize) {
        settle(&self.volumes[one]);
        settle(&self.volumes[other]);
        give(&self.volumes[one], &self.volumes[other]);
        give(&self.volumes[other], &self.volumes[one]);
        self.check(one);
        self.check(other);
    }

    fn restart(&mut self, number: usize) {
        // Programs end with the mount.
        self.opened.retain(|(of, _, _)| *of != number);
        let volume = self.volumes.remove(number);
        assert_eq!(Arc::strong_count(&volume), 1);
        drop(volume);
        if self.dice.below(2) == 0 {
            let tables = self.dirs[number].path().join("tables.redb");
            std::fs::remove_file(tables).expect("the volume is closed");
        }
        let volume = self.open(number);
        self.volumes.insert(number, volume);
        self.check(number);
    }

    /// Checks that the tables of a volume are what its events say.
    fn check(&self, number: usize) {
        let state = self.volumes[number].shared.lock();
        let merged = self.volumes[number].shared.merge(&state).expect("the logs are sound");
        let differences = state.tree.differences(&merged).expect("the tables work");
        let events: Vec<_> = merged.events().iter().collect();
        assert_eq!(differences, Vec::<String>::new(), "volume {number} with {events:#?}");
    }

    /// Lets all meet, once all believe each other's clocks.
    fn heal(&mut self) {
        for (number, _, handle) in self.opened.drain(..) {
            self.volumes[number].close_file(handle);
        }
        let latest = *self.skews.iter().max().expect("there are volumes");
        for volume in &self.volumes {
            volume.shared.lock().skew = latest + 1_000_000;
            volume.shared.catch_up_all().expect("the disk has room");
            volume.shared.hand_over_rest().expect("the logs are sound");
        }
    }

    /// Returns the number of the last event of each.
    fn lasts(&self) -> Vec<u64> {
        self.volumes.iter().map(|volume| volume.shared.log.last().0).collect()
    }

    /// Returns whether a thread has looked at all closed files: until then a file may show its former content, and become an
    /// event. Files without a name are not looked at.
    fn have_given_way(&self) -> bool {
        self.volumes.iter().all(|volume| {
            let state = volume.shared.lock();
            let mut backed = state.uses.backed().filter(|(_, _, it)| !it.is_orphan);
            backed.all(|(ino, backing, _)| !backing.is_dirty() && !state.bases.contains_key(&ino))
        })
    }

    /// Lets all meet, and checks that they see the same. What was closed may become an event meanwhile: then once more.
    fn check_same(&self) {
        let begin = Instant::now();
        loop {
            let lasts = self.lasts();
            for _ in 0..2 {
                for one in 0..self.volumes.len() {
                    (0..one).for_each(|other| self.meet(one, other));
                }
            }
            if !self.have_given_way() {
                assert!(begin.elapsed() < SETTLED, "a closed file keeps its former content");
                std::thread::yield_now();
                continue;
            }
            let compared = catch_unwind(AssertUnwindSafe(|| self.compare()));
            if self.lasts() == lasts {
                return compared.unwrap_or_else(|panic| resume_unwind(panic));
            }
        }
    }

    fn compare(&self) {
        let trees: Vec<Tree> = (self.volumes.iter())
            .map(|volume| volume.shared.merge(&volume.shared.lock()).expect("the logs are sound"))
            .collect();
        let pictures: Vec<Picture> = self.volumes.iter().map(Picture::of_live).collect();
        (0..self.volumes.len()).for_each(|number| self.check(number));
        for (tree, picture) in trees.iter().zip(&pictures) {
            assert_eq!(tree.root(), trees[0].root());
            assert_eq!(tree.events().summary(), trees[0].events().summary());
            assert_eq!(picture.differs(&pictures[0]), None);
        }
        let first = conflicts(&self.volumes[0]);
        for volume in &self.volumes {
            assert_eq!(conflicts(volume), first, "one name leads to a conflict version everywhere");
            check_versions(volume, &trees[0]);
            let state = volume.shared.lock();
            assert!(state.pending.is_empty(), "nothing waits any more");
        }
    }
}

/// Returns the names and sizes of all versions that lost. Of a file with several paths, each volume tells one.
fn conflicts(volume: &Volume) -> BTreeSet<(String, u64)> {
    let all = volume.conflicts(b"/").expect("the volume works").into_iter();
    let named = |it: Version| (it.name, it.bytes);
    all.flat_map(|it| it.versions.into_iter().map(named)).collect()
}

/// Checks that each content that was written to a file with a name can be found.
fn check_versions(volume: &Volume, tree: &Tree) {
    let state = volume.shared.lock();
    for event in tree.events().iter() {
        let Op::Write { file, .. } = event.op else { continue };
        let register = tree.file(file).expect("it was made").content();
        assert!(register.version(event.dot).is_some(), "{:?} is a version", event.dot);
        let ino = state.tree.ino(file);
        let row = state.tree.find(ino).expect("the tables work");
        if row.is_none_or(|node| node.links == 0) {
            continue;
        }
        let held = state.tree.nodes_of(ino).expect("the tables work");
        let mut known: BTreeSet<_> = held.into_iter().map(|held| held.value.written).collect();
        let lost = state.tree.tables.all(&key::losts(ino)).expect("the tables work");
        known.extend(lost.iter().map(|(_, row)| Lost::decode(row).expect("a row").version));
        let heads = register.heads();
        assert!(known.contains(&event.dot), "{:?} of file {ino} is found, {heads:?}", event.dot);
    }
}

#[test]
fn volumes_that_have_met_show_the_same() {
    let number = |name| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("OSWALK_SEED");
    let rounds = if first.is_some() { 1 } else { number("OSWALK_ROUNDS").unwrap_or(ROUNDS) };
    let seed = first.unwrap_or_else(|| RandomState::new().hash_one(0));
    for seed in (0..rounds).map(|round| seed.wrapping_add(round)) {
        let lived = catch_unwind(|| {
            let mut world = World::new(seed);
            (0..number("OSWALK_STEPS").unwrap_or(STEPS)).for_each(|_| world.step());
            world.heal();
            world.check_same();
        });
        assert!(lived.is_ok(), "see above; once more: OSWALK_SEED={seed}");
    }
}
