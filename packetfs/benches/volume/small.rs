//! Small files and their names.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::served::Served;
use crate::sides::{Sides, Values, count, drop_caches, micros};
use crate::table::{Must, Table};

/// Files in a directory.
const FILES: usize = 2000;
/// Files that are opened again and again, and how often all of them.
const HEADERS: usize = 100;
const ROUNDS: usize = 20;
const BYTES: usize = 4096;

/// Creates, opens, removes.
pub(crate) fn files(sides: &mut Sides, served: &mut Served, table: &mut Table) {
    let dirs = sides.fresh();
    let mut cpu = Duration::ZERO;
    let mut created = Values::default();
    let mut settled = Vec::new();
    for (own, beside) in &dirs {
        created.beside.push(create(beside));
        let before = served.cpu();
        created.own.push(create(own));
        cpu += served.cpu() - before;
        served.settle();
        settled.push((served.cpu() - before).as_secs_f64() * 1e6 / count(FILES));
    }
    table.beside("create, write 4 KiB, close", "us", &created, &Must::Own(70.0));
    let of_each = cpu.as_secs_f64() * 1e6 / count(FILES * sides.runs);
    table.alone("  CPU time of the server until then", "us", &[of_each], &Must::Stated);
    table.alone("  CPU time of the server until it is packets", "us", &settled, &Must::Stated);
    let opened = turns(&dirs, open);
    table.beside("warm open, read, close of a header", "us", &opened, &Must::Over(1.3));
    let mut removed = Values::default();
    let mut cpu = Duration::ZERO;
    for (own, beside) in &dirs {
        removed.beside.push(remove(beside));
        let before = served.cpu();
        removed.own.push(remove(own));
        cpu += served.cpu() - before;
    }
    table.beside("unlink", "us", &removed, &Must::Own(40.0));
    let of_each = cpu.as_secs_f64() * 1e6 / count(FILES * sides.runs);
    table.alone("  CPU time of the server", "us", &[of_each], &Must::Stated);
}

/// Looks names up.
pub(crate) fn names(sides: &mut Sides, served: &mut Served, table: &mut Table) {
    let dirs = sides.fresh();
    for dir in dirs.iter().flat_map(|(own, beside)| [own, beside]) {
        create(dir);
    }
    served.settle();
    let cold = turns(&dirs, |dir| {
        drop_caches(2);
        fs::metadata(dir).expect("it is there");
        micros(FILES, |at| assert!(fs::metadata(path(dir, at)).is_ok()))
    });
    table.beside("cold stat", "us", &cold, &Must::Own(20.0));
    let cold = turns(&dirs, |dir| {
        drop_caches(2);
        list(dir)
    });
    table.beside("cold readdir and stat, for each entry", "us", &cold, &Must::Stated);
    let warm = turns(&dirs, list);
    table.beside("readdir and stat, for each entry", "us", &warm, &Must::Own(2.5));
}

fn turns(dirs: &[(PathBuf, PathBuf)], mut measure: impl FnMut(&Path) -> f64) -> Values {
    let mut values = Values::default();
    for (own, beside) in dirs {
        values.own.push(measure(own));
        values.beside.push(measure(beside));
    }
    values
}

fn path(dir: &Path, at: usize) -> PathBuf {
    dir.join(format!("file-{at}.h"))
}

fn create(dir: &Path) -> f64 {
    let mut content = vec![b'x'; BYTES];
    micros(FILES, |at| {
        content[..8].copy_from_slice(&(at as u64).to_le_bytes());
        let mut file = File::create_new(path(dir, at)).expect("the name is free");
        file.write_all(&content).expect("the disk has room");
    })
}

fn open(dir: &Path) -> f64 {
    let mut content = vec![0; BYTES];
    let mut round = |times: usize| {
        micros(times, |at| {
            let mut file = File::open(path(dir, at % HEADERS)).expect("it is there");
            file.read_exact(&mut content).expect("it has content");
        })
    };
    round(HEADERS);
    round(HEADERS * ROUNDS)
}

fn remove(dir: &Path) -> f64 {
    micros(FILES, |at| fs::remove_file(path(dir, at)).expect("it is there"))
}

fn list(dir: &Path) -> f64 {
    let begin = std::time::Instant::now();
    let entries = fs::read_dir(dir).expect("it is there").flatten();
    let files = entries.filter(|entry| entry.metadata().is_ok()).count();
    begin.elapsed().as_secs_f64() * 1e6 / count(files)
}
