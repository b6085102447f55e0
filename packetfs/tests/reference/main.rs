//! Model test: random operations must have the same effect on a walk's tree and on a plain directory.
//!
//! A walk works in a real overlay above a mount of the origin's files. After each of its operations, the
//! tree that it sees must equal the plain directory. After the commit, so must the origin's tree. Between
//! walks, operations are made at the origin and in the plain directory. The mirror has room for fewer names
//! than exist, so that it evicts and refetches them constantly.
//!
//! `OSWALK_SEED` selects other operations, `OSWALK_STEPS` their number. Needs root.

mod origin;
mod picture;
mod steps;
mod walk;

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use origin::Origin;
use packetfs::commit::CommitError;
use picture::picture;
use steps::{Dice, Step};

/// Operations of all walks together, enough for a few seconds.
const STEPS: u64 = 600;
/// Most operations of one walk.
const STEPS_OF_WALK: u64 = 40;
/// Most operations at the origin between two walks.
const STEPS_BETWEEN: u64 = 8;
/// Most walks whose commit may report a conflict though nobody else changed anything. They are done again at the
/// origin, as the agent does. About one walk in 4,000 is such.
const CONFLICTS_MAX: u32 = 1;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn random() -> u64 {
    RandomState::new().hash_one(0)
}

/// The history of both trees.
struct Trial {
    dice: Dice,
    /// The operations so far, for the failure message.
    history: Vec<String>,
}

impl Trial {
    /// Performs a step in both trees. Results and trees must be equal afterwards.
    fn step(&mut self, whose: &str, step: &Step, one: &Path, model: &Path) {
        let results = [one, model].map(|tree| step.run(tree));
        self.history.push(format!("{whose}: {step:?}: {:?}", results[1]));
        assert_eq!(results[0], results[1], "{}", self.told());
        self.compare(one, model);
    }

    fn compare(&self, one: &Path, model: &Path) {
        let (one, model) = (picture(one), picture(model));
        let differs = |path: &String| one.get(path) != model.get(path);
        let paths: BTreeSet<_> =
            one.keys().chain(model.keys()).filter(|path| differs(path)).collect();
        let both = paths.iter().map(|&path| (path, one.get(path), model.get(path)));
        assert!(paths.is_empty(), "{:#?}\n{}", both.collect::<Vec<_>>(), self.told());
    }

    /// Returns the history, for reproducing a failure.
    fn told(&self) -> String {
        let last = self.history.len().saturating_sub(120);
        format!("OSWALK_SEED={}\n{}", self.dice.seed, self.history[last..].join("\n"))
    }
}

#[test]
fn walks_behave_as_in_a_plain_directory() {
    let seed = number("OSWALK_SEED").unwrap_or_else(random);
    unshare(CloneFlags::CLONE_NEWNS).expect("root may");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("root may");
    let scratch = tempfile::tempdir().expect("a directory");
    let (tree, model) = (scratch.path().join("tree"), scratch.path().join("model"));
    for dir in [&tree, &model] {
        fs::create_dir(dir).expect("writable");
    }
    let origin = Origin::start(scratch.path());
    let mut trial = Trial { dice: Dice::new(seed), history: Vec::new() };
    let mut conflicts = 0;
    let mut steps_left = number("OSWALK_STEPS").unwrap_or(STEPS);
    while steps_left > 0 {
        for _ in 0..trial.dice.below(STEPS_BETWEEN) {
            // This test's origin reports a new hard link only to readers of its directory.
            let step = Step::random(&mut trial.dice);
            if !matches!(step, Step::Link(..)) {
                trial.step("origin", &step, &tree, &model);
            }
        }
        let walk = walk::Walk::begin(&origin, scratch.path());
        let seen = walk.path(&tree);
        trial.compare(&seen, &model);
        let steps = trial.dice.below(STEPS_OF_WALK).min(steps_left - 1) + 1;
        let mut done = Vec::new();
        for _ in 0..steps {
            let step = Step::random(&mut trial.dice);
            trial.step("walk", &step, &seen, &model);
            done.push(step);
        }
        match walk.commit(&origin) {
            Ok(()) => trial.history.push("commit".to_owned()),
            // As the agent does.
            Err(CommitError::Conflict(path)) if conflicts < CONFLICTS_MAX => {
                conflicts += 1;
                trial.history.push(format!("a conflict at {path:?}: done again"));
                for step in &done {
                    let _ = step.run(&tree);
                }
            }
            Err(error) => panic!("{error}\n{}", trial.told()),
        }
        trial.compare(&tree, &model);
        steps_left -= steps;
    }
    origin.end();
}
