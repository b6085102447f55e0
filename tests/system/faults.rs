//! All or nothing: while a walk writes many files, an agent is killed or a link is cut at a random
//! moment. Afterwards the files are all old or all new, and nothing of the walk remains anywhere.
//!
//! `OSWALK_SEED` repeats a run, `OSWALK_FAULTS` sets the number of faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use oswalk_tests::tree::{Before, Tree};
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::coherence::{Random, number, seed};
use crate::interrupts::processes;
use crate::lab::{Lab, NODES, Up};
use crate::nodes::all_join;
use crate::run::{Run, ending, seconds};

pub(crate) const ALL: &[Test] = &[
    ("faults::all_or_nothing", all_or_nothing),
    ("faults::a_runner_that_is_cut_off_ends_its_walks", cut_off),
];

const FAULTS: u64 = 25;
/// Limit for a run: a lost node costs 4 s, and a walk may lose three.
const LIMIT: Duration = seconds(30);
/// Limit for the remains of a walk to disappear from a runner …
const GONE: Duration = seconds(1);
/// … and from one that must first notice that its origin is out of reach, after 4 s of silence.
const GONE_CUT: Duration = seconds(6);
const POLL: Duration = Duration::from_millis(5);

/// Creates the old state: files to be written in place, replaced, removed, and left unchanged.
const OLD: &str = r#"for d in $(seq 12); do mkdir -p $d/gone/deep; for f in $(seq 6); do echo old >$d/$f; done
ln $d/1 $d/other; rm $d/other; ln -s old $d/link; echo old >$d/gone/deep/f; done"#;
/// Creates the new state, and does so idempotently. Also runs a child for as long as it runs itself.
const WORKER: &str = r#"#!/usr/bin/perl
# $ARGV[0] is what the test looks for.
my $child = fork; unless ($child) { sleep 100; exit }
for my $d (1..12) {
    sub put { open my $f, '>', $_[0] or die; print $f $_[1]; close $f or die }
    put("$d/$_", "new $_ " x 3000) for 1..3;
    put("$d/$_.tmp", "new"), rename("$d/$_.tmp", "$d/$_") or die for 4..5;
    mkdir "$d/made"; put("$d/made/$_", "new" x $_) for 1..4;
    unlink "$d/link"; symlink 'new', "$d/link" or die;
    unlink "$d/gone/deep/f"; rmdir "$d/gone/deep"; rmdir "$d/gone";
    chmod 0600, "$d/6";
}
kill KILL => $child; waitpid $child, 0;
print "made\n"; exit 7;
"#;

/// A fault.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The runner's agent is killed.
    Runner,
    /// The runner is cut off, and reconnected when the program has ended.
    Cut,
    /// The runner is cut off and reconnected at once, so that the link survives.
    Blink,
    /// The origin's agent is killed, and restarted when the program has ended.
    Origin,
}

impl Fault {
    /// Draws a fault. Cuts take longer than the others, so there are fewer of them.
    fn at(random: &mut Random) -> Self {
        match random.below(10) {
            0 => Self::Cut,
            1 => Self::Blink,
            2..6 => Self::Runner,
            _ => Self::Origin,
        }
    }

    fn strike(self, up: &Up, runner: &str) -> Result<(), String> {
        match self {
            Self::Runner => kill_agent(up, runner),
            Self::Cut => up.lab(&["cut", runner]),
            Self::Blink => up.lab(&["cut", runner]).and(up.lab(&["heal", runner])),
            Self::Origin => kill_agent(up, "origin"),
        }
    }

    fn heal(self, up: &Up, runner: &str) -> Result<(), String> {
        match self {
            Self::Runner | Self::Cut => up.lab(&["heal", runner])?,
            Self::Blink => {}
            Self::Origin => {
                up.lab(&["heal", "origin"])?;
                return all_join(up, &NODES);
            }
        }
        all_join(up, &[runner])
    }
}

/// Returns the node that executes a walk, found by the network namespace of the walk's processes.
pub(crate) fn runner_of(up: &Up, word: &str) -> Option<&'static str> {
    let network = |pid: &str| fs::read_link(format!("/proc/{}/ns/net", pid.trim())).ok();
    let walks: Vec<_> =
        processes(word).iter().filter_map(|line| network(line.split(' ').next()?)).collect();
    NODES.into_iter().find(|node| {
        let pid = fs::read_to_string(up.state(node).join("pid")).unwrap_or_default();
        network(&pid).is_some_and(|agent| walks.contains(&agent))
    })
}

/// Kills only the agent, by its pid file; the processes that it started must notice.
fn kill_agent(up: &Up, node: &str) -> Result<(), String> {
    let file = up.state(node).join("pid");
    let text = fs::read_to_string(&file).map_err(|error| format!("{file:?}: {error}"))?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or("no pid")?;
    kill_process(pid, Signal::KILL).map_err(|error| format!("the agent of {node}: {error}"))
}

/// The states that the files may have.
struct States {
    old: Tree,
    new: Tree,
    /// Duration of an undisturbed walk.
    takes: Duration,
}

fn all_or_nothing(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let seed = seed();
    let faults = number("OSWALK_FAULTS").unwrap_or(FAULTS);
    eprintln!("faults: OSWALK_SEED={seed} OSWALK_FAULTS={faults}");
    let mut random = Random(seed | 1);
    let states = states(up)?;
    let (mut old, mut lost, mut hit) = (0, 0, 0);
    for number in 0..faults {
        let fault = Fault::at(&mut random);
        // Sometimes the walk ends before the fault.
        let per_mille = 200 + u32::try_from(random.below(900)).expect("is small");
        // A walk pinned to a node exits with 125 when that node is cut off (see `cut_off`).
        let pinned = random.below(2) == 0 && !matches!(fault, Fault::Cut);
        let other = NODES[random.below(NODES.len())];
        let after = states.takes * per_mille / 1000;
        let told = |wrong| {
            format!("OSWALK_SEED={seed}, fault {number}, {fault:?} after {after:?}: {wrong}")
        };
        let end = one(up, &states, fault, after, pinned, other).map_err(told)?;
        old += u64::from(end.is_old);
        lost += u64::from(end.lost);
        hit += u64::from(end.hit);
    }
    eprintln!(
        "faults: {hit} of {faults} hit a running walk, {old} left the files old, {lost} ended with \
         125"
    );
    Ok(())
}

/// Creates a directory in the old state.
fn fresh(up: &Up) -> Result<PathBuf, String> {
    let dir = up.fresh("faults")?;
    let mut command = Command::new("sh");
    command.args(["-e", "-c", OLD]).current_dir(&dir);
    let made = Run::of(command, LIMIT)?;
    if made.succeeded() { Ok(dir) } else { Err(made.to_string()) }
}

fn look(dir: &Path) -> Result<Tree, String> {
    Tree::of(dir, &Before::default())
}

/// Returns the walk's command. The command lines of all its processes contain the word.
fn walk(up: &Up, dir: &Path, word: &str, pinned: bool) -> Command {
    let mut command = up.exec(&dir.with_extension("json"));
    command.args(["--walk", "worker", "--on", NODES[0]].into_iter().take(if pinned {
        4
    } else {
        2
    }));
    command.arg("--").arg(worker(up)).arg(word).current_dir(dir);
    command
}

fn worker(up: &Up) -> PathBuf {
    up.program("worker")
}

fn states(up: &Up) -> Result<States, String> {
    let failed = |error: std::io::Error| error.to_string();
    fs::write(worker(up), WORKER).map_err(failed)?;
    fs::set_permissions(worker(up), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(failed)?;
    let dir = fresh(up)?;
    let old = look(&dir)?;
    let mut command = up.command(worker(up));
    command.arg("native").current_dir(&dir);
    ended_well(&Run::of(command, LIMIT)?)?;
    let new = look(&dir)?;
    // The first walk to each node also sends the program.
    let mut takes = Duration::ZERO;
    for _ in 0..2 * NODES.len() {
        let dir = fresh(up)?;
        let run = Run::of(walk(up, &dir, "undisturbed", false), LIMIT)?;
        ended_well(&run)?;
        takes = run.took;
    }
    Ok(States { old, new, takes })
}

fn ended_well(run: &Run) -> Result<(), String> {
    if run.status.code() == Some(7) && run.out() == "made\n" {
        Ok(())
    } else {
        Err(run.to_string())
    }
}

/// Strikes one fault; returns how the walk ended.
struct End {
    is_old: bool,
    lost: bool,
    hit: bool,
}

fn one(
    up: &Up,
    states: &States,
    fault: Fault,
    after: Duration,
    pinned: bool,
    other: &str,
) -> Result<End, String> {
    let dir = fresh(up)?;
    let word = format!("oswalk-faults-{}", std::process::id());
    let began = Instant::now();
    let started = Run::start(walk(up, &dir, &word, pinned), None)?;
    // The moment is what is tested, so there is no event to wait for.
    thread::sleep(after.saturating_sub(began.elapsed()));
    let runner = runner_of(up, &word);
    let hit = runner.is_some();
    let runner = runner.unwrap_or(other);
    let struck = fault.strike(up, runner);
    let run = started.wait(LIMIT);
    // A runner that is cut off has not noticed yet (see `cut_off`).
    let is_cut = matches!(fault, Fault::Cut);
    let left = if is_cut { Ok(()) } else { gone(up, &word, GONE) };
    fault.heal(up, runner)?;
    struck?;
    let run = run?;
    left?;
    gone(up, &word, GONE)?;
    let tree = look(&dir)?;
    let from_old = states.old.different_files(&tree);
    let from_new = states.new.different_files(&tree);
    let (is_old, is_new) = (from_old.is_empty(), from_new.is_empty());
    let lost = run.status.code() == Some(125);
    if !is_old && !is_new {
        let (old, new) = (from_old.len(), from_new.len());
        let some: Vec<_> = from_new.into_iter().take(6).collect();
        return Err(format!(
            "{old} files are not old, {new} not new, some of them:\n{}\n{run}",
            some.join("\n")
        ));
    }
    // The walk's output was shown, and no other runner could repeat it.
    let may_be_lost = pinned || matches!(fault, Fault::Origin);
    if !(may_be_lost && lost) {
        ended_well(&run)?;
        if !is_new {
            return Err(format!(
                "the files are in the old state after {}: {run}",
                ending(run.status)
            ));
        }
    }
    Ok(End { is_old, lost, hit })
}

/// A runner that loses contact with its origin ends that origin's walks, and a walk pinned to this node
/// fails.
fn cut_off(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("cut-off")?;
    let word = format!("oswalk-cut-off-{}", std::process::id());
    let script = format!("perl -e '$| = 1; print qq(up\\n); sleep 100' {word} >said");
    let mut command = up.exec(&dir.join("report.json"));
    command.args(["--walk", "perl", "--on", NODES[0], "--", "sh", "-c", &script]);
    command.current_dir(&dir);
    let began = Instant::now();
    let walk = Run::start(command, None)?;
    let deadline = Instant::now() + LIMIT;
    while !fs::read(dir.join("said")).is_ok_and(|said| said == b"up\n") {
        if Instant::now() > deadline {
            return Err("the walk does not start".into());
        }
        thread::sleep(POLL);
    }
    let cut = Instant::now();
    up.lab(&["cut", NODES[0]])?;
    // Killed if it hangs.
    let ended = walk.wait(began.elapsed() + GONE_CUT).map(|_| ());
    // Either side may notice first.
    let left = gone(up, &word, GONE_CUT.saturating_sub(cut.elapsed()).max(GONE));
    up.lab(&["heal", NODES[0]])?;
    all_join(up, &NODES[..1])?;
    gone(up, &word, GONE)?;
    ended.and(left)
}

/// Waits until no process and no mount of the walk remains.
fn gone(up: &Up, word: &str, limit: Duration) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    loop {
        let mut left = processes(word);
        left.extend(overlays(&up.dir));
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("remains after {limit:?}: {left:#?}"));
        }
        thread::sleep(POLL);
    }
}

/// Returns the overlays of walks in all mount namespaces.
fn overlays(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy().into_owned();
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mounts = pids.filter_map(|pid| fs::read_to_string(pid.path().join("mountinfo")).ok());
    mounts
        .flat_map(|mounts| {
            let overlay = |line: &&str| line.contains(" - overlay ") && line.contains(&dir);
            mounts.lines().filter(overlay).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect()
}
