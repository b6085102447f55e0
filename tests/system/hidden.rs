//! Files that no runner is shown: secrets by any of their names, the agent's own files, files that the
//! user hides.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("hidden::what_the_agent_was_started_with", what_the_agent_was_started_with),
    ("hidden::what_the_user_hides", what_the_user_hides),
    ("hidden::what_is_hidden_is_not_moved", what_is_hidden_is_not_moved),
    ("hidden::what_cannot_be_repeated_loses_what_is_hidden_only", loses_what_is_hidden_only),
];

/// Runs a script as a walk in a session with this policy; it is not executed at the origin.
fn walk(up: &Up, policy: &Path, script: &str) -> Result<Run, String> {
    let mut command = up.exec_unreported();
    command.arg("--policy").arg(policy);
    command.args(["--no-fallback", "--walk-all", "--on", "n1", "--", "sh", "-c"]);
    command.args([script]);
    Run::of(command, seconds(30))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Reads a file in a walk; returns an empty text if that was refused.
fn read(up: &Up, policy: &Path, path: &Path) -> Result<String, String> {
    let run = walk(up, policy, &format!("exec head -c 64 '{}'", path.display()))?;
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

fn what_the_agent_was_started_with(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("own")?;
    let policy = up.dir.join("lab/policy.toml");
    let key = up.state("origin").join("cluster/key");
    fs::hard_link(&key, dir.join("link")).map_err(|error| error.to_string())?;
    fs::copy(&key, dir.join("copy")).map_err(|error| error.to_string())?;
    fs::set_permissions(dir.join("copy"), fs::Permissions::from_mode(0o640))
        .map_err(|error| error.to_string())?;
    write(&dir.join("shown"), "shown")?;
    let hidden = [
        key,
        up.state("origin").join("cluster/owner"),
        dir.join("link"),
        dir.join("copy"),
        up.dir.join("lab/password"),
        up.dir.join("lab/broker/redis.conf"),
        up.state("origin").join("pid"),
    ];
    for path in hidden {
        if !path.exists() {
            return Err(format!("{} does not exist", path.display()));
        }
        let text = read(up, &policy, &path)?;
        if !text.is_empty() {
            return Err(format!("{} was read: {text}", path.display()));
        }
    }
    let shown = read(up, &policy, &dir.join("shown"))?;
    if shown == "shown" {
        Ok(())
    } else {
        Err(format!("a file that is not hidden was refused: {shown}"))
    }
}

fn what_the_user_hides(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("hide")?;
    fs::create_dir_all(dir.join("deep/in")).map_err(|error| error.to_string())?;
    let (policy, file) = (dir.join("policy.toml"), dir.join("deep/in/file"));
    write(&policy, "")?;
    write(&file, "text")?;
    let before = read(up, &policy, &file)?;
    write(&policy, &format!("hide = ['{}/de*']", dir.display()))?;
    let after = read(up, &policy, &file)?;
    if [before.as_str(), &after] == ["text", ""] {
        Ok(())
    } else {
        Err(format!("read {before:?} before it was hidden, {after:?} afterwards"))
    }
}

fn what_is_hidden_is_not_moved(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("moved")?;
    let policy = up.dir.join("lab/policy.toml");
    fs::create_dir_all(dir.join(".docker")).map_err(|error| error.to_string())?;
    write(&dir.join(".docker/config.json"), "text")?;
    write(&dir.join(".netrc"), "text")?;
    for script in ["mv .docker d", "mv .netrc n", "ln .netrc n", "mkdir e && mv .docker e/x"] {
        let run = walk(up, &policy, &format!("cd '{}' && {script}", dir.display()))?;
        let names = [".docker/config.json", ".netrc"];
        if run.succeeded() || names.iter().any(|name| !dir.join(name).exists()) {
            return Err(format!("{script}: {run}"));
        }
    }
    let native = "mkdir p && echo 1 >p/a && mv p q && cat q/a";
    let run = walk(up, &policy, &format!("cd '{}' && {native}", dir.display()))?;
    if run.succeeded() { Ok(()) } else { Err(format!("a rename of nothing hidden fails: {run}")) }
}

/// A shell at a terminal writes its history file when it exits, which may not have existed before.
fn loses_what_is_hidden_only(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("hidden-written")?;
    let write = "open F, q(>), $_ or die for qw(.netrc kept); exit 7";
    let begin = "$| = 1; print qq(begin\n); select undef, undef, undef, 1.5;";
    for (name, script) in [("shown", begin), ("silent", "")] {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let mut command = up.exec_unreported();
        command.args(["--walk-all", "--on", "n1", "--", "perl", "-e"]);
        command.arg(format!("{script} {write}")).current_dir(&dir);
        let run = Run::of(command, seconds(30))?;
        let is_shown = !script.is_empty();
        let is_told = run.err().contains("/.netrc, which is not exported");
        let is_written = dir.join(".netrc").exists();
        // This one can be repeated, so it is executed at the origin.
        let wanted = (Some(7), is_shown, !is_shown);
        if (run.status.code(), is_told, is_written) != wanted || !dir.join("kept").exists() {
            return Err(format!("{name}: {wanted:?}: {run}"));
        }
    }
    Ok(())
}
