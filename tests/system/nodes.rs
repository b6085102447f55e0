//! Nodes die, vanish and come back; builds go on.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Test;
use crate::lab::{Lab, NODES, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("nodes::one_dies_in_the_middle", |lab| hurt(lab, "dies", &["kill"], &["n2"])),
    ("nodes::one_is_cut_off_in_the_middle", |lab| hurt(lab, "cut", &["cut"], &["n3"])),
    ("nodes::all_die_in_the_middle", |lab| hurt(lab, "all-die", &["kill"], &NODES)),
    ("nodes::the_broker_dies_in_the_middle", |lab| hurt(lab, "broker", &["kill"], &["broker"])),
    ("nodes::all_are_dead", all_are_dead),
];

/// Files of the build; each takes its program a tenth of a second.
const FILES: usize = 24;
/// Natively the build takes FILES / 6 × 0.1 s. Whatever happens to nodes costs less than this.
const LIMIT: Duration = seconds(40);

fn build(up: &Up, dir: &Path, report: &Path) -> std::process::Command {
    let mut command = up.exec(report);
    command.args(["--walk", "worker", "--", "make", "-s", "-j6"]).current_dir(dir);
    command
}

/// A build whose programs are slow enough to be hit.
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

/// Does something to nodes when a quarter of the build is done.
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

/// Waits until walks go to each of these nodes again.
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
                return Err(format!("{node} does not come back: {run}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// With no node left a build runs at the origin, at once.
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
