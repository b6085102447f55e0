//! Ordinary users of a machine whose agent is root's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("users::a_build_of_an_ordinary_user_walks", builds),
    ("users::nobody_reads_or_changes_what_is_others", others_files),
    ("users::a_command_is_explained", explained),
    ("users::a_descriptor_gives_no_more_on_a_node_than_here", descriptors),
    ("users::nobody_manages_an_agent_or_walks_in_a_session_of_others", others_sessions),
];

const LIMIT: std::time::Duration = seconds(30);
/// Two users without an entry in `/etc/passwd`.
pub(crate) const ANN: u32 = 4711;
pub(crate) const BEN: u32 = 4712;

/// Returns a directory of a user, where other users can read it but not write.
pub(crate) fn home(up: &Up, name: &str, uid: u32) -> Result<PathBuf, String> {
    let dir = up.fresh(&format!("users-{name}"))?;
    chown(&dir, Some(uid), Some(uid)).map_err(|error| error.to_string())?;
    Ok(dir)
}

/// Returns a command of a user in a directory. The user finds the agent by its door, since its state directory is root's.
pub(crate) fn of_user(up: &Up, uid: u32, dir: &Path, words: &[&str]) -> Result<Command, String> {
    let door = fs::read_link(up.state("origin").join("door")).map_err(|error| error.to_string())?;
    let mut command = up.command("setpriv");
    let id = uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).args(words);
    command
        .env_remove("OSWALK_STATE")
        .env_remove("OSWALK_POLICY")
        .env("OSWALK_DOOR", door)
        .current_dir(dir);
    Ok(command)
}

fn builds(lab: &Lab) -> Result<(), String> {
    const SETUP: &str = "umask 22; mkdir src; for i in 1 2 3 4 5 6; do echo \"int f$i(void) { return $i; }\" >src/f$i.c; done; \
        chmod 600 src/f1.c; chmod 700 src; printf 'all: %s\\n%%.o: src/%%.c\\n\\tgcc -c $< -o $@\\n' \"$(echo f1.o f2.o f3.o f4.o f5.o f6.o)\" >Makefile";
    let (up, _shared) = lab.shared()?;
    let (native, walked) = (home(up, "native", ANN)?, home(up, "walked", ANN)?);
    let report = walked.join("report.json");
    for dir in [&native, &walked] {
        run(of_user(up, ANN, dir, &["sh", "-c", SETUP])?)?;
    }
    run(of_user(up, ANN, &native, &["make", "-s", "-j6"])?)?;
    let report_name = report.display().to_string();
    let words = ["oswalk", "exec", "--report", &report_name, "--", "make", "-s", "-j6"];
    run(of_user(up, ANN, &walked, &words)?)?;
    for number in 1..=6 {
        let name = format!("f{number}.o");
        let [native, walked] = [&native, &walked].map(|dir| dir.join(&name));
        if fs::read(&native).ok() != fs::read(&walked).ok() {
            return Err(format!("{name} differs"));
        }
        let meta = fs::metadata(&walked).map_err(|error| error.to_string())?;
        if (meta.uid(), meta.gid(), meta.mode() & 0o7777) != (ANN, ANN, 0o644) {
            return Err(format!("{name}: {meta:?}"));
        }
    }
    let walks = Report::read(&report)?.walks;
    if walks.len() < 6 { Err(format!("these walked: {walks:?}")) } else { Ok(()) }
}

/// Runs a command that must succeed.
fn run(command: Command) -> Result<Run, String> {
    let run = Run::of(command, LIMIT)?;
    if run.succeeded() { Ok(run) } else { Err(run.to_string()) }
}

/// Natively and walked, a user is refused the same. Files that root may read stay readable for root's walks, whichever
/// came first.
fn others_files(lab: &Lab) -> Result<(), String> {
    const SCRIPT: &str = "cat shut/open; cat closed; ls searched; cat searched/open; cat listed/open; ls shut; \
        echo x >closed; rm open; mv open moved; mkdir shut/d; chmod 777 closed; ln -s x link; echo x >>open; stat -c %n:%a:%u shut closed";
    let (up, _shared) = lab.shared()?;
    let dir = home(up, "files", BEN)?;
    let make = |name: &str, mode: u32| {
        let path = dir.join(name);
        if mode & 0o111 == 0 { fs::write(&path, name) } else { fs::create_dir(&path) }
            .and_then(|()| chown(&path, Some(BEN), Some(BEN)))
            .and_then(|()| fs::set_permissions(&path, PermissionsExt::from_mode(mode)))
            .map_err(|error| error.to_string())
    };
    for (name, mode) in [("open", 0o644), ("closed", 0o600)] {
        make(name, mode)?;
    }
    for (name, mode) in [("shut", 0o700), ("searched", 0o711), ("listed", 0o744)] {
        make(name, mode)?;
        make(&format!("{name}/open"), 0o644)?;
    }
    let report = home(up, "files-report", ANN)?.join("report.json");
    let report_name = report.display().to_string();
    let exec = ["oswalk", "exec", "--walk-all", "--report", &report_name, "--", "sh", "-c", SCRIPT];
    let native = Run::of(of_user(up, ANN, &dir, &["sh", "-c", SCRIPT])?, LIMIT)?;
    let mut roots = up.exec_unreported();
    roots.args(["--walk-all", "--", "sh", "-c", "cat closed shut/open; ls shut"]).current_dir(&dir);
    for round in 0..3 {
        let walked = Run::of(of_user(up, ANN, &dir, &exec)?, LIMIT)?;
        if (walked.out(), walked.err(), walked.status)
            != (native.out(), native.err(), native.status)
        {
            return Err(format!("round {round}: natively {native}, walked {walked}"));
        }
        if Report::read(&report)?.walks.len() < 8 {
            return Err(format!("round {round}: too few have walked"));
        }
        let mut command = Command::new(roots.get_program());
        let set = roots.get_envs().filter_map(|(name, value)| Some((name, value?)));
        command.env_clear().envs(set).args(roots.get_args()).current_dir(&dir);
        let said = run(command)?.out();
        if said != "closedshut/openopen\n" {
            return Err(format!("round {round}: root's walks read '{said}'"));
        }
    }
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    if (read("closed"), read("open")) == ("closed".to_owned(), "open".to_owned()) {
        Ok(())
    } else {
        Err("a user has changed what is another's".to_owned())
    }
}

/// A descriptor that gives no right to read a file gives none on a node either, while the file's owner has a walk there.
fn descriptors(lab: &Lab) -> Result<(), String> {
    const WITHOUT_RIGHT: &str = "import os, sys; os.dup2(os.open(sys.argv[1], os.O_PATH), 0); os.execv('/usr/bin/cat', ['cat'])";
    let (up, _shared) = lab.shared()?;
    let (ann, ben) = (home(up, "owner", ANN)?, home(up, "descriptor", BEN)?);
    let secret = ann.join("secret");
    fs::write(&secret, "ann's secret\n")
        .and_then(|()| chown(&secret, Some(ANN), Some(ANN)))
        .and_then(|()| fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)))
        .map_err(|error| error.to_string())?;
    let exec = [
        "oswalk",
        "exec",
        "--on",
        "n1",
        "--walk",
        "cat",
        "--stay",
        "python3",
        "--no-fallback",
        "--",
    ];
    let reads = [&exec[..], &["sh", "-c", "cat secret; touch ready; cat"]].concat();
    let mut command = of_user(up, ANN, &ann, &reads)?;
    let (input, held) = std::io::pipe().map_err(|error| error.to_string())?;
    command.stdin(input);
    let owners = Run::start(command, None)?;
    crate::interrupts::wait_until("the owner reads", || ann.join("ready").exists())?;
    let secret = secret.display().to_string();
    let tries = [&exec[..], &["python3", "-c", WITHOUT_RIGHT, &secret]].concat();
    let others = Run::of(of_user(up, BEN, &ben, &tries)?, LIMIT);
    drop(held);
    let owners = owners.wait(LIMIT)?;
    let others = others?;
    if !owners.out().contains("ann's secret") {
        return Err(format!("the owner: {owners}"));
    }
    if others.succeeded() || others.out().contains("secret") {
        Err(others.to_string())
    } else {
        Ok(())
    }
}

/// What a command would be given is told to whoever asks, and nothing is executed.
fn explained(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = home(up, "explain", ANN)?;
    fs::write(dir.join("a.c"), "int a;\n").map_err(|error| error.to_string())?;
    let words = ["oswalk", "exec", "--explain", "gcc", "-c", "a.c"];
    let mut command = of_user(up, ANN, &dir, &words)?;
    command.env("MY_TOKEN", "secret");
    let said = run(command)?.out();
    let executed = dir.join("a.o").exists();
    if said.contains("MY_TOKEN") && said.contains("walk") && !executed { Ok(()) } else { Err(said) }
}

fn others_sessions(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let [ann, ben] = [("ann", ANN), ("ben", BEN)].map(|(name, uid)| home(up, name, uid));
    let (ann, ben) = (ann?, ben?);
    for words in [&["oswalk", "cluster", "invite"][..], &["oswalk", "cluster", "remove", "n1"]] {
        let refused = Run::of(of_user(up, ANN, &ann, words)?, LIMIT)?;
        if refused.succeeded() {
            return Err(format!("{words:?}: {refused}"));
        }
    }
    // Ben's programs are executed here with the page of Ann's session.
    let page = format!(
        "OSWALK_PAGE=$(readlink -f {0}/page) LD_PRELOAD=$(cat {0}/preload) gcc -c a.c -o a.o && ls -l a.o",
        ann.display()
    );
    let keeps = format!(
        "ln -s $OSWALK_PAGE page; echo $LD_PRELOAD >preload; cd {} && setpriv --version >/dev/null; exec sh -c 'touch {}/ready; read x'",
        ann.display(),
        ann.display()
    );
    let mut session = of_user(up, ANN, &ann, &["oswalk", "exec", "--", "sh", "-c", &keeps])?;
    let (input, held) = std::io::pipe().map_err(|error| error.to_string())?;
    session.stdin(input);
    let session = Run::start(session, None)?;
    crate::interrupts::wait_until("the session is open", || ann.join("ready").exists())?;
    fs::write(ben.join("a.c"), "int a;\n").map_err(|error| error.to_string())?;
    let ran = Run::of(of_user(up, BEN, &ben, &["sh", "-c", &page])?, LIMIT)?;
    drop(held);
    session.wait(LIMIT)?;
    if ran.succeeded() { Ok(()) } else { Err(format!("Ben's compiler: {ran}")) }
}
