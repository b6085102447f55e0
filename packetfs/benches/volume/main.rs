//! What a mounted volume costs beside the file system of the disk below it:
//! `cargo bench -p packetfs --bench volume -- [--dir DIR] [--runs N] [--files N] [--json FILE] [NAME…]`.
//!
//! Needs root and `/dev/fuse`. Both sides are measured by turns, each time in a fresh directory. NAME is one of
//! `stream`, `files`, `names`, `build`, `include`, `edit`, `past`, `scale`; all of them by default. `--json` adds the rows to a file,
//! for `scripts/bench`.
#![expect(clippy::print_stdout, reason = "a measuring program prints its results")]

mod big;
mod scale;
mod served;
mod sides;
mod small;
mod table;
mod trees;

use std::path::PathBuf;

use served::Served;
use sides::Sides;
use table::Table;

/// What can be measured.
const NAMES: [&str; 8] = ["stream", "files", "names", "build", "include", "edit", "past", "scale"];

/// What is asked for.
struct Wanted {
    dir: PathBuf,
    runs: usize,
    files: usize,
    json: Option<PathBuf>,
    lua: Option<PathBuf>,
    names: Vec<String>,
}

fn main() {
    if served::serve() {
        return;
    }
    let wanted = Wanted::read();
    let work = tempfile::tempdir_in(&wanted.dir).expect("the directory is writable");
    println!("guest_halt_poll_ns {}; medians of {} runs", halt_poll(), wanted.runs);
    let mut table = Table::new(wanted.json.clone());
    for name in &wanted.names {
        let dir = work.path().join(name);
        let mut served = Served::new(&dir);
        let mut sides = Sides::new(&dir, wanted.runs);
        match name.as_str() {
            "stream" => big::stream(&mut sides, &mut served, &mut table),
            "files" => small::files(&mut sides, &mut served, &mut table),
            "names" => small::names(&mut sides, &mut served, &mut table),
            "build" => trees::build(&mut sides, wanted.lua.as_deref(), &mut table),
            "include" => trees::include(&dir, wanted.runs, &mut table),
            "edit" => big::edit(&sides, &mut served, &mut table),
            "past" => scale::past(&sides, &mut served, &mut table),
            _ => scale::scale(&sides, &mut served, wanted.files, &mut table),
        }
        drop(served);
        // What one measurement leaves would slow down the next.
        let _ = std::fs::remove_dir_all(&dir);
    }
}

impl Wanted {
    fn read() -> Self {
        let mut wanted = Self {
            dir: "/var/tmp".into(),
            runs: 5,
            files: 100_000,
            json: None,
            lua: None,
            names: Vec::new(),
        };
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            let number = |text: String| text.parse().expect("a number");
            match arg.as_str() {
                "--dir" => wanted.dir = value().into(),
                "--runs" => wanted.runs = number(value()),
                "--files" => wanted.files = number(value()),
                "--json" => wanted.json = Some(value().into()),
                "--lua" => wanted.lua = Some(value().into()),
                name => {
                    assert!(
                        NAMES.contains(&name),
                        "unknown measurement {name}: choose from {NAMES:?}"
                    );
                    wanted.names.push(arg);
                }
            }
        }
        if wanted.names.is_empty() {
            wanted.names = NAMES.map(str::to_owned).to_vec();
        }
        wanted
    }
}

fn halt_poll() -> String {
    let read = std::fs::read_to_string("/sys/module/haltpoll/parameters/guest_halt_poll_ns");
    read.map_or_else(|_| "none".into(), |text| text.trim().into())
}
