//! No stale reads: files are changed at random, at the origin and by walks. After each change, a walk on
//! a random node reads some of the files, and must see exactly what the origin sees.
//!
//! `OSWALK_SEED` repeats a run, `OSWALK_STEPS` sets its length.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::Test;
use crate::lab::{Lab, NODES, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("coherence::no_stale_read", no_stale_read),
    ("coherence::inode_numbers_are_the_origins", inode_numbers),
];

const STEPS: u64 = 2000;
/// Limit for one step, which takes a few milliseconds.
const STEP: Duration = seconds(10);
/// Limit for all steps.
const ALL_STEPS: Duration = seconds(240);
/// The names of the files. They are few, so that each changes often.
const NAMES: [&str; 14] = [
    "a", "b", "c", "d1", "d2", "d1/a", "d1/b", "d1/f0", "d2/a", "d2/f1", "d1/e", "d1/e/a", "l1",
    "l2",
];
const CHANGES: [&str; 20] = [
    "write",
    "write",
    "append",
    "truncate",
    "in-place",
    "mmap",
    "mmap-unsynced",
    "replace",
    "unlink",
    "mkdir",
    "rmdir",
    "tree",
    "remove-tree",
    "rename",
    "exchange",
    "symlink",
    "link",
    "link",
    "chmod",
    "utimes",
];
/// Sizes of contents: no packet, one packet and many.
const SIZES: [u64; 6] = [0, 1, 10, 100, 5000, 200_000];

/// An inode number that a walk records, as Git does in its index, is valid at the origin.
fn inode_numbers(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("inode-numbers")?;
    let sh = |walked: bool, script: &str| -> Result<String, String> {
        let mut command = if walked { up.exec_unreported() } else { up.command("sh") };
        if walked {
            command.args(["--walk-all", "--", "sh"]);
        }
        command.args(["-ec", script]).current_dir(&dir);
        let run = Run::of(command, STEP)?;
        if run.succeeded() { Ok(run.out()) } else { Err(format!("{script}: {run}")) }
    };
    let made = "git init -q .; git config user.name n; git config user.email e; echo a >a; echo b >b; ln -s a l; \
        ln b c; touch -hd @1000000000 a b c l; git add . && git commit -qm m; git diff-index --quiet HEAD";
    sh(false, made)?;
    let look = "stat -c '%i %n' a b c l; ls -i1 a b c l; \\ls -iU1 | sort";
    let (native, walked) = (sh(false, look)?, sh(true, look)?);
    if native != walked {
        return Err(format!("native {native}, walked {walked}"));
    }
    // After the file is replaced, its name has the new number.
    sh(true, "cat a >/dev/null")?;
    sh(false, "cp -p a a2; mv a2 a; git update-index -q --refresh")?;
    let (native, walked) = (sh(false, look)?, sh(true, look)?);
    if native != walked {
        return Err(format!("after the file was replaced: native {native}, walked {walked}"));
    }
    sh(true, "git diff-index --quiet HEAD && git status -s")?;
    sh(false, "git diff-index --quiet HEAD").map(|_| ())
}

fn no_stale_read(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let seed = seed();
    let steps = number("OSWALK_STEPS").unwrap_or(STEPS);
    eprintln!("coherence: OSWALK_SEED={seed} OSWALK_STEPS={steps}");
    let dir = up.fresh("coherence")?;
    let mut checker = Checker::start(up, &dir, seed)?;
    let began = Instant::now();
    for step in 0..steps {
        checker.step().map_err(|wrong| {
            let history = checker.history[checker.history.len().saturating_sub(12)..].join("\n");
            format!("OSWALK_SEED={seed}, step {step}: {wrong}\nthe last actions:\n{history}")
        })?;
        if began.elapsed() > ALL_STEPS {
            return Err(format!("only {step} of {steps} steps within {ALL_STEPS:?}"));
        }
    }
    let walks = checker.finish()?;
    eprintln!(
        "coherence: {steps} steps, {walks} walks, no stale read, {:.0} s",
        began.elapsed().as_secs_f64()
    );
    if walks < steps {
        Err(format!("only {walks} walks in {steps} steps: the rest ran at the origin"))
    } else {
        Ok(())
    }
}

/// Returns the number in an environment variable.
pub(crate) fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// Returns the seed from `OSWALK_SEED`, or a random one.
pub(crate) fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(1, |since| u64::from(since.subsec_nanos()));
    number("OSWALK_SEED").unwrap_or(now)
}

/// Shells: one in a session on each node, and one that never walks.
struct Checker {
    native: Shell,
    walking: Vec<Shell>,
    reports: Vec<PathBuf>,
    random: Random,
    history: Vec<String>,
}

impl Checker {
    fn start(up: &Up, dir: &Path, seed: u64) -> Result<Self, String> {
        fs::create_dir(dir.join("files")).map_err(|error| error.to_string())?;
        let mut walking = Vec::new();
        let mut reports = Vec::new();
        for node in NODES {
            let report = dir.join(format!("{node}.json"));
            let mut command = up.exec(&report);
            command.args(["--walk-all", "--on", node, "--", "sh", "-c", DRIVER]);
            walking.push(Shell::start(command, &dir.join("files"))?);
            reports.push(report);
        }
        let mut command = up.command("sh");
        command.args(["-c", DRIVER]);
        let native = Shell::start(command, &dir.join("files"))?;
        Ok(Self { native, walking, reports, random: Random(seed | 1), history: Vec::new() })
    }

    /// Makes some changes, then compares what a node and the origin see.
    fn step(&mut self) -> Result<(), String> {
        for _ in 0..=self.random.below(2) {
            let change = self.change();
            // One change in five is made by a walk.
            let node = self.random.below(5 * NODES.len());
            let said = self.at(node, &change)?;
            if !said.is_empty() {
                return Err(format!("{change} printed {said:?}"));
            }
        }
        let look = self.look();
        let node = self.random.below(NODES.len());
        let seen = self.at(node, &look)?;
        let truth = self.native.run(&look)?;
        if seen == truth {
            return Ok(());
        }
        let differs =
            truth.lines().zip(seen.lines()).find(|(a, b)| a != b).unwrap_or((&truth, &seen));
        Err(format!(
            "stale read on {}: {look}\nexpected: {}\nseen:     {}",
            NODES[node], differs.0, differs.1
        ))
    }

    /// Runs a line on a node, or at the origin if there is no node with this index.
    fn at(&mut self, node: usize, line: &str) -> Result<String, String> {
        self.history.push(format!("{}: {line}", NODES.get(node).unwrap_or(&"origin")));
        self.walking.get_mut(node).unwrap_or(&mut self.native).run(line)
    }

    fn change(&mut self) -> String {
        let what = CHANGES[self.random.below(CHANGES.len())];
        let mut name = || NAMES[self.random.below(NAMES.len())];
        let (path, other) = (name(), name());
        let size = SIZES[self.random.below(SIZES.len())];
        let letter = char::from(b'a' + u8::try_from(self.random.below(26)).expect("a letter"));
        format!("change {what} {path} {size} {letter} {other}")
    }

    fn look(&mut self) -> String {
        if self.random.below(4) == 0 {
            return "look -r .".into();
        }
        let names: Vec<_> =
            (0..=self.random.below(4)).map(|_| NAMES[self.random.below(NAMES.len())]).collect();
        format!("look {}", names.join(" "))
    }

    /// Ends the sessions; returns the number of walks.
    fn finish(self) -> Result<u64, String> {
        self.native.end()?;
        let mut walks = 0;
        for (shell, report) in self.walking.into_iter().zip(self.reports) {
            shell.end()?;
            // A change that could not be committed was repeated at the origin, which other tests check.
            let report = Report::read(&report)?;
            walks += report.walks.len() as u64;
        }
        Ok(walks)
    }
}

/// Runs each line that it reads, and prints a marker line after each output.
const DRIVER: &str =
    r#"while IFS= read -r line; do eval "$line" </dev/null 2>&1; echo "end $?"; done"#;

/// A running shell that executes lines.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

impl Shell {
    fn start(mut command: std::process::Command, dir: &Path) -> Result<Self, String> {
        command.current_dir(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child =
            command.spawn().map_err(|error| format!("failed to start {command:?}: {error}"))?;
        let stdin = child.stdin.take().expect("is piped");
        let stdout = BufReader::new(child.stdout.take().expect("is piped"));
        let (lines_tx, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if lines_tx.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines })
    }

    fn run(&mut self, line: &str) -> Result<String, String> {
        writeln!(self.stdin, "{line}").map_err(|error| format!("the session is gone: {error}"))?;
        let mut output = String::new();
        loop {
            let line = self
                .lines
                .recv_timeout(STEP)
                .map_err(|error| format!("{line}: {error} within {STEP:?}"))?;
            match line.strip_prefix("end ") {
                Some("0") => return Ok(output),
                Some(status) => return Err(format!("status {status}: {output}")),
                None => output += &(line + "\n"),
            }
        }
    }

    fn end(mut self) -> Result<(), String> {
        drop(self.stdin);
        let deadline = Instant::now() + STEP;
        while Instant::now() < deadline {
            if self.child.try_wait().map_err(|error| error.to_string())?.is_some() {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        Err("the session does not end".into())
    }
}

/// A xorshift generator, so that a seed repeats a run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit as u64).expect("is below a usize")
    }
}
