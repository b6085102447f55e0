//! Random system calls have the same results on a volume as on the disk's own file system, also after restarts and crashes.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use super::dice::{Dice, number};
use super::mounted::Mounted;
use super::picture::picture;
use super::steps::{Step, Tree};

/// Steps of a trial, enough for some seconds.
const STEPS: u64 = 4000;
/// Steps between comparisons of the whole trees.
const COMPARED_EVERY: u64 = 250;
/// Steps between restarts.
const RESTART_EVERY: u64 = 1000;
/// Steps that a failure shows.
const SHOWN: usize = 300;

struct Trial {
    dice: Dice,
    history: VecDeque<String>,
}

impl Trial {
    fn step(&mut self, trees: &mut [Tree; 2]) {
        let step = Step::random(&mut self.dice);
        let results = trees.each_mut().map(|tree| tree.run(&step));
        self.note(format!("{step:?}: {:?}", results[1]));
        assert_eq!(results[0], results[1], "{}", self.told());
    }

    fn note(&mut self, what: String) {
        self.history.push_back(what);
        if self.history.len() > SHOWN {
            self.history.pop_front();
        }
    }

    fn compare(&self, trees: &[Tree; 2]) {
        let [ours, model] = trees.each_ref().map(|tree| picture(&tree.root));
        let differs = |path: &&String| ours.get(*path) != model.get(*path);
        let paths: BTreeSet<_> = ours.keys().chain(model.keys()).filter(differs).collect();
        let both: Vec<_> =
            paths.iter().map(|&path| (path, ours.get(path), model.get(path))).collect();
        assert!(paths.is_empty(), "{both:#?}\n{}", self.told());
    }

    fn told(&self) -> String {
        let history: Vec<_> = self.history.iter().map(String::as_str).collect();
        format!("OSWALK_SEED={}\n{}", self.dice.seed, history.join("\n"))
    }

    /// Ends the process that serves the mount in one of the ways, and starts it again.
    fn restart(&mut self, mounted: &mut Mounted, store: &Path, trees: &mut [Tree; 2]) {
        trees.iter_mut().for_each(Tree::close_all);
        let (is_killed, is_rebuilt) = (self.dice.below(2) == 0, self.dice.below(2) == 0);
        self.note(format!("restart, killed: {is_killed}, tables made again: {is_rebuilt}"));
        if is_killed {
            mounted.kill()
        } else {
            mounted.stop()
        }
        if is_rebuilt {
            std::fs::remove_file(store.join("tables.redb")).expect("the tables are a file");
        }
        mounted.start();
        self.compare(trees);
    }
}

fn trial(passes: bool) {
    let dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = |name: &str| scratch.path().join(name);
    let mut mounted = Mounted::new(&dir("store"), &dir("mount"), passes);
    std::fs::create_dir(dir("model")).expect("a writable directory");
    let mut trees = [Tree::new(&dir("mount")), Tree::new(&dir("model"))];
    let mut trial = Trial { dice, history: VecDeque::new() };
    for step in 1..=number("OSWALK_STEPS").unwrap_or(STEPS) {
        trial.step(&mut trees);
        if step % COMPARED_EVERY == 0 {
            trial.compare(&trees);
        }
        if step % RESTART_EVERY == 0 {
            trial.restart(&mut mounted, &dir("store"), &mut trees);
        }
    }
    trees.iter_mut().for_each(Tree::close_all);
    mounted.stop();
}

#[test]
fn system_calls_do_what_the_kernel_does_with_passthrough() {
    trial(true);
}

#[test]
fn system_calls_do_what_the_kernel_does_without_passthrough() {
    trial(false);
}
