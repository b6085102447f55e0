//! `oswalk-beside`: what the same work costs in several directories, as of different network file systems. By turns in each:
//! files are created, looked at, renamed, written and read; a large file that another node has written is read; Lua is built.
//! Prints a row for each: the medians, and in brackets the medians of the ratios to the first directory.
//!
//! `DIR=ELSEWHERE` names the same directory on another node, which in another mount namespace is `/proc/TASK/root/…`.
//! Needs root, since a cold look begins with an empty cache of the kernel.
#![expect(clippy::print_stdout, reason = "a program of the scripts: the figures are its output")]
#![expect(clippy::print_stderr, reason = "a program of the scripts: what failed is a message")]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

const USAGE: &str = "usage: oswalk-beside [--runs N] [--lua SOURCE] DIR[=ELSEWHERE]…";
const RUNS: usize = 5;
/// Small files of a run.
const FILES: usize = 200;
const SMALL: usize = 4096;
const LARGE: usize = 64 << 20;
/// Caches of file systems in user space, such as the 20 s of sshfs, are cold after this.
const COLD_AFTER: Duration = Duration::from_secs(21);
/// After this, a file that another node has written is missing.
const THERE_MAX: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(2);

type Step = fn(&Side, &Work) -> io::Result<Option<Duration>>;
const STEPS: [(&str, Step); 9] = [
    ("create, write 4 KiB, close; each, ms", create),
    ("stat, warm; each, ms", stat),
    ("stat, cold; each, ms", stat),
    ("open, read, close; each, ms", read),
    ("rename; each, ms", rename),
    ("write 64 MiB, fsync; ms", write_large),
    ("read them again; ms", read_large),
    ("read 64 MiB that another node wrote; ms", read_elsewhere),
    ("make -j2 of Lua; ms", lua),
];
/// The step before which caches are emptied.
const COLD: usize = 2;

fn main() -> ExitCode {
    let done = parse(std::env::args().skip(1))
        .ok_or_else(|| io::Error::other(USAGE))
        .and_then(|(sides, mut work, runs)| compare(&sides, &mut work, runs));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("oswalk-beside: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A directory, and the same one on another node.
struct Side {
    dir: PathBuf,
    elsewhere: Option<PathBuf>,
}

/// What is done in one run.
struct Work {
    run: usize,
    lua: Option<PathBuf>,
    large: Vec<u8>,
    /// What the other node writes: other bytes, so that no store has them already.
    other: Vec<u8>,
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Option<(Vec<Side>, Work, usize)> {
    let (mut sides, mut runs, mut lua) = (Vec::new(), RUNS, None);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--runs" => runs = arguments.next()?.parse().ok().filter(|runs| *runs > 0)?,
            "--lua" => lua = Some(PathBuf::from(arguments.next()?)),
            _ => {
                let (dir, elsewhere) = match argument.split_once('=') {
                    Some((dir, elsewhere)) => (dir, Some(PathBuf::from(elsewhere))),
                    None => (argument.as_str(), None),
                };
                sides.push(Side { dir: PathBuf::from(dir), elsewhere });
            }
        }
    }
    (!sides.is_empty())
        .then(|| (sides, Work { run: 0, lua, large: Vec::new(), other: Vec::new() }, runs))
}

fn compare(sides: &[Side], work: &mut Work, runs: usize) -> io::Result<()> {
    let mut taken = vec![vec![Vec::new(); sides.len()]; STEPS.len()];
    for run in 0..runs {
        work.run = run;
        work.large = random(LARGE, 2 * run);
        work.other = random(LARGE, 2 * run + 1);
        for (number, (what, step)) in STEPS.iter().enumerate() {
            if number == COLD {
                thread::sleep(COLD_AFTER);
                fs::write("/proc/sys/vm/drop_caches", "2")?;
            }
            for turn in 0..sides.len() {
                let side = (turn + run) % sides.len();
                let failed = |error| named(what, &sides[side].dir, error);
                if let Some(time) = step(&sides[side], work).map_err(failed)? {
                    taken[number][side].push(time.as_secs_f64() * 1000.0);
                }
            }
        }
        for side in sides {
            fs::remove_dir_all(side.place(work))?;
        }
    }
    for ((what, _), taken) in STEPS.iter().zip(&taken) {
        println!("{what}: {}", row(taken));
    }
    Ok(())
}

/// The medians of the sides, with those of their ratios to the first.
fn row(taken: &[Vec<f64>]) -> String {
    let value = |times: &Vec<f64>| match median(times.iter().copied()) {
        None => "–".to_owned(),
        Some(middle) => match median(times.iter().zip(&taken[0]).map(|(time, first)| time / first))
        {
            None => format!("{middle:.3}"),
            Some(ratio) => format!("{middle:.3} ({ratio:.2} ×)"),
        },
    };
    taken.iter().map(value).collect::<Vec<_>>().join(" | ")
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Side {
    fn place(&self, work: &Work) -> PathBuf {
        self.dir.join(format!("beside-{}", work.run))
    }

    /// Does something with each small file, and returns the time of one.
    fn each(
        &self,
        work: &Work,
        act: impl Fn(&Path, &[u8]) -> io::Result<()>,
    ) -> io::Result<Option<Duration>> {
        let path = |file| self.place(work).join(format!("f-{file}"));
        let files: Vec<_> = work.large.chunks(SMALL).take(FILES).enumerate().collect();
        let files: Vec<_> = files.into_iter().map(|(file, bytes)| (path(file), bytes)).collect();
        let began = Instant::now();
        files.iter().try_for_each(|(path, bytes)| act(path, bytes))?;
        let count = u32::try_from(files.len()).expect("they are few");
        Ok(Some(began.elapsed() / count))
    }
}

fn create(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    fs::create_dir(side.place(work))?;
    side.each(work, |path, bytes| fs::write(path, bytes))
}

fn stat(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    side.each(work, |path, _| fs::symlink_metadata(path).map(drop))
}

fn read(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    side.each(work, |path, bytes| same(&fs::read(path)?, bytes))
}

fn rename(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    side.each(work, |path, _| fs::rename(path, path.with_extension("new")))
}

fn write_large(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    let began = Instant::now();
    let mut file = File::create(side.place(work).join("large"))?;
    file.write_all(&work.large)?;
    file.sync_all()?;
    drop(file);
    Ok(Some(began.elapsed()))
}

fn read_large(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    timed_read(&side.place(work).join("large"), &work.large).map(Some)
}

fn read_elsewhere(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    let Some(elsewhere) = &side.elsewhere else { return Ok(None) };
    let name = format!("beside-large-{}", work.run);
    let (there, here) = (elsewhere.join(&name), side.dir.join(&name));
    fs::write(&there, &work.other)?;
    let began = Instant::now();
    while fs::metadata(&here).map_or(0, |meta| meta.len()) != LARGE as u64 {
        if began.elapsed() > THERE_MAX {
            return Err(io::Error::other(format!("{name} was not seen in {THERE_MAX:?}")));
        }
        thread::sleep(LOOK);
    }
    let time = timed_read(&here, &work.other)?;
    fs::remove_file(here)?;
    Ok(Some(time))
}

/// Reads a large content past the kernel's pages of the file.
fn timed_read(path: &Path, written: &[u8]) -> io::Result<Duration> {
    let mut file = File::open(path)?;
    fadvise(&file, 0, None, Advice::DontNeed)?;
    let mut found = Vec::with_capacity(LARGE + 1);
    let began = Instant::now();
    file.read_to_end(&mut found)?;
    let time = began.elapsed();
    same(&found, written)?;
    Ok(time)
}

fn lua(side: &Side, work: &Work) -> io::Result<Option<Duration>> {
    let Some(source) = &work.lua else { return Ok(None) };
    let copy = side.place(work).join("lua");
    done(Command::new("cp").arg("-r").arg(source).arg(&copy))?;
    let began = Instant::now();
    done(Command::new("make").args(["-s", "-j2", "-C"]).arg(copy.join("src")).arg("linux"))?;
    Ok(Some(began.elapsed()))
}

fn done(command: &mut Command) -> io::Result<()> {
    let run = command.stdout(Stdio::null()).output()?;
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    Err(io::Error::other(format!("{command:?}: {}: {said}", run.status)))
}

fn same(found: &[u8], written: &[u8]) -> io::Result<()> {
    if found == written {
        Ok(())
    } else {
        Err(io::Error::other("the content is not what was written"))
    }
}

fn named(what: &str, dir: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what} in {}: {error}", dir.display()))
}

/// Bytes that no file system can compress, other ones in each run.
fn random(count: usize, run: usize) -> Vec<u8> {
    let mut output = blake3::Hasher::new().update(&run.to_le_bytes()).finalize_xof();
    let mut bytes = vec![0; count];
    output.fill(&mut bytes);
    bytes
}
