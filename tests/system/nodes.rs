//! Nodes die, vanish and return while builds continue.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::interrupts::{processes, wait_until};
use crate::lab::{Lab, NODES, Up};
use crate::report::Report;
use crate::run::{Run, Started, seconds};

pub(crate) const ALL: &[Test] = &[
    ("nodes::one_dies_in_the_middle", |lab| hurt(lab, "dies", &["kill"], &["n2"])),
    ("nodes::one_is_cut_off_in_the_middle", |lab| hurt(lab, "cut", &["cut"], &["n3"])),
    ("nodes::all_die_in_the_middle", |lab| hurt(lab, "all-die", &["kill"], &NODES)),
    ("nodes::the_broker_dies_in_the_middle", |lab| hurt(lab, "broker", &["kill"], &["broker"])),
    ("nodes::all_are_dead", all_are_dead),
    ("nodes::one_that_lost_only_the_broker_keeps_its_walks", loses_the_broker),
    ("nodes::one_that_stands_still_for_a_moment_keeps_its_walks", stands_still),
    ("nodes::all_die_under_a_program_that_is_stopped", dies_while_stopped),
    ("nodes::a_second_one_is_told_what_the_first_one_asked", second_is_told),
    ("nodes::one_is_told_what_a_first_compile_includes", first_compile_is_told),
];

/// Files of the build; each takes a tenth of a second.
const FILES: usize = 24;
/// Limit for a build, which natively takes FILES / 6 × 0.1 s. No fault may cost more than this.
const LIMIT: Duration = seconds(40);

fn build(up: &Up, dir: &Path, report: &Path) -> std::process::Command {
    let mut command = up.exec(report);
    command.args(["--walk", "worker", "--", "make", "-s", "-j6"]).current_dir(dir);
    command
}

/// Creates a build that is slow enough for a fault to hit its programs.
fn project(dir: &Path) -> Result<(), String> {
    let files: Vec<_> = (0..FILES).map(|i| format!("f{i}")).collect();
    let makefile = format!("all: {0}\n{0}:\n\t./worker $@\n", files.join(" "));
    let worker = "#!/usr/bin/perl\nselect undef, undef, undef, 0.1; open F, '>', $ARGV[0]; print F \"made $ARGV[0]\\n\"; close F;\n";
    let failed = |error: std::io::Error| error.to_string();
    fs::write(dir.join("Makefile"), makefile).map_err(failed)?;
    fs::write(dir.join("worker"), worker).map_err(failed)?;
    fs::set_permissions(dir.join("worker"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(failed)
}

fn made(dir: &Path) -> usize {
    let whole = |i: &usize| {
        fs::read_to_string(dir.join(format!("f{i}")))
            .is_ok_and(|text| text == format!("made f{i}\n"))
    };
    (0..FILES).filter(whole).count()
}

/// Runs `scripts/lab` with `how` on nodes when a quarter of the build is done.
fn hurt(lab: &Lab, name: &str, how: &[&str], nodes: &[&str]) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh(name)?;
    project(&dir)?;
    let report = dir.join("report.json");
    let started = Run::start(build(up, &dir, &report), None)?;
    let deadline = Instant::now() + LIMIT;
    while made(&dir) < FILES / 4 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let hurt = nodes.iter().try_for_each(|node| up.lab(&[how, &[node]].concat()));
    let run = started.wait(LIMIT);
    let healed = nodes.iter().try_for_each(|node| up.lab(&["heal", node]));
    hurt?;
    healed?;
    let joined = all_join(up, &NODES);
    let run = run?;
    if !run.succeeded() || made(&dir) != FILES {
        return Err(format!("{} of {FILES} files: {run}", made(&dir)));
    }
    joined
}

/// Waits until each of these nodes takes walks again.
pub(crate) fn all_join(up: &Up, nodes: &[&str]) -> Result<(), String> {
    let deadline = Instant::now() + seconds(20);
    for &node in nodes {
        let report = up.fresh("joins")?.join("report.json");
        loop {
            let mut command = up.exec(&report);
            command.args(["--on", node, "--", "show"]);
            let run = Run::of(command, LIMIT)?;
            if Report::read(&report).is_ok_and(|report| report.runners() == [node]) {
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("{node} takes no walks again: {run}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// If no node is left, a build runs at the origin, without delay.
fn all_are_dead(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("all-dead")?;
    project(&dir)?;
    for node in NODES {
        up.lab(&["kill", node])?;
    }
    let report = dir.join("report.json");
    let run = Run::of(build(up, &dir, &report), LIMIT);
    let healed = NODES.iter().try_for_each(|node| up.lab(&["heal", node]));
    healed?;
    all_join(up, &NODES)?;
    let run = run?;
    if !run.succeeded() || made(&dir) != FILES {
        return Err(format!("{} of {FILES} files: {run}", made(&dir)));
    }
    if run.took > seconds(10) { Err(format!("too slow: {run}")) } else { Ok(()) }
}

/// The broker gives up a node that it does not hear, but the origin keeps its walks as long as the node
/// answers. A walk that has read input could not be repeated.
fn loses_the_broker(lab: &Lab) -> Result<(), String> {
    const BROKER: &str = "10.77.0.1/32";
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("deaf")?;
    let failed = |error: std::io::Error| error.to_string();
    let log = up.state("origin").join("oswalkd.log");
    let said = || -> std::io::Result<usize> {
        Ok(fs::read_to_string(&log)?
            .matches("the broker has given up a runner that still answers")
            .count())
    };
    let before = said().map_err(failed)?;
    let reader = Reader::start(up, &dir)?;
    let runner = reader.runner;
    up.ip(runner, &["route", "add", "blackhole", BROKER])?;
    let gone_on = wait_until("the origin asks the node", || said().is_ok_and(|said| said > before));
    let healed = up.ip(runner, &["route", "del", "blackhole", BROKER]);
    let ended = reader.end(up);
    gone_on?;
    healed?;
    ended
}

/// An agent that is stopped for two seconds loses its lease but keeps its walks, since its machine is there.
fn stands_still(lab: &Lab) -> Result<(), String> {
    const STILL: Duration = Duration::from_secs(2);
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("still")?;
    let reader = Reader::start(up, &dir)?;
    let pid = fs::read_to_string(up.state(reader.runner).join("pid"));
    let pid = pid.map_err(|error| error.to_string())?;
    let signal = |name: &str| {
        let mut command = up.command("kill");
        command.args([name, pid.trim()]);
        Run::of(command, LIMIT).map(drop)
    };
    signal("-STOP")?;
    thread::sleep(STILL);
    signal("-CONT")?;
    reader.end(up)
}

/// A walk that has read the first of two lines, so that it could not be repeated.
struct Reader {
    runner: &'static str,
    typed: std::io::PipeWriter,
    started: Started,
    report: PathBuf,
}

impl Reader {
    /// Starts the walk; returns when a node runs it.
    fn start(up: &Up, dir: &Path) -> Result<Self, String> {
        const PROGRAM: &str = "for (1, 2) { $line = <STDIN>; print qq(got $line) }";
        let failed = |error: std::io::Error| error.to_string();
        let report = dir.join("report.json");
        let (input, mut typed) = std::io::pipe().map_err(failed)?;
        let mut command = up.exec(&report);
        command.args(["--walk-all", "--", "perl", "-e", PROGRAM]).current_dir(dir).stdin(input);
        let started = Run::start(command, None)?;
        typed.write_all(b"one\n").map_err(failed)?;
        let mut runner = None;
        wait_until("a node runs the walk", || {
            runner = NODES.into_iter().find(|node| running_on(up, node).unwrap_or(0) > 0);
            runner.is_some()
        })?;
        Ok(Self { runner: runner.expect("it was waited for"), typed, started, report })
    }

    /// Types the second line, and checks that the node has executed the walk to its end. A second attempt
    /// would lack the input that the first one has read.
    fn end(self, up: &Up) -> Result<(), String> {
        let Self { runner, mut typed, started, report } = self;
        typed.write_all(b"two\n").map_err(|error| error.to_string())?;
        drop(typed);
        let run = started.wait(LIMIT);
        all_join(up, &NODES)?;
        let run = run?;
        let report = Report::read(&report)?;
        let runners = report.runners();
        if run.out() == "got one\ngot two\n" && run.succeeded() && runners == [runner] {
            Ok(())
        } else {
            Err(format!("executed by {runners:?}, not by {runner}: {run}"))
        }
    }
}

/// Returns the number of walks on a node, according to the broker.
fn running_on(up: &Up, node: &str) -> Result<u64, String> {
    let status = status(up, "origin")?;
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let running =
        nodes.filter(|state| state["node"] == node).filter_map(|state| state["running"].as_u64());
    Ok(running.sum())
}

/// A stopped program is repeated when all nodes die, and then runs on, although the first attempt was
/// stopped.
fn dies_while_stopped(lab: &Lab) -> Result<(), String> {
    const STOPS: &str = "-e 'go' or kill STOP => $$; print 'went on'";
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("stopped")?;
    let mut command = up.exec(&dir.join("report.json"));
    command.args(["--walk-all", "--", "perl", "-e", STOPS]).current_dir(&dir);
    let started = Run::start(command, None)?;
    let stopped = || processes(STOPS).iter().any(|line| is_stopped_child(line, started.id()));
    wait_until("the stub is stopped", stopped)?;
    fs::write(dir.join("go"), "").map_err(|error| error.to_string())?;
    NODES.iter().try_for_each(|node| up.lab(&["kill", node]))?;
    let run = started.wait(LIMIT);
    NODES.iter().try_for_each(|node| up.lab(&["heal", node]))?;
    all_join(up, &NODES)?;
    let run = run?;
    if run.out() == "went on" { Ok(()) } else { Err(run.to_string()) }
}

/// Tells whether the process whose pid starts the line is a stopped child of `parent`.
fn is_stopped_child(line: &str, parent: u32) -> bool {
    let pid = line.split(' ').next().unwrap_or_default();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.contains("\nState:\tT") && status.contains(&format!("\nPPid:\t{parent}\n"))
}

/// A walk that another node has executed before asks the origin almost nothing, and sees current files.
fn second_is_told(lab: &Lab) -> Result<(), String> {
    const FILES: usize = 12;
    /// Questions that are still allowed.
    const ASKED_MAX: u64 = 5;
    let (up, _alone) = lab.alone()?;
    let (known, dir) = (up.fresh("knows-cat")?, up.fresh("told")?);
    let failed = |error: std::io::Error| error.to_string();
    for i in 0..FILES {
        fs::create_dir(dir.join(format!("d{i}"))).map_err(failed)?;
        fs::write(dir.join(format!("d{i}/f")), format!("file {i}\n")).map_err(failed)?;
    }
    let cat = |node: &str, dir: &Path| -> Result<(u64, String), String> {
        let before = fetches(up, node)?;
        let mut command = up.exec(&known.join("report.json"));
        command.args(["--on", node, "--walk", "cat", "--", "sh", "-c", "cat d*/f; :"]);
        command.current_dir(dir);
        let run = Run::of(command, LIMIT)?;
        Report::read(&known.join("report.json"))?
            .walked("cat")
            .then_some(())
            .ok_or_else(|| format!("cat did not walk: {run}"))?;
        Ok((fetches(up, node)? - before, run.out()))
    };
    // Sends the program and its libraries.
    cat("n1", &known)?;
    cat("n2", &known)?;
    let (asked, _) = cat("n1", &dir)?;
    fs::write(dir.join("d3/f"), "another\n").map_err(failed)?;
    let (told, said) = cat("n2", &dir)?;
    let expected: String = (0..FILES)
        .map(|i| if i == 3 { "another\n".to_owned() } else { format!("file {i}\n") })
        .collect();
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    if sorted(&said) != sorted(&expected) {
        return Err(format!("the walk reads {said:?}"));
    }
    if asked < FILES as u64 || told > ASKED_MAX {
        return Err(format!("the first node asked {asked} questions, the second {told}"));
    }
    Ok(())
}

/// A compile step of a project that no node has seen asks the origin almost nothing: the files that it
/// includes are sent in advance.
fn first_compile_is_told(lab: &Lab) -> Result<(), String> {
    const HEADERS: usize = 30;
    /// Questions that are still allowed.
    const ASKED_MAX: u64 = 5;
    let (up, _alone) = lab.alone()?;
    let failed = |error: std::io::Error| error.to_string();
    let compile = |dir: &Path, name: &str| -> Result<u64, String> {
        let before = fetches(up, "n1")?;
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        command.args(["--on", "n1", "--", "gcc", "-Iinclude", "-Inot/there", "-c", name]);
        command.current_dir(dir);
        let run = Run::of(command, LIMIT)?;
        let walked = Report::read(&report)?.walked("gcc");
        (walked && run.succeeded())
            .then_some(())
            .ok_or_else(|| format!("the compile step did not walk: {run}"))?;
        Ok(fetches(up, "n1")? - before)
    };
    let (known, dir) = (up.fresh("knows-gcc")?, up.fresh("new-project")?);
    fs::write(known.join("a.c"), "int a;\n").map_err(failed)?;
    // Sends the compiler and its libraries.
    compile(&known, "a.c")?;
    fs::create_dir_all(dir.join("include/sub")).map_err(failed)?;
    for i in 0..HEADERS {
        let text = format!("#include \"../sub/h{}.h\"\nstatic int v{i};\n", i + 1);
        fs::write(dir.join(format!("include/sub/h{i}.h")), text).map_err(failed)?;
    }
    fs::write(dir.join(format!("include/sub/h{HEADERS}.h")), "").map_err(failed)?;
    for name in ["a.c", "b.c"] {
        fs::write(dir.join(name), "#include <sub/h0.h>\nint *v = &v9;\n").map_err(failed)?;
        let asked = compile(&dir, name)?;
        if asked > ASKED_MAX {
            return Err(format!("{name}: {asked} questions"));
        }
    }
    // Changed includes are sent with the walk as well.
    fs::write(dir.join("b.c"), "#include <sub/h0.h>\nint *v = &v8;\n").map_err(failed)?;
    match compile(&dir, "b.c")? {
        0 => {}
        asked => return Err(format!("b.c, changed: {asked} questions")),
    }
    // What was sent matches the files.
    fs::write(dir.join("include/sub/h9.h"), "static char v9[2];\n").map_err(failed)?;
    fs::write(dir.join("c.c"), "#include \"sub/h8.h\"\nint i[sizeof v9 == 2 ? 1 : -1];\n")
        .map_err(failed)?;
    compile(&dir, "c.c").map(drop)
}

fn fetches(up: &Up, node: &str) -> Result<u64, String> {
    let status = status(up, node)?;
    status["fuse"]["fetches"]
        .as_u64()
        .ok_or_else(|| format!("the status has no count of questions: {status}"))
}

/// Returns the output of `oswalk status --json` on a node.
pub(crate) fn status(up: &Up, node: &str) -> Result<serde_json::Value, String> {
    let mut command = up.command("oswalk");
    command.args(["status", "--json"]).env("OSWALK_STATE", up.state(node));
    let run = Run::of(command, LIMIT)?;
    serde_json::from_slice(&run.stdout)
        .map_err(|error| format!("oswalk status --json: {error}: {run}"))
}
