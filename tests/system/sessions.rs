//! A session ends with its command.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::Lab;

pub(crate) const ALL: &[Test] = &[
    ("sessions::one_ends_with_its_command", ends_with_command),
    ("sessions::one_ends_with_a_command_that_is_killed", ends_when_killed),
];

/// Children that go on do not keep the session.
fn ends_with_command(lab: &Lab) -> Result<(), String> {
    run(lab, "echo $OSWALK_PAGE; cat /dev/fd/0 >/dev/null; sleep 9 >/dev/null & exit 3", false)
}

fn ends_when_killed(lab: &Lab) -> Result<(), String> {
    run(lab, "echo $OSWALK_PAGE; exec cat", true)
}

/// Runs a script that says where the session's page is and waits for its input's end.
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
        return Err(format!("the page {page} was there: {there}; {status}"));
    }
    wait_until("the session ends", || !Path::new(&page).exists())
}
