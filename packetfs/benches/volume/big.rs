//! Large files.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use crate::served::Served;
use crate::sides::{Sides, Values, count, drop_caches};
use crate::table::{Must, Table};

const MIB: usize = 1024 * 1024;
const STREAM_MIB: usize = 256;
const SMALL_BYTES: usize = 4096;
const SMALL_WRITES: usize = 16 * 1024;
const EDITED_MIB: usize = 100;
const FILE: &str = "large";

/// Reads and writes from the beginning to the end.
pub(crate) fn stream(sides: &mut Sides, served: &mut Served, table: &mut Table) {
    let dirs = sides.fresh();
    let [mut written, mut fresh, mut cold, mut warm, mut small] = [const { Values::NONE }; 5];
    for (own, beside) in &dirs {
        for (dir, of) in [(beside, Values::beside as Side), (own, Values::own as Side)] {
            let path = dir.join(FILE);
            of(&mut written).push(write(&path));
            of(&mut fresh).push(read(&path));
            settle(served);
            drop_caches(3);
            of(&mut cold).push(read(&path));
            of(&mut warm).push(read(&path));
            of(&mut small).push(write_small(&dir.join("small")));
            settle(served);
        }
    }
    // The limits are those of the bandwidth: the time is its reciprocal.
    table.beside("sequential write of 256 MiB", "ms", &written, &Must::Over(1.11));
    table.beside(
        "sequential read at once, while packets are made",
        "ms",
        &fresh,
        &Must::Over(1.05),
    );
    table.beside("sequential read of packets, cold", "ms", &cold, &Must::Over(1.05));
    table.beside("sequential read of packets, warm", "ms", &warm, &Must::Over(1.05));
    table.beside("64 MiB in writes of 4 KiB", "ms", &small, &Must::Over(1.33));
}

/// One side of the values.
type Side = fn(&mut Values) -> &mut Vec<f64>;

/// Lets nothing of what was measured run on.
fn settle(served: &mut Served) {
    served.settle();
    nix::unistd::sync();
}

/// Changes a line inside a file of 100 MiB.
pub(crate) fn edit(sides: &Sides, served: &mut Served, table: &mut Table) {
    let path = sides.mount.join(FILE);
    let mut file = File::create_new(&path).expect("the name is free");
    for at in 0..EDITED_MIB {
        file.write_all(&noise(at as u64)).expect("the disk has room");
    }
    drop(file);
    served.settle();
    let mut stored = Vec::new();
    for run in 0..sides.runs {
        let before = served.stored();
        let file = File::options().write(true).open(&path).expect("it is there");
        let at = (run * 17 + 3) % EDITED_MIB * MIB + 12_345;
        file.write_all_at(b"another line\n", at as u64).expect("the disk has room");
        drop(file);
        served.settle();
        stored.push((served.stored() - before) / 1024.0);
    }
    table.alone("a line changed inside 100 MiB: stored", "KiB", &stored, &Must::Own(300.0));
}

fn write(path: &Path) -> f64 {
    let parts: Vec<_> = (0..16).map(noise).collect();
    let mut file = File::create_new(path).expect("the name is free");
    millis(|| (0..STREAM_MIB).for_each(|at| file.write_all(&parts[at % 16]).expect("room")))
}

fn write_small(path: &Path) -> f64 {
    let part = noise(1);
    let mut file = File::create_new(path).expect("the name is free");
    millis(|| (0..SMALL_WRITES).for_each(|_| file.write_all(&part[..SMALL_BYTES]).expect("room")))
}

fn read(path: &Path) -> f64 {
    let mut part = vec![0; MIB];
    let mut file = File::open(path).expect("it is there");
    millis(|| while file.read(&mut part).expect("it can be read") > 0 {})
}

fn millis(what: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    what();
    begin.elapsed().as_secs_f64() * 1000.0 / count(1)
}

/// A MiB that cannot be compressed, of a seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut noise = vec![0; MIB];
    hasher.finalize_xof().fill(&mut noise);
    noise
}
