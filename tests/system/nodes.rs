//! Nodes die, vanish and return while builds continue.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::faults::runner_of;
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
    ("nodes::one_takes_a_new_key_in_the_middle", rotates),
    ("nodes::one_that_lost_only_the_broker_keeps_its_walks", loses_the_broker),
    ("nodes::one_that_stands_still_for_a_moment_keeps_its_walks", stands_still),
    ("nodes::one_that_is_stopped_is_given_up_in_time", is_stopped),
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
    let built = during_a_build(up, &dir, || {
        nodes.iter().try_for_each(|node| up.lab(&[how, &[node]].concat()))
    });
    nodes.iter().try_for_each(|node| up.lab(&["heal", node]))?;
    let joined = all_join(up, &NODES);
    built?;
    joined
}

/// Builds, and does something when a quarter of the build is done. The build must succeed.
pub(crate) fn during_a_build(
    up: &Up,
    dir: &Path,
    act: impl FnOnce() -> Result<(), String>,
) -> Result<(), String> {
    project(dir)?;
    let started = Run::start(build(up, dir, &dir.join("report.json")), None)?;
    let deadline = Instant::now() + LIMIT;
    while made(dir) < FILES / 4 && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(5));
    }
    let acted = act();
    let run = started.wait(LIMIT)?;
    acted?;
    let made = made(dir);
    if run.succeeded() && made == FILES {
        Ok(())
    } else {
        Err(format!("{made} of {FILES} files: {run}"))
    }
}

/// The walks of a node that takes a new key are executed again, with the links that end.
fn rotates(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("rotates")?;
    let built = during_a_build(up, &dir, || {
        wait_until("it executes walks", || running_on(up, "n1").is_ok_and(|count| count > 0))?;
        let rotated = up.cluster(&up.state("n1"), &["rotate"])?;
        if rotated.succeeded() { Ok(()) } else { Err(rotated.to_string()) }
    });
    let joined = all_join(up, &NODES);
    built?;
    joined
}

/// Longest time until a node takes walks again: one that could not be reached is tried again after a while.
const JOIN_LIMIT: Duration = seconds(45);

/// Waits until each of these nodes takes walks again.
pub(crate) fn all_join(up: &Up, nodes: &[&str]) -> Result<(), String> {
    let deadline = Instant::now() + JOIN_LIMIT;
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
                let mut status = up.command("oswalk");
                status.arg("status");
                let status = Run::of(status, LIMIT)?.out();
                return Err(format!("{node} takes no walks again: {run}\n{status}"));
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
    let told = is_told(up, &dir);
    let healed = NODES.iter().try_for_each(|node| up.lab(&["heal", node]));
    healed?;
    all_join(up, &NODES)?;
    let run = run?;
    told?;
    if !run.succeeded() || made(&dir) != FILES {
        return Err(format!("{} of {FILES} files: {run}", made(&dir)));
    }
    if run.took > seconds(10) { Err(format!("too slow: {run}")) } else { Ok(()) }
}

/// The user of a build is told at its end that nothing walked, also in a file, and unless that is not wanted. Who reads what
/// a compiler says reads no more than that.
fn is_told(up: &Up, dir: &Path) -> Result<(), String> {
    fs::write(dir.join("a.c"), "int a;\n").map_err(|error| error.to_string())?;
    let says = |flags: &[&str], script: &[&str]| {
        let mut command = up.exec_unreported();
        command.args(flags).arg("--").args(script).current_dir(dir);
        Run::of(command, LIMIT)
    };
    let gcc = ["gcc", "-c", "a.c"];
    let sh = ["sh", "-c", "echo of the build >&2; exec gcc -c a.c"];
    for (flags, script, is_told) in [
        (&[][..], &sh[..], true),
        (&["--summary"], &sh, true),
        (&["--quiet"], &sh, false),
        (&[], &["sh", "-c", "exit 0"], false),
        (&[], &gcc, false),
    ] {
        let run = says(flags, script)?;
        let said = run.err();
        let lines: Vec<_> = said.lines().filter(|line| line.contains("nothing walked")).collect();
        let is_last = !said.starts_with("oswalk: nothing walked");
        if !run.succeeded() || (lines.len() == 1) != is_told || is_told && !is_last {
            return Err(format!("{flags:?} {script:?}: {run}"));
        }
    }
    Ok(())
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
    let stopped = StoppedAgent::new(up, reader.runner)?;
    thread::sleep(STILL);
    drop(stopped);
    reader.end(up)
}

/// An agent that stands still until this is dropped.
struct StoppedAgent(Pid);

impl StoppedAgent {
    fn new(up: &Up, node: &str) -> Result<Self, String> {
        let text = fs::read_to_string(up.state(node).join("pid"));
        let text = text.map_err(|error| error.to_string())?;
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).ok_or("no pid")?;
        kill_process(pid, Signal::STOP).map_err(|error| error.to_string())?;
        Ok(Self(pid))
    }
}

impl Drop for StoppedAgent {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// An agent that is stopped for good loses its walks within 4 s: those that run there, and those that are on their way. Its
/// processes run on, but what they do takes no effect.
fn is_stopped(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let ended = [&["--on", NODES[0]][..], &[]].iter().try_for_each(|on| {
        [true, false].iter().try_for_each(|&is_running| {
            let ended = stopped_under(up, on, is_running);
            ended.map_err(|error| format!("{on:?}, running {is_running}: {error}"))
        })
    });
    let joined = all_join(up, &NODES);
    ended?;
    joined
}

fn stopped_under(up: &Up, on: &[&str], is_running: bool) -> Result<(), String> {
    /// How long the program takes, and the limit for the time that is lost.
    const TAKES: Duration = seconds(2);
    const LOST_MAX: Duration = Duration::from_millis(5500);
    const PROGRAM: &str = "select undef, undef, undef, 2; open F, '>>', 'log'; print F qq(x\n)";
    let dir = up.fresh("stopped for good")?;
    let word = format!("oswalk-stopped-{}-{is_running}-{}", std::process::id(), on.len());
    // With a link to each node that carries nothing.
    all_join(up, &NODES)?;
    let mut command = up.exec(&dir.join("report.json"));
    command.args(on).args(["--walk-all", "--", "perl", "-e", PROGRAM, &word]).current_dir(&dir);
    // Without a node of its own, the walk goes to the one that is not stopped.
    let (started, stopped) = if is_running {
        let started = Run::start(command, None)?;
        let mut runner = None;
        wait_until("the walk runs", || {
            runner = runner_of(up, &word);
            runner.is_some()
        })?;
        (started, vec![StoppedAgent::new(up, runner.expect("it runs"))?])
    } else {
        let stopped = NODES.iter().take(if on.is_empty() { 2 } else { 1 });
        let stopped = stopped.map(|node| StoppedAgent::new(up, node)).collect::<Result<_, _>>()?;
        (Run::start(command, None)?, stopped)
    };
    let began = Instant::now();
    let run = started.wait(LIMIT)?;
    let took = began.elapsed();
    drop(stopped);
    wait_until("the first attempt has ended", || processes(&word).is_empty())?;
    let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
    match () {
        () if !run.succeeded() || log != "x\n" => Err(format!("it has written {log:?}: {run}")),
        () if took > TAKES + LOST_MAX => Err(format!("it took {took:?}: {run}")),
        () => Ok(()),
    }
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
pub(crate) fn running_on(up: &Up, node: &str) -> Result<u64, String> {
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
