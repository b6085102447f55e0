//! File systems that are mounted and unmounted while an agent runs: walks see the same mounts as the user.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("mounts::over_what_was_read", over_what_was_read),
    ("mounts::one_file", one_file),
    ("mounts::what_is_built_there", what_is_built_there),
    ("mounts::other_names_of_hidden_files", other_names_of_hidden_files),
    ("mounts::who_has_others_is_told", who_has_others_is_told),
];

/// A mount, unmounted on drop.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&OsStr], point: &Path) -> Result<Self, String> {
        let mut command = Command::new("mount");
        command.args(arguments).arg(point);
        let run = Run::of(command, seconds(10))?;
        if run.succeeded() { Ok(Self(point.to_owned())) } else { Err(format!("mount: {run}")) }
    }

    fn tmpfs(point: &Path) -> Result<Self, String> {
        Self::new(&["-t", "tmpfs", "none"].map(OsStr::new), point)
    }

    fn bind(from: &Path, point: &Path) -> Result<Self, String> {
        Self::new(&[OsStr::new("--bind"), from.as_os_str()], point)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily, since remains of a failed test may still use it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))
}

fn make_dirs(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Runs a script as a walk, always on the same node.
fn walk(up: &Up, dir: &Path, script: &str) -> Result<Run, String> {
    let mut command = up.exec_unreported();
    command.args(["--no-fallback", "--walk-all", "--on", "n1", "--", "sh", "-c", script]);
    command.current_dir(dir);
    Run::of(command, seconds(30))
}

/// Checks the output of a walk.
fn prints(up: &Up, dir: &Path, script: &str, expected: &str) -> Result<(), String> {
    let run = walk(up, dir, script)?;
    let text = String::from_utf8_lossy(&run.stdout);
    if text == expected {
        Ok(())
    } else {
        Err(format!("{script}: {expected:?} was expected: {run}"))
    }
}

fn over_what_was_read(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("mounts over")?;
    make_dirs(&dir.join("d/e"))?;
    write(&dir.join("d/e/f"), "below")?;
    for round in 0..3 {
        prints(up, &dir, "cat d/e/f; ls d", "belowe\n")?;
        let mounted = Mounted::tmpfs(&dir.join("d"))?;
        prints(up, &dir, "ls -A d", "")?;
        make_dirs(&dir.join("d/e"))?;
        write(&dir.join("d/e/f"), "above")?;
        prints(up, &dir, "cat d/e/f; echo new >d/g", "above")?;
        if !dir.join("d/g").exists() {
            return Err(format!("round {round}: the file is not where the user sees it"));
        }
        drop(mounted);
    }
    prints(up, &dir, "cat d/e/f; ls d", "belowe\n")
}

fn one_file(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("mounts file")?;
    make_dirs(&dir.join("src"))?;
    write(&dir.join("v.h"), "one")?;
    write(&dir.join("src/v.h"), "two")?;
    prints(up, &dir, "cat v.h", "one")?;
    let mounted = Mounted::bind(&dir.join("src/v.h"), &dir.join("v.h"))?;
    prints(up, &dir, "cat v.h", "two")?;
    // The watch on its directory reports no change made through the other name.
    write(&dir.join("src/v.h"), "owt")?;
    prints(up, &dir, "cat v.h", "owt")?;
    drop(mounted);
    prints(up, &dir, "cat v.h", "one")
}

fn what_is_built_there(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("mounts built")?;
    make_dirs(&dir.join("t"))?;
    let _mounted = Mounted::tmpfs(&dir.join("t"))?;
    let inner = dir.join("t/deep/in");
    make_dirs(&inner)?;
    write(&inner.join("a.c"), "int f(void) { return 1; }\n")?;
    let mut command = up.exec_unreported();
    command.args(["--no-fallback", "--on", "n2", "--", "gcc", "-c", "a.c"]).current_dir(&inner);
    let run = Run::of(command, seconds(30))?;
    if run.succeeded() && inner.join("a.o").exists() { Ok(()) } else { Err(format!("gcc: {run}")) }
}

fn other_names_of_hidden_files(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("mounts hidden")?;
    for name in [".docker", "d", "p"] {
        make_dirs(&dir.join(name))?;
    }
    write(&dir.join(".docker/config.json"), "secret")?;
    write(&dir.join(".docker/other"), "shown")?;
    let _dir = Mounted::bind(&dir.join(".docker"), &dir.join("d"))?;
    let _proc = Mounted::new(&["-t", "proc", "proc"].map(OsStr::new), &dir.join("p"))?;
    prints(up, &dir, "cat d/other", "shown")?;
    prints(up, &dir, "cat d/config.json 2>/dev/null", "")?;
    prints(up, &dir, "cat p/1/environ p/version 2>/dev/null", "")
}

/// From a shell with other mounts than the agent's nothing walks, and the user is told why: on standard
/// error, in the report, by `--no-fallback` and by `oswalk doctor`.
fn who_has_others_is_told(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("mounts others")?;
    write(&dir.join("a.c"), "int a;\n")?;
    let report = dir.join("report.json");
    let inside = |words: &[&str]| {
        let mut command = up.command("unshare");
        command.arg("-m").arg(up.dist.join("oswalk")).args(words).current_dir(&dir);
        Run::of(command, seconds(30))
    };
    let told = |run: &Run, text: &str| {
        let is_told = text.contains("other mounts than the agent (pid ")
            && text.contains("start both in one mount namespace");
        if is_told { Ok(()) } else { Err(format!("the cause is not named: {text:?}: {run}")) }
    };
    let gcc = ["sh", "-c", "gcc -c a.c && echo done"];
    let exec = ["exec", "--on", "n1", "--summary", "--report", "report.json"];
    let run = inside(&[&exec[..], &gcc].concat())?;
    told(&run, &run.err())?;
    let text = fs::read_to_string(&report).map_err(|error| format!("{error}: {run}"))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    told(&run, json["why_not"].as_str().unwrap_or_default())?;
    if !run.succeeded() || !run.err().contains(" other-mounts") {
        return Err(format!("the summary has no reason: {run}"));
    }
    let run = inside(&[&["exec", "--no-fallback"][..], &gcc].concat())?;
    told(&run, &run.err())?;
    if run.succeeded() || run.err().contains("oswalk: oswalk:") {
        return Err(format!("--no-fallback: {run}"));
    }
    let run = inside(&["doctor"])?;
    told(&run, &run.out())
}
