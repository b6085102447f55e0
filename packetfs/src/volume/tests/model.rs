//! Random operations beside copies of the whole tree: what was is found again, and restored.
//!
//! `OSWALK_SEED` selects other operations, `OSWALK_STEPS` their number.

use std::env;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use worknode::history::{Attrs, Hlc, Kind};

use super::dice::Dice;
use super::picture::Picture;
use super::{SUPERUSER, mkdir, moment, open, write};
use crate::volume::node::ROOT;
use crate::volume::{Make, Moving, Policy, Volume};

/// Operations for a second or two.
const STEPS: usize = 150;
const NAMES: [&[u8]; 5] = [b"a", b"b", b"c", b"d", b"e"];

#[test]
fn the_past_is_as_it_was() {
    let number = |name| env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("OSWALK_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let steps =
        number("OSWALK_STEPS").map_or(STEPS, |steps| usize::try_from(steps).unwrap_or(STEPS));
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut volume = open(dir.path());
    let mut copies: Vec<(Hlc, Picture)> = vec![(moment(&volume), Picture::of_live(&volume))];
    for step in 0..steps {
        let context = |what: &str| format!("{what}, OSWALK_SEED={seed}, step {step}");
        match dice.below(20) {
            0 if !copies.is_empty() => {
                let (then, copy) = dice.one(&copies).expect("there is a first").clone();
                volume
                    .restore(b"", then)
                    .unwrap_or_else(|error| panic!("{}: {error}", context("a restoration")));
                let now = Picture::of_live(&volume);
                assert_eq!(now.differs(&copy), None, "{}", context("a restoration"));
            }
            1 => {
                drop(volume);
                volume = open(dir.path());
            }
            2 if !copies.is_empty() => {
                let (then, _) = dice.one(&copies).expect("there is a first").clone();
                let path = dice.one(&NAMES).expect("there are names");
                // It may not have been there.
                let _ = volume.restore(path, then);
            }
            3 => {
                let all = Duration::from_millis(dice.below(500) as u64);
                let policy = Policy { all, hourly: Duration::ZERO, daily: Duration::ZERO };
                let before = Picture::of_live(&volume);
                volume
                    .gc(&policy)
                    .unwrap_or_else(|error| panic!("{}: {error}", context("a collection")));
                assert_eq!(Picture::of_live(&volume).differs(&before), None, "{}", context("gc"));
                let kept = volume.shared.lock().tree.kept().expect("the tables work");
                copies.retain(|(then, _)| kept.last(*then) == Some(*then));
            }
            _ => change(&volume, &mut dice),
        }
        copies.push((moment(&volume), Picture::of_live(&volume)));
        let (then, copy) = dice.one(&copies).expect("there is a first");
        let seen = Picture::at(&volume, *then);
        assert_eq!(seen.differs(&copy.clone().without_owners()), None, "{}", context("a moment"));
    }
    for (then, copy) in &copies {
        let seen = Picture::at(&volume, *then);
        assert_eq!(
            seen.differs(&copy.clone().without_owners()),
            None,
            "OSWALK_SEED={seed}, at {then:?}"
        );
    }
}

/// Does something. It may fail, as it does for programs.
pub(super) fn change(volume: &Arc<Volume>, dice: &mut Dice) {
    let (dirs, files) = found(volume);
    let dir = *dice.one(&dirs).expect("there is a root");
    let name = *dice.one(&NAMES).expect("there are names");
    let file = dice.one(&files).copied();
    let other =
        (*dice.one(&dirs).expect("there is a root"), *dice.one(&NAMES).expect("there are names"));
    let is_dir = volume.lookup(dir, name).is_ok_and(|found| {
        volume.forget(found.attr.ino, 1);
        found.attr.kind != crate::tree::Kind::File
    });
    match (dice.below(12), file) {
        (0..=3, _) if !is_dir => {
            write(volume, dir, name, &dice.bytes());
        }
        (4, _) if volume.lookup(dir, name).is_err() => {
            mkdir(volume, dir, name);
        }
        (5, _) => {
            let _ = volume.remove(dir, name, is_dir);
        }
        (6 | 7, _) => {
            let how = dice.one(&[Moving::Replace, Moving::New, Moving::Exchange]).copied();
            let _ = volume.rename((dir, name), other, how.expect("there are three"));
        }
        (8, Some(file)) => {
            let _ = volume.link(file, dir, name);
        }
        (9, Some(file)) => {
            let mode = Some(u32::try_from(dice.below(0o1000)).unwrap_or(0));
            let modified = Some(i64::try_from(dice.below(1 << 40)).unwrap_or(0));
            let size = (dice.below(3) == 0).then(|| dice.below(10_000) as u64);
            let attrs =
                Attrs { mode, modified: modified.filter(|_| size.is_none()), ..Attrs::default() };
            volume.set_attr(file, attrs, size, SUPERUSER).expect("the file is there");
        }
        (10, Some(file)) => {
            let value = dice.bytes();
            let value = (dice.below(3) > 0).then_some(&value[..value.len().min(60)]);
            let _ = volume.set_xattr(file, b"user.x", value, 0, SUPERUSER);
        }
        (11, _) => {
            let kind = Kind::Symlink(name.to_vec());
            let _ = volume.make(dir, name, Make { kind, mode: 0o777, umask: 0 }, SUPERUSER);
        }
        _ => {}
    }
}

/// Returns all directories and all files.
pub(super) fn found(volume: &Volume) -> (Vec<u64>, Vec<u64>) {
    let (mut dirs, mut files, mut at) = (vec![ROOT], Vec::new(), 0);
    while let Some(&dir) = dirs.get(at) {
        for entry in volume.list(dir).expect("a directory").into_iter().skip(2) {
            match entry.kind {
                crate::tree::Kind::Dir => dirs.push(entry.ino),
                crate::tree::Kind::File => files.push(entry.ino),
                _ => {}
            }
        }
        at += 1;
    }
    (dirs, files)
}
