//! A session ends with its command.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::Lab;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("sessions::one_ends_with_its_command", ends_with_command),
    ("sessions::one_ends_with_a_command_that_is_killed", ends_when_killed),
    ("sessions::the_report_has_what_a_trace_is_drawn_from", the_report_has_times),
];

/// Children that run on do not keep the session open.
fn ends_with_command(lab: &Lab) -> Result<(), String> {
    run(lab, "echo $OSWALK_PAGE; cat /dev/fd/0 >/dev/null; sleep 9 >/dev/null & exit 3", false)
}

fn ends_when_killed(lab: &Lab) -> Result<(), String> {
    run(lab, "echo $OSWALK_PAGE; exec cat", true)
}

/// Runs a script that prints the path of the session's page, and waits for the end of its input.
fn run(lab: &Lab, script: &str, kill: bool) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    let (up, _shared) = lab.shared()?;
    let mut command = up.exec_unreported();
    command.args(["--", "sh", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut out = child.stdout.take().expect("piped");
    let mut page = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        out.read_exact(&mut byte).map_err(failed)?;
        page.push(byte[0]);
    }
    let page = String::from_utf8_lossy(page.trim_ascii_end()).into_owned();
    let there = Path::new(&page).exists();
    if kill {
        child.kill().map_err(failed)?;
    }
    drop(child.stdin.take());
    let status = child.wait().map_err(failed)?;
    if !there || status.code() != (!kill).then_some(3) {
        return Err(format!("the page {page} existed during the session: {there}; {status}"));
    }
    wait_until("the session ends", || !Path::new(&page).exists())
}

/// The report has command line, output, start and end of each walk.
fn the_report_has_times(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("report-times")?;
    let script = "for i in 1 2; do echo 'int x;' >$i.c; gcc -c -O1 $i.c -o out-$i.o & done; wait";
    let mut command = up.exec(&dir.join("report.json"));
    command.args(["--on", "n1", "--", "sh", "-c", script]).current_dir(&dir);
    let run = Run::of(command, seconds(30))?;
    let text = std::fs::read(dir.join("report.json")).map_err(|error| format!("{error}: {run}"))?;
    let report: Value = serde_json::from_slice(&text).map_err(|error| error.to_string())?;
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let wall = number(&report["totals"]["wall_ms"]);
    let began = Duration::from_millis(report["began_unix_ms"].as_u64().unwrap_or(0));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let walks = report["walks"].as_array().cloned().unwrap_or_default();
    let sound = |walk: &Value| {
        let (start, end) = (number(&walk["start_ms"]), number(&walk["end_ms"]));
        let within = number(&walk["wait_ms"]) + number(&walk["run_ms"]);
        let is = |name: &str, words: &[&str]| walk[name] == serde_json::json!(words);
        let named = ["1", "2"].iter().any(|i| {
            let (source, output) = (format!("{i}.c"), format!("out-{i}.o"));
            is("argv", &["gcc", "-c", "-O1", &source, "-o", &output]) && walk["output"] == output
        });
        named && 0.0 < start && start + within <= end && end <= wall && walk["argv_lossy"].is_null()
    };
    let recent = began <= now && now < began + seconds(60);
    if walks.len() == 2 && walks.iter().all(sound) && recent {
        Ok(())
    } else {
        Err(format!("the report is {report:#}"))
    }
}
