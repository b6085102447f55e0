//! `scripts/install`: what it installs works, and uninstalling leaves nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::lab::{Lab, Up, root};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] =
    &[("installation::leaves_nothing", leaves_nothing), ("installation::wrong_use", wrong_use)];

const LIMIT: std::time::Duration = seconds(30);

/// A user with a home directory and a state directory.
struct User<'a> {
    up: &'a Up,
    dir: PathBuf,
}

impl User<'_> {
    fn run(&self, program: &Path, arguments: &[&str]) -> Result<Run, String> {
        let mut command = self.up.inside("n3", &program.display().to_string());
        command.args(arguments);
        Run::of(self.as_user(command), LIMIT)
    }

    fn as_user(&self, mut command: Command) -> Command {
        command.env("HOME", self.dir.join("home")).env("OSWALK_STATE", self.dir.join("state"));
        command.env_remove("OSWALK_LIBDIR");
        command
    }

    fn install(&self, arguments: &[&str]) -> Result<Run, String> {
        self.run(&root().join("scripts/install"), arguments)
    }

    fn succeeds(run: Run) -> Result<Run, String> {
        if run.succeeded() { Ok(run) } else { Err(run.to_string()) }
    }
}

/// Returns all files below a directory.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.insert(entry.path());
        found.extend(files(&entry.path()));
    }
    found
}

fn leaves_nothing(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let user = User { up, dir: up.fresh("installation")? };
    let home = user.dir.join("home");
    std::fs::create_dir_all(home.join(".local/share/fish")).map_err(|error| error.to_string())?;
    let before = files(&home);
    // The second is an upgrade.
    User::succeeds(user.install(&["--user", "--dist", &up.dist.display().to_string()])?)?;
    let installed = files(&home);
    User::succeeds(user.install(&["--user", "--dist", &up.dist.display().to_string()])?)?;
    if files(&home) != installed {
        return Err(format!("an upgrade changes the files: {installed:#?}, {:#?}", files(&home)));
    }
    let oswalk = home.join(".local/bin/oswalk");
    let started = User::succeeds(user.run(&oswalk, &["up", "--name", "installed"])?)?;
    let kept = User::succeeds(user.install(&["--user", "--uninstall"])?)?;
    let has_ended = !user.dir.join("state/door").exists();
    if files(&home) != before || !has_ended || !kept.out().contains("--purge") {
        return Err(format!("{started}\n{kept}\nleft: {:#?}", files(&home)));
    }
    User::succeeds(user.install(&["--user", "--dist", &up.dist.display().to_string()])?)?;
    User::succeeds(user.install(&["--user", "--uninstall", "--purge"])?)?;
    let left: Vec<_> = files(&user.dir).into_iter().filter(|file| !before.contains(file)).collect();
    if left == [home] { Ok(()) } else { Err(format!("left: {left:#?}")) }
}

fn wrong_use(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let user = User { up, dir: up.fresh("installation-wrong")? };
    for (arguments, words) in [
        (&["--uninstall", "--user"][..], "nothing of OS Walk was installed"),
        (&["--prefix", "opt"], "not an absolute path"),
        (&["--prefix", "/opt/a b"], "a space or a colon"),
        (&["--purge"], "--purge is for --uninstall"),
        (&["--user", "--dist", "/nowhere"], "run scripts/build"),
        (&["--prefix"], "needs a value"),
        (&["install"], "unknown argument 'install'"),
    ] {
        let run = user.install(arguments)?;
        if run.succeeded() || !run.err().contains(words) {
            return Err(format!("{arguments:?}: {run}"));
        }
    }
    let left = files(&user.dir);
    if left.is_empty() { Ok(()) } else { Err(format!("left: {left:#?}")) }
}
