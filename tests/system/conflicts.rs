//! Two change one file at the same time: nothing is lost without a word.

use std::fs;

use crate::Test;
use crate::interrupts::{processes, wait_until};
use crate::lab::Lab;
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("conflicts::a_program_that_was_silent_runs_again_at_the_origin", silent),
    ("conflicts::a_program_that_has_spoken_runs_again_on_a_node", spoken),
];

/// Names itself after its second argument, says `up` if it is to, waits for longer than output is
/// held back, and writes the file's content in capital letters over it.
const SHOUT: &str = "$0 = qq($ARGV[1]-runs); $| = 1; print qq(up\\n) if $ARGV[0]; \
    select undef, undef, undef, 1.6; open F, '+<', 'f'; local $/; $_ = <F>; seek F, 0, 0; print F uc";

fn silent(lab: &Lab) -> Result<(), String> {
    let report = disturb(lab, "silent", "0")?;
    if report.stayed("perl", "conflict") {
        Ok(())
    } else {
        Err(format!("{:?}, {:?}", report.walks, report.stays))
    }
}

fn spoken(lab: &Lab) -> Result<(), String> {
    let report = disturb(lab, "spoken", "1")?;
    if report.walked("perl") {
        Ok(())
    } else {
        Err(format!("{:?}, {:?}", report.walks, report.stays))
    }
}

/// Changes the file while a walk is about to.
fn disturb(lab: &Lab, name: &str, speaks: &str) -> Result<Report, String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh(&format!("conflict-{name}"))?;
    let file = dir.join("f");
    let failed = |error: std::io::Error| error.to_string();
    fs::write(&file, "first\n").map_err(failed)?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    command.args(["--walk", "perl", "--", "sh", "-c", "perl -e \"$1\" $2 $3; :", "sh"]);
    command.args([SHOUT, speaks, name]);
    command.current_dir(&dir);
    let walk = Run::start(command, None)?;
    let runs = format!("{name}-runs");
    wait_until("the walk runs", || !processes(&runs).is_empty())?;
    fs::write(&file, "second\n").map_err(failed)?;
    let run = walk.wait(seconds(30))?;
    let content = fs::read_to_string(&file).map_err(failed)?;
    let said = if speaks == "1" { "up\n" } else { "" };
    if content != "SECOND\n" || run.out() != said || !run.succeeded() {
        return Err(format!("the file is {content:?}: {run}"));
    }
    Report::read(&report)
}
