//! Random changes of directories that are shared both ways, and of their volumes.
//!
//! `OSWALK_SEED` selects one run, `OSWALK_STEPS` the number of its steps, `OSWALK_ROUNDS` the number of runs.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use worknode::history::Attrs;

use super::nodes::Nodes;
use super::{Picture, at, inside, outside};
use crate::volume::{Caller, Moving};

const ROUNDS: u64 = 4;
const STEPS: u64 = 60;
const ROOT_USER: Caller = Caller { uid: 0, gid: 0 };
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// Random numbers (SplitMix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap_or(0)
    }
}

struct World {
    dice: Dice,
    nodes: Nodes,
    /// How many contents were written.
    written: usize,
    /// All contents that a share has found on its disk.
    found: BTreeSet<String>,
    /// What each node noted last.
    known: Vec<Vec<u8>>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut nodes = Nodes::sharing(2);
        let known = (0..2).map(|number| nodes.known(number)).collect();
        Self { dice: Dice(seed), nodes, written: 0, found: BTreeSet::new(), known }
    }

    fn step(&mut self) {
        let number = self.dice.below(2);
        match self.dice.below(20) {
            0..=3 => self.compare(number),
            4..=6 => self.nodes.meet(),
            7 => {
                self.nodes.nodes[number].volume.sync().expect("the disk works");
                self.known[number] = self.nodes.known(number);
            }
            8 => {
                self.note(number);
                let known = self.known[number].clone();
                self.nodes.crash(number, &known);
            }
            9 | 10 => self.change_volume(number),
            _ => self.change(number),
        }
    }

    fn compare(&mut self, number: usize) {
        self.note(number);
        self.nodes.changed(number).expect("the share works");
    }

    /// Notes what is to be found at the end.
    fn note(&mut self, number: usize) {
        let mut rest = vec![self.nodes.dir(number).to_owned()];
        while let Some(dir) = rest.pop() {
            for entry in fs::read_dir(&dir).expect("a directory") {
                let entry = entry.expect("an entry");
                let kind = entry.file_type().expect("it is there");
                if kind.is_dir() {
                    rest.push(entry.path());
                } else if kind.is_file() {
                    self.found.insert(fs::read_to_string(entry.path()).expect("text"));
                }
            }
        }
    }

    fn content(&mut self, number: usize) -> String {
        self.written += 1;
        format!("{} of {number}", self.written)
    }

    /// Changes a directory as programs do. What is not possible does not happen.
    fn change(&mut self, number: usize) {
        let top = self.nodes.dir(number).to_owned();
        let (path, other) = (self.path(&top), self.path(&top));
        let content = self.content(number);
        let _ = match self.dice.below(12) {
            0..=3 => fs::write(&path, &content),
            // As editors save.
            4 | 5 => {
                let temp = top.join("temp");
                let saved = fs::write(&temp, &content).and_then(|()| fs::rename(&temp, &path));
                saved.or_else(|_| fs::remove_file(&temp))
            }
            6 => fs::create_dir(&path),
            7 => fs::remove_file(&path),
            8 => fs::remove_dir_all(&path),
            9 | 10 => fs::rename(&path, &other),
            _ => std::os::unix::fs::symlink(&content, &path),
        };
        // The guard against a directory that is suddenly empty has a test of its own.
        fs::write(top.join("stays"), "stays").expect("there is room");
    }

    /// Changes the volume as programs on its mount do.
    fn change_volume(&mut self, number: usize) {
        let content = self.content(number);
        let name = NAMES[self.dice.below(NAMES.len())].as_bytes();
        let other = NAMES[self.dice.below(NAMES.len())].as_bytes();
        let volume = &self.nodes.nodes[number].volume;
        let top = at(volume, &["team", "src"]);
        match self.dice.below(5) {
            0 => volume.rename((top, name), (top, other), Moving::Replace).unwrap_or(()),
            1 => volume.remove(top, name, false).unwrap_or(()),
            2 => {
                let conflicts = volume.conflicts(b"team/src").expect("it is there");
                for it in conflicts {
                    // A directory has no content.
                    let _ = volume.choose(&it.path, &it.versions[0].name);
                }
            }
            _ => {
                let handle = match volume.peek(top, name).expect("the volume works") {
                    Some(found) => volume.open_file(found.attr.ino, libc::O_RDWR, ROOT_USER),
                    None => {
                        let made = volume.create((top, name), (0o644, 0), libc::O_RDWR, ROOT_USER);
                        made.map(|(_, opened)| opened)
                    }
                };
                let Ok(opened) = handle else { return };
                let ino = at(volume, &["team", "src", std::str::from_utf8(name).expect("ASCII")]);
                volume.set_attr(ino, Attrs::default(), Some(0), ROOT_USER).expect("a file");
                volume.write(ino, 0, content.as_bytes(), false).expect("there is room");
                volume.close_file(opened.handle);
                let path = [b"team/src/", name].concat();
                volume.versions(&path).expect("it is there");
            }
        }
    }

    fn path(&mut self, top: &Path) -> PathBuf {
        let mut path = top.join(NAMES[self.dice.below(NAMES.len())]);
        while path.is_dir() && !path.is_symlink() && self.dice.below(3) > 0 {
            path = path.join(NAMES[self.dice.below(NAMES.len())]);
        }
        path
    }

    fn check(&mut self) {
        (0..2).for_each(|number| self.compare(number));
        self.nodes.settle();
        // Where contents were equal, each side keeps its time.
        let untimed = |picture: Picture| -> Vec<(String, u32, String)> {
            let each = picture.into_iter().map(|(path, (mode, _, content))| (path, mode, content));
            each.collect()
        };
        let disk = |dir: &Path| {
            let mut picture = Picture::new();
            outside(dir, dir, &mut picture);
            untimed(picture)
        };
        let first = disk(self.nodes.dir(0));
        for node in &self.nodes.nodes {
            let mut picture = Picture::new();
            inside(&node.volume, at(&node.volume, &["team", "src"]), "", &mut picture);
            assert_eq!(disk(&node.dir), first);
            assert_eq!(untimed(picture), first);
        }
        let before = self.nodes.events();
        assert_eq!(self.nodes.settle(), 0, "nothing echoes");
        assert_eq!(self.nodes.events(), before, "nothing echoes");
        let kept: BTreeSet<String> =
            (0..2).flat_map(|number| contents(&self.nodes, number)).collect();
        let lost: Vec<_> = self.found.difference(&kept).collect();
        assert_eq!(lost, Vec::<&String>::new(), "each content is present, a version or a conflict");
    }
}

/// Returns all contents that a volume has or had.
fn contents(nodes: &Nodes, number: usize) -> BTreeSet<String> {
    let volume = &nodes.nodes[number].volume;
    let mut found = BTreeSet::new();
    let mut paths: BTreeSet<Vec<u8>> = BTreeSet::new();
    for record in volume.log(b"", usize::MAX).expect("the log works") {
        paths.insert(record.path);
    }
    for path in paths {
        for version in volume.versions(&path).unwrap_or_default() {
            let Ok(mut reader) = volume.open_version(&path, &version.name) else { continue };
            let mut content = String::new();
            if reader.read_to_string(&mut content).is_ok() {
                found.insert(content);
            }
        }
    }
    found
}

#[test]
fn directories_that_have_met_are_the_same_and_nothing_is_lost() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let first = number("OSWALK_SEED");
    let rounds = if first.is_some() { 1 } else { number("OSWALK_ROUNDS").unwrap_or(ROUNDS) };
    let seed = first.unwrap_or_else(|| RandomState::new().hash_one(0));
    for seed in (0..rounds).map(|round| seed.wrapping_add(round)) {
        let lived = catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..number("OSWALK_STEPS").unwrap_or(STEPS) {
                world.step();
            }
            world.check();
        });
        assert!(lived.is_ok(), "see above; once more: OSWALK_SEED={seed}");
    }
}
