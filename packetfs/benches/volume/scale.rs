//! Many files, and their past.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::sys::stat::{Mode, SFlag, mknod};

use crate::served::Served;
use crate::sides::{Sides, count, drop_caches, micros};
use crate::table::{Must, Table, quantile};

const IN_A_DIR: usize = 1000;
const LOOKS: usize = 10_000;
/// A step over the files that reaches all of them, in no order that a cache likes.
const STRIDE: usize = 7919;
const RESTORED: usize = 10_000;

/// Mounts, looks up, collects and checks a volume of many files.
pub(crate) fn scale(sides: &Sides, served: &mut Served, files: usize, table: &mut Table) {
    let what = |what: &str| format!("{files} files: {what}");
    for dir in 0..files.div_ceil(IN_A_DIR) {
        std::fs::create_dir(sides.mount.join(dir.to_string())).expect("the name is free");
    }
    let mode = Mode::from_bits_truncate(0o644);
    let made = micros(files, |at| {
        mknod(&path(&sides.mount, at), SFlag::S_IFREG, mode, 0).expect("the name is free");
    });
    table.alone(&what("mknod"), "us", &[made], &Must::Stated);
    served.stop();
    let mut mounts = Vec::new();
    for _ in 0..sides.runs {
        mounts.push(1000.0 * served.start().as_secs_f64());
        served.stop();
    }
    table.alone(&what("open and mount"), "ms", &mounts, &Must::Own(1000.0));
    served.start();
    drop_caches(3);
    let looks = (0..LOOKS.min(files))
        .map(|at| micros(1, |_| drop(std::fs::metadata(path(&sides.mount, at * STRIDE % files)))));
    let looks: Vec<f64> = looks.collect();
    table.alone(&what("cold look-up, median"), "us", &looks, &Must::Stated);
    let slow = quantile(&looks, 0.99);
    table.alone(&what("cold look-up, 99 of 100"), "us", &[slow], &Must::Own(50.0));
    let before = served.memory();
    let known = micros(files, |at| drop(std::fs::metadata(path(&sides.mount, at))));
    table.alone(&what("stat of all"), "us", &[known], &Must::Stated);
    let each = (served.memory() - before) / count(files - looks.len());
    table.alone(&what("memory for each cached inode"), "bytes", &[each], &Must::Own(200.0));
    let gc = served.ask("gc").as_secs_f64();
    table.alone(&what("gc"), "s", &[gc], &Must::Stated);
    let check = served.ask("check").as_secs_f64();
    table.alone(&what("fsck"), "s", &[check], &Must::Stated);
}

/// Restores a tree, and mounts one as it was.
pub(crate) fn past(sides: &Sides, served: &mut Served, table: &mut Table) {
    for dir in 0..RESTORED.div_ceil(IN_A_DIR) {
        std::fs::create_dir_all(sides.mount.join("tree").join(dir.to_string())).expect("a mount");
    }
    let tree = sides.mount.join("tree");
    write(&tree, "as it was");
    served.settle();
    let (mut restored, mut mounted) = (Vec::new(), Vec::new());
    for run in 0..sides.runs {
        // A moment is a whole second: the next one, which is over when the files are written again.
        let time = now() + 1;
        std::thread::sleep(Duration::from_millis(1500));
        write(&tree, &format!("changed by run {run}"));
        served.settle();
        mounted.push(1000.0 * served.ask(&format!("at {time}")).as_secs_f64());
        restored.push(served.ask(&format!("restore tree {time}")).as_secs_f64());
        assert_eq!(std::fs::read(path(&tree, 17)).expect("it is there"), b"as it was");
    }
    table.alone("restore of 10,000 files that were written since", "s", &restored, &Must::Own(1.0));
    table.alone("mount of the tree as it was, and list it", "ms", &mounted, &Must::Own(100.0));
}

fn write(tree: &Path, content: &str) {
    for at in 0..RESTORED {
        std::fs::write(path(tree, at), content).expect("the disk has room");
    }
}

fn path(tree: &Path, at: usize) -> PathBuf {
    tree.join((at / IN_A_DIR).to_string()).join(format!("file-{at}"))
}

/// Returns the seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    since.as_secs()
}
