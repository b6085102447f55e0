//! Slots pass from one walk of an origin to the next without the broker, unless others wait for them.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Test;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("slots::go_from_walk_to_walk", go_on),
    ("slots::go_to_others_who_wait", go_to_others),
    ("slots::pipelines_do_not_wait_for_each_other", pipelines_go_on),
    ("slots::readers_do_not_wait_for_writers_that_have_no_slot", readers_go_on),
];

/// Programs at once: twice the number of slots in the lab.
const WALKS: usize = 120;
const AT_ONCE: &str = "12";

/// Returns a command that runs programs which walk and take a while.
fn many(up: &Up, dir: &Path, report: &Path, count: usize) -> Command {
    let mut command = up.exec(report);
    let each = format!("seq {count} | xargs -P {AT_ONCE} -I X sh -c 'sleep 0.1; : >begun'");
    command.args(["--walk", "sleep", "--", "sh", "-c", &each]).current_dir(dir);
    command
}

/// Returns the approximate number of calls that submitted walks. The broker's counters change only when a
/// walk ends.
fn submits(up: &Up) -> Result<usize, String> {
    let run = Run::of(up.redis(&["info", "commandstats"])?, seconds(10))?;
    let said = run.out();
    if !said.contains("# Commandstats") {
        return Err(format!("no counts of calls: {run}"));
    }
    // A function that was never called is not listed.
    let calls = said.lines().find_map(|line| line.strip_prefix("cmdstat_mset:calls="));
    Ok(calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0))
}

fn go_on(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("slots go on")?;
    let report = dir.join("report.json");
    let before = submits(up)?;
    let run = Run::of(many(up, &dir, &report, WALKS), seconds(60))?;
    let submitted = submits(up)? - before;
    let walks = Report::read(&report)?.walks.len();
    if !run.succeeded() || walks != WALKS {
        return Err(format!("{walks} of {WALKS} walked: {run}"));
    }
    // If slots were not passed on, each walk would be submitted. A slot is returned after some seconds, so a
    // slow machine submits more.
    if submitted > WALKS / 2 {
        return Err(format!("{submitted} of {WALKS} walks were submitted: {run}"));
    }
    Ok(())
}

/// The readers begin when all writers hold a slot, or wait for one.
fn pipelines_go_on(lab: &Lab) -> Result<(), String> {
    all_end(lab, "seq 1 400000 | { sleep 1; wc -l; } &")
}

/// The other way round.
fn readers_go_on(lab: &Lab) -> Result<(), String> {
    all_end(lab, "{ sleep 1; seq 1 400000; } | wc -l &")
}

/// Starts twice as many pipelines as there are slots, each of which writes more than a pipe holds.
fn all_end(lab: &Lab, each: &str) -> Result<(), String> {
    const PIPELINES: usize = 12;
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("slots pipelines")?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    let all = format!("{}wait", format!("{each} ").repeat(PIPELINES));
    command.args(["--walk", "seq", "--walk", "wc", "--", "sh", "-c", &all]).current_dir(&dir);
    let run = Run::of(command, seconds(60))?;
    let whole = run.out().lines().filter(|line| line.trim() == "400000").count();
    if whole != PIPELINES || !Report::read(&report)?.walked("seq") {
        return Err(format!("{whole} of {PIPELINES} pipelines: {run}"));
    }
    Ok(())
}

fn go_to_others(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("slots of others")?;
    let report = dir.join("report.json");
    let mut hog = Run::start(many(up, &dir, &report, 10 * WALKS), None)?;
    let deadline = Instant::now() + seconds(20);
    while !dir.join("begun").exists() {
        if Instant::now() > deadline {
            return Err("none of the walks ends".to_owned());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let other = dir.join("other.json");
    for turn in 0..5 {
        let exec = up.exec(&other);
        let mut command = up.command("nsenter");
        command.arg(format!("--mount={}", up.namespace("n1")?)).arg(exec.get_program());
        command.args(exec.get_args()).env("OSWALK_STATE", up.state("n1")).current_dir(&dir);
        command.args(["--on", "n2", "--no-fallback", "--walk", "sleep", "--", "sleep", "0.1"]);
        let run = Run::of(command, seconds(20))?;
        if !run.succeeded() || !Report::read(&other)?.walked("sleep") {
            return Err(format!("the walk of another origin, turn {turn}: {run}"));
        }
    }
    if !hog.is_running() {
        return Err("the other origin had to wait for the end of the session".to_owned());
    }
    let run = hog.wait(seconds(120))?;
    let walks = Report::read(&report)?.walks.len();
    if run.succeeded() && walks == 10 * WALKS {
        Ok(())
    } else {
        Err(format!("{walks} of {} walked: {run}", 10 * WALKS))
    }
}
