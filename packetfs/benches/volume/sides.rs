//! The two sides of a comparison, the mount and the disk's own file system, which are measured by turns.

use std::path::{Path, PathBuf};
use std::time::Instant;

/// Values of both sides, run by run.
#[derive(Default)]
pub(crate) struct Values {
    pub(crate) own: Vec<f64>,
    pub(crate) beside: Vec<f64>,
}

impl Values {
    pub(crate) const NONE: Self = Self { own: Vec::new(), beside: Vec::new() };

    pub(crate) fn own(&mut self) -> &mut Vec<f64> {
        &mut self.own
    }

    pub(crate) fn beside(&mut self) -> &mut Vec<f64> {
        &mut self.beside
    }
}

/// A directory of each side.
pub(crate) struct Sides {
    pub(crate) mount: PathBuf,
    native: PathBuf,
    pub(crate) runs: usize,
    count: usize,
}

impl Sides {
    pub(crate) fn new(dir: &Path, runs: usize) -> Self {
        let (mount, native) = (dir.join("point"), dir.join("native"));
        std::fs::create_dir_all(&native).expect("the directory is writable");
        Self { mount, native, runs, count: 0 }
    }

    /// Measures both sides by turns, in a fresh directory each time.
    pub(crate) fn turns(&mut self, mut measure: impl FnMut(&Path) -> f64) -> Values {
        let dirs = self.fresh();
        let mut values = Values::default();
        for (run, (own, beside)) in dirs.iter().enumerate() {
            // Neither side is always the first.
            if run % 2 == 0 {
                values.own.push(measure(own));
                values.beside.push(measure(beside));
            } else {
                values.beside.push(measure(beside));
                values.own.push(measure(own));
            }
        }
        values
    }

    /// Makes a fresh directory on each side for each run.
    pub(crate) fn fresh(&mut self) -> Vec<(PathBuf, PathBuf)> {
        let pairs = (0..self.runs).map(|_| {
            self.count += 1;
            let pair = [&self.mount, &self.native].map(|side| side.join(self.count.to_string()));
            pair.iter().for_each(|dir| std::fs::create_dir(dir).expect("it is writable"));
            let [own, beside] = pair;
            (own, beside)
        });
        pairs.collect()
    }
}

/// Returns the microseconds of each of so many times.
pub(crate) fn micros(times: usize, mut what: impl FnMut(usize)) -> f64 {
    let begin = Instant::now();
    (0..times).for_each(&mut what);
    begin.elapsed().as_secs_f64() * 1e6 / count(times)
}

pub(crate) fn count(times: usize) -> f64 {
    f64::from(u32::try_from(times).expect("few"))
}

/// Has the kernel forget names and attributes (2), or these and pages (3).
pub(crate) fn drop_caches(what: u8) {
    nix::unistd::sync();
    std::fs::write("/proc/sys/vm/drop_caches", what.to_string()).expect("this needs root");
}
