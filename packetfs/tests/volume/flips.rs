//! Each flipped bit in packs and log is found and named, and never shown to a reader. `OSWALK_ROUNDS` sets how many are tried.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use packetfs::volume::Volume;

use super::dice::{Dice, number};
use super::mounted::{Mounted, options};

const FLIPS: u64 = 40;
const FILES: usize = 30;

/// Returns the files in which bits are flipped, each with the length of what it holds.
fn targets(store: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for dir in ["packs", "log"] {
        for entry in fs::read_dir(store.join(dir)).expect("a store").flatten() {
            let bytes = fs::read(entry.path()).expect("a file");
            // Behind the last record of the log there are zeros, which say nothing.
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let is_cache = entry.path().extension().is_some_and(|end| end == "redb");
            if used > 0 && !is_cache && entry.file_name() != "lock" {
                found.push((entry.path(), used as u64));
            }
        }
    }
    found
}

fn flip(path: &Path, at: u64, bit: u64) {
    let file = File::options().read(true).write(true).open(path).expect("a file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("within the file");
    file.write_all_at(&[byte[0] ^ 1 << bit], at).expect("writable");
}

/// Returns the content of each file as a reader sees it: none for an error.
fn contents(volume: &Volume) -> Vec<Option<Vec<u8>>> {
    let read = |number| {
        let found = volume.lookup(1, format!("f{number}").as_bytes()).ok()?;
        let size = usize::try_from(found.attr.bytes).expect("small");
        volume.read(found.attr.ino, 0, size).ok()
    };
    (0..FILES).map(read).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    for dir in ["log", "packs", "open"] {
        fs::create_dir_all(to.join(dir)).expect("a writable directory");
        for entry in fs::read_dir(from.join(dir)).expect("a store").flatten() {
            fs::copy(entry.path(), to.join(dir).join(entry.file_name()))
                .expect("the disk has room");
        }
    }
    fs::copy(from.join("tables.redb"), to.join("tables.redb")).expect("the disk has room");
}

#[test]
fn flipped_bits_are_found_and_not_shown() {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let scratch = tempfile::tempdir().expect("a directory");
    let (store, tried) = (scratch.path().join("store"), scratch.path().join("tried"));
    let root = scratch.path().join("mount");
    let mut mounted = Mounted::new(&store, &root, true);
    for number in 0..FILES {
        let bytes: Vec<u8> =
            (0..dice.below(60_000)).map(|_| u8::try_from(dice.below(60)).unwrap_or(0)).collect();
        let mut file = File::create(root.join(format!("f{number}"))).expect("a file");
        file.write_all(&bytes).expect("the disk has room");
    }
    // All is in packets before the files are closed to the test.
    while fs::read_dir(store.join("open")).expect("a store").count() > 0 {
        std::thread::yield_now();
    }
    mounted.stop();
    let whole = {
        let volume = Volume::open(&store, &options(false, 0)).expect("it opens");
        let checked = volume.check().expect("it can be read");
        assert!(checked.findings.is_empty(), "{:?}", checked.findings);
        contents(&volume)
    };
    assert!(whole.iter().all(Option::is_some));
    for _ in 0..number("OSWALK_ROUNDS").unwrap_or(FLIPS) {
        copy(&store, &tried);
        let (path, used) = dice.pick(&targets(&tried));
        let (at, bit) = (dice.below(used), dice.below(8));
        flip(&path, at, bit);
        let is_index_lost = dice.below(2) == 0;
        if is_index_lost {
            fs::remove_file(tried.join("packs/index.redb")).expect("the index is a file");
        }
        let what = format!(
            "byte {at} bit {bit} of {}, index lost: {is_index_lost}, seed {}",
            path.display(),
            dice.seed
        );
        let findings = match Volume::open(&tried, &options(false, 0)) {
            Ok(volume) => {
                for (number, (now, before)) in contents(&volume).into_iter().zip(&whole).enumerate()
                {
                    assert!(now.is_none() || now == *before, "f{number} is wrong: {what}");
                }
                let checked = volume.check().expect("it can be read");
                [checked.findings, checked.mended].concat()
            }
            Err(error) => vec![error.to_string()],
        };
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        assert!(findings.iter().any(|finding| finding.contains(&name)), "{what}: {findings:?}");
    }
}
