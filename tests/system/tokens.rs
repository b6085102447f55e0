//! What a session may do: a token that was narrowed, has expired, or is revoked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, NODES, Up};
use crate::nodes::{all_join, running_on};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("tokens::one_for_a_node_leads_nowhere_else", for_a_node),
    ("tokens::one_that_has_expired_is_refused", expired),
    ("tokens::one_for_a_directory_writes_nowhere_else", for_a_directory),
    ("tokens::one_without_network_leaves_a_loopback_device", without_network),
    ("tokens::one_of_another_node_narrows", of_another_node),
    ("tokens::one_that_is_revoked_ends_its_session", revoked),
    ("tokens::sessions_outlive_the_key_of_their_node", outlived),
];

const LIMIT: std::time::Duration = seconds(20);

/// Has `oswalk token` at a node print a token, and returns the file that has it.
fn token(up: &Up, node: &str, dir: &Path, options: &[&str]) -> Result<PathBuf, String> {
    let file = dir.join("token");
    let mut command = up.command("oswalk");
    command.args(["token", "narrow"]).args(options).env("OSWALK_STATE", up.state(node));
    let run = Run::of(command, LIMIT)?;
    if !run.succeeded() {
        return Err(run.to_string());
    }
    fs::write(&file, run.out()).map_err(|error| error.to_string())?;
    Ok(file)
}

/// Returns a session with a token, which executes a script of which all programs walk.
fn session(up: &Up, dir: &Path, token: &Path, script: &str) -> Command {
    let mut command = up.exec(&dir.join("report.json"));
    command.current_dir(dir).arg("--token").arg(token);
    command.args(["--walk", "show", "--walk", "touch", "--walk", "tail"]);
    command.args(["--", "sh", "-c", script]);
    command
}

fn run(up: &Up, dir: &Path, token: &Path, script: &str) -> Result<(Run, Report), String> {
    let run = Run::of(session(up, dir, token, script), LIMIT)?;
    Ok((run, Report::read(&dir.join("report.json"))?))
}

const EIGHT: &str = "for i in $(seq 8); do show >/dev/null & done; wait";

fn for_a_node(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("token-node")?;
    let token = token(up, "origin", &dir, &["--nodes", "n1"])?;
    let (run, report) = run(up, &dir, &token, EIGHT)?;
    if !run.succeeded() || report.walks.len() != 8 || report.runners() != ["n1"] {
        let (walks, stays) = (report.walks.len(), report.fallbacks());
        return Err(format!("{walks} walks, to {:?}: {stays:?} {run}", report.runners()));
    }
    let mut elsewhere = up.exec_unreported();
    elsewhere.args(["--no-fallback", "--on", "n2", "--token"]).arg(&token).args(["--", "true"]);
    refused(elsewhere, "does not allow node n2")
}

/// Succeeds if a command is refused with these words.
fn refused(command: Command, words: &str) -> Result<(), String> {
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() || !run.err().contains(words) { Err(run.to_string()) } else { Ok(()) }
}

fn expired(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("token-expired")?;
    let token = token(up, "origin", &dir, &["--expires", "1s"])?;
    let show = || {
        let mut show = up.command("oswalk");
        show.args(["token", "show"]).arg(&token);
        Run::of(show, LIMIT).is_ok_and(|run| run.out().contains("it has expired"))
    };
    wait_until("the token has expired", show)?;
    let mut command = up.exec_unreported();
    command.args(["--no-fallback", "--token"]).arg(&token).args(["--", "true"]);
    refused(command, "has expired: make another")?;
    // The command runs nevertheless, at the origin.
    let mut command = up.exec_unreported();
    command.arg("--token").arg(&token).args(["--", "echo", "here"]);
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() && run.out() == "here\n" && run.err().contains("has expired") {
        return Ok(());
    }
    Err(run.to_string())
}

fn for_a_directory(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("token-dir")?;
    let inside = dir.join("inside");
    fs::create_dir(&inside).map_err(|error| error.to_string())?;
    let only = inside.to_string_lossy().into_owned();
    let token = token(up, "origin", &dir, &["--paths", &only, "--nodes", "n1"])?;
    // All that its sandbox needs is asked for with this token.
    up.restart("n1")?;
    let (inner, report) = run(up, &dir, &token, "cd inside && touch a")?;
    if !inner.succeeded() || !report.walked("touch") || !inside.join("a").exists() {
        return Err(format!("inside: {:?} {inner}", report.fallbacks()));
    }
    // It is executed here instead: at the origin the user may do it.
    let (outer, report) = run(up, &dir, &token, "cd inside && touch ../b")?;
    if !outer.succeeded() || report.walked("touch") || !dir.join("b").exists() {
        return Err(format!("outside: {:?} {outer}", report.fallbacks()));
    }
    Ok(())
}

fn without_network(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("token-network")?;
    let token = token(up, "origin", &dir, &["--no-network"])?;
    let (run, report) = run(up, &dir, &token, "tail -n +3 /proc/net/dev")?;
    let devices = run.out();
    let is_alone = devices.lines().count() == 1 && devices.trim_start().starts_with("lo:");
    if run.succeeded() && report.walked("tail") && is_alone { Ok(()) } else { Err(run.to_string()) }
}

/// At the door of another node a token narrows what its holder may do there.
fn of_another_node(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("token-other")?;
    let token = token(up, "n2", &dir, &["--nodes", "n3", "--rights", "exec,read,write"])?;
    let (run, report) = run(up, &dir, &token, EIGHT)?;
    if !run.succeeded() || report.walks.len() != 8 || report.runners() != ["n3"] {
        let (walks, stays) = (report.walks.len(), report.fallbacks());
        return Err(format!("{walks} walks, to {:?}: {stays:?} {run}", report.runners()));
    }
    Ok(())
}

/// A session ends when the node of its token revokes it, and every node comes to know.
fn revoked(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("token-revoked")?;
    let token = token(up, "n2", &dir, &["--nodes", "n1"])?;
    let mut command = up.exec(&dir.join("report.json"));
    command.args(["--walk", "sleep", "--no-fallback", "--token"]).arg(&token);
    command.args(["--", "sh", "-c", "sleep 19"]);
    let session = Run::start(command, None)?;
    wait_until("it walks", || running_on(up, "n1").is_ok_and(|count| count > 0))?;
    let mut revoke = up.command("oswalk");
    revoke.args(["token", "revoke"]).arg(&token).env("OSWALK_STATE", up.state("n2"));
    let revoked = Run::of(revoke, LIMIT)?;
    if !revoked.succeeded() {
        return Err(revoked.to_string());
    }
    let ended = session.wait(LIMIT)?;
    if ended.succeeded() || !ended.err().contains("was revoked") {
        return Err(ended.to_string());
    }
    for node in ["origin", "n1", "n3"] {
        let saved = up.state(node).join("cluster/revoked");
        wait_until("it is told", || saved.exists())?;
    }
    let mut command = up.exec_unreported();
    command.args(["--no-fallback", "--token"]).arg(&token).args(["--", "true"]);
    refused(command, "was revoked")
}

/// A session's programs walk on with a new token. One for which its user has shown a token of the old key ends.
fn outlived(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("token-rotated")?;
    let token = token(up, "origin", &dir, &["--nodes", "n1"])?;
    let start = |mut command: Command, script: &str| {
        command.args(["--walk", "show", "--walk", "tail", "--no-fallback", "--", "sh", "-c"]);
        command.arg(script).current_dir(&dir);
        Run::start(command, None)
    };
    let open = up.exec(&dir.join("report.json"));
    let open = start(open, "mkfifo go && show && echo >begun && read -r _ <go && show && show")?;
    let mut narrowed = up.exec_unreported();
    narrowed.arg("--token").arg(&token);
    let narrowed = start(narrowed, "echo >log; tail -f log | tee shown")?;
    for file in ["begun", "shown"] {
        let has_begun = || fs::metadata(dir.join(file)).is_ok_and(|file| file.len() > 0);
        wait_until(file, has_begun)?;
    }
    let mut rotate = up.command("oswalk");
    rotate.args(["cluster", "rotate"]);
    let rotated = Run::of(rotate, LIMIT)?;
    let ended = narrowed.wait(LIMIT)?;
    if !rotated.succeeded() || !ended.err().contains("was revoked") {
        return Err(format!("{rotated}, {ended}"));
    }
    all_join(up, &NODES)?;
    fs::write(dir.join("go"), "go\n").map_err(|error| error.to_string())?;
    let run = open.wait(LIMIT)?;
    let report = Report::read(&dir.join("report.json"))?;
    if run.succeeded() && report.walks.len() == 3 { Ok(()) } else { Err(run.to_string()) }
}
