//! A rolling upgrade: agents are replaced one after the other while a build runs, and nobody notices.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, NODES, Up};
use crate::members::is;
use crate::nodes::{all_join, during_a_build};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("upgrade::one_by_one_under_a_build", one_by_one),
    ("upgrade::of_the_origin_under_a_build", of_the_origin),
];

const LIMIT: std::time::Duration = seconds(120);
/// Files of the build; each takes a fifth of a second.
const FILES: usize = 240;
/// What an installation consists of.
const PROGRAMS: [&str; 4] = ["oswalk", "oswalkd", "oswalk-stub", "liboswalk_preload.so"];

/// Reasons of stays that a user would notice: something did not work.
const NOTICED: [&str; 4] = ["runner-lost", "runner-fault", "commit-fault", "no-broker"];

fn project(dir: &Path) -> Result<(), String> {
    let files: Vec<_> = (0..FILES).map(|i| format!("f{i}")).collect();
    let makefile = format!("all: {0}\n{0}:\n\t./worker $@\n", files.join(" "));
    let worker = "#!/usr/bin/perl\nselect undef, undef, undef, 0.2; open F, '>', $ARGV[0]; print F \"made $ARGV[0]\\n\"; close F;\n";
    let write = || {
        fs::write(dir.join("Makefile"), makefile)?;
        fs::write(dir.join("worker"), worker)?;
        fs::set_permissions(dir.join("worker"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
    };
    write().map_err(|error: std::io::Error| error.to_string())
}

fn made(dir: &Path) -> usize {
    let whole = |i: &usize| {
        let name = format!("f{i}");
        fs::read_to_string(dir.join(&name)).is_ok_and(|text| text == format!("made {name}\n"))
    };
    (0..FILES).filter(whole).count()
}

/// Ends the agent of a node, and starts it from another installation.
fn upgrade(up: &Up, node: &str, programs: &Path) -> Result<(), String> {
    let state = up.state(node);
    let mut down = up.command("oswalk");
    down.arg("down").env("OSWALK_STATE", &state);
    let down = Run::of(down, LIMIT)?;
    let mut start = up.inside(node, &programs.join("oswalk").display().to_string());
    start.arg("up").env("OSWALK_STATE", &state);
    let start = Run::of(start, LIMIT)?;
    if down.succeeded() && start.succeeded() { Ok(()) } else { Err(format!("{down}; {start}")) }
}

fn install(up: &Up) -> Result<PathBuf, String> {
    let programs = up.fresh("upgrade-programs")?;
    for name in PROGRAMS {
        fs::copy(up.dist.join(name), programs.join(name))
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(programs)
}

/// A build whose own agent is replaced ends well: what has not walked to its end is executed here, as is all that follows.
fn of_the_origin(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    all_join(up, &NODES)?;
    let (dir, programs) = (up.fresh("upgrade-origin")?, install(up)?);
    let built = during_a_build(up, &dir, || upgrade(up, "origin", &programs));
    let healed = up.lab(&["kill", "origin"]).and_then(|()| up.lab(&["heal", "origin"]));
    let joined = all_join(up, &NODES);
    built?;
    healed?;
    joined
}

fn one_by_one(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    all_join(up, &NODES)?;
    let (dir, programs) = (up.fresh("upgrade")?, install(up)?);
    project(&dir)?;
    let report = dir.join("report.json");
    let mut build = up.exec(&report);
    build.args(["--walk", "worker", "--", "make", "-s", "-j6"]).current_dir(&dir);
    let mut build = Run::start(build, None)?;
    let upgraded = (|| {
        for (index, node) in NODES.iter().enumerate() {
            let before = made(&dir);
            wait_until("the build goes on", || made(&dir) > before)?;
            upgrade(up, node, &programs).map_err(|error| format!("{node}: {error}"))?;
            wait_until(&format!("{node} is back"), || is(up, node, "alive"))?;
            if !build.is_running() {
                return Err(format!("the build was over after {index} upgrades"));
            }
        }
        Ok(())
    })();
    let run = build.wait(LIMIT);
    let healed = NODES.iter().try_for_each(|node| {
        up.lab(&["kill", node])?;
        up.lab(&["heal", node])
    });
    let joined = all_join(up, &NODES);
    upgraded?;
    healed?;
    joined?;
    let (run, report) = (run?, Report::read(&report)?);
    let noticed: Vec<_> =
        report.stays.iter().filter(|(_, why)| NOTICED.contains(&why.as_str())).collect();
    let failed = report.walks.iter().filter(|(.., status)| *status != 0).count();
    if run.succeeded()
        && run.err().is_empty()
        && made(&dir) == FILES
        && noticed.is_empty()
        && failed == 0
    {
        return Ok(());
    }
    Err(format!("{} of {FILES} files, {failed} failed, {noticed:?}: {run}", made(&dir)))
}
