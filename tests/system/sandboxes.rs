//! A sandbox serves one walk after the other, and nothing of a walk remains for the next.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Test;
use crate::lab::Lab;
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("sandboxes::nothing_of_a_walk_is_left_to_the_next", nothing_is_left),
    ("sandboxes::nothing_inherited_is_open", nothing_inherited),
    ("sandboxes::they_begin_as_new", as_new),
    ("sandboxes::they_serve_again", serve_again),
    ("sandboxes::what_meets_a_bound_runs_here", bounded),
    ("sandboxes::what_runs_out_of_memory_runs_here", out_of_memory),
    ("sandboxes::what_reaches_beyond_them_is_refused", reach_beyond),
];

/// Creates a message queue of the smallest size, since all queues of a user share one limit.
const QUEUE: &str = r#"
my $queue = syscall(240, my $name = 'left', 0302, 0600, my $least = pack 'q8', 0, 1, 1) < 0 ? "no queue: $!" : 'a queue of its own';
"#;

/// Prints what it finds of other walks, and leaves everything behind that outlives a program. It kills
/// itself, because a program that exits and leaves something is repeated at the origin.
const LEAVE: &str = r#"
use IPC::SysV qw(IPC_PRIVATE IPC_CREAT); $| = 1;
sub names { opendir my $d, $_[0]; join ' ', sort grep !/^\.\.?$/, readdir $d }
sub rows { open my $f, '<', "/proc/sysvipc/$_[0]"; my @l = <$f>; @l - 1 }
my @others = grep { /^\d+$/ && $_ != $$ && $_ != 1 } split ' ', names('/proc');
print join('|', names('/dev/shm'), names('/dev/pts'), rows('shm'), rows('sem'), rows('msg'), scalar @others,
    $queue, (stat '/dev/shm')[2] & 07777), "\n";
for my $id (shmget(IPC_PRIVATE, 100, 0600), semget(IPC_PRIVATE, 1, 0600), msgget(IPC_PRIVATE, 0600)) { die unless defined $id }
open F, ">", "/dev/shm/left" or die; close F;
chmod 0700, '/dev/shm';
kill KILL => $$ if fork; close STDOUT; close STDERR; sleep 100;
"#;

fn nothing_is_left(lab: &Lab) -> Result<(), String> {
    const WALKS: usize = 8;
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("sandboxes")?;
    let script = dir.join("leave.pl");
    std::fs::write(&script, format!("{QUEUE}{LEAVE}")).map_err(|error| error.to_string())?;
    let mut command = up.command("perl");
    command.args(["-e", &format!("{QUEUE} syscall(241, $name); print $queue")]);
    let queue = Run::of(command, seconds(30))?.out();
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    let each = "for i in $(seq \"$1\"); do perl leave.pl || :; done";
    // It must not be executed here, since it leaves things behind.
    command.args(["--on", "n1", "--walk", "perl", "--no-fallback", "--", "sh", "-c", each, "sh"]);
    command.arg(WALKS.to_string()).current_dir(&dir);
    let run = Run::of(command, seconds(60))?;
    if !run.succeeded() || !Report::read(&report)?.walked("perl") {
        return Err(format!("not all walked: {run}"));
    }
    let said = run.out();
    let lines: Vec<_> = said.lines().collect();
    let expected = format!("|ptmx|0|0|0|0|{queue}|1023");
    if lines.len() == WALKS && lines.iter().all(|&line| line == expected) {
        Ok(())
    } else {
        Err(format!("expected {expected:?}, found {lines:#?}"))
    }
}

/// Descriptors of the shell that started a runner's agent are not open in walks.
fn nothing_inherited(lab: &Lab) -> Result<(), String> {
    const LOOK: &str =
        "opendir D, '/proc/self/fd'; print join ' ', sort { $a <=> $b } grep /\\d/, readdir D";
    let (up, _alone) = lab.alone()?;
    up.restart_with_descriptors("n1")?;
    crate::nodes::all_join(up, &["n1"])?;
    let dir = up.fresh("inherited")?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    let line = "exec perl -e \"$1\" 9</dev/null";
    let bash = ["-c", line, "bash", LOOK];
    command.args(["--on", "n1", "--walk", "perl", "--", "bash"]).args(bash).current_dir(&dir);
    let walked = Run::of(command, seconds(30))?;
    if !walked.succeeded() || !Report::read(&report)?.walked("perl") {
        return Err(format!("the program did not walk: {walked}"));
    }
    // The tests themselves may have inherited further descriptors.
    let mut command = up.command("bash");
    command.args(bash);
    let native = Run::of(command, seconds(30))?;
    if walked.out() == native.out() {
        Ok(())
    } else {
        Err(format!("open in a walk: {}; natively: {}", walked.out(), native.out()))
    }
}

/// No user can make the system calls that walks are refused.
fn reach_beyond(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("beyond")?;
    for user in ["0", "1000"] {
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        // Not at the origin, where the calls would be allowed.
        command.args(["--walk", "forbidden", "--no-fallback", "--", "forbidden", user]);
        command.current_dir(&dir);
        let run = Run::of(command, seconds(30))?;
        if !run.succeeded() || run.out() != "tried\n" || !Report::read(&report)?.walked("forbidden")
        {
            return Err(format!("as {user}: {run}"));
        }
    }
    Ok(())
}

/// Changes that root makes to a sandbox are visible neither to later walks nor to others on the node.
fn as_new(lab: &Lab) -> Result<(), String> {
    const WALKS: usize = 10;
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("as-new")?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    let each = "for i in $(seq \"$1\"); do leave </dev/null; done";
    command.args(["--on", "n2", "--walk", "leave", "--no-fallback", "--", "sh", "-c", each, "sh"]);
    command.arg(WALKS.to_string()).current_dir(&dir);
    // The nodes of the lab share this machine's devices.
    let null = || {
        let null = std::fs::metadata("/dev/null").map_err(|error| error.to_string())?;
        Ok::<_, String>((null.mode(), null.uid(), null.gid(), null.mtime()))
    };
    let before = null()?;
    let run = Run::of(command, seconds(60))?;
    let after = null()?;
    if before != after {
        return Err(format!("the node's null device was {before:?} and is {after:?}"));
    }
    let said = run.out();
    let lines: Vec<_> = said.lines().collect();
    let walks = Report::read(&report)?.walks.len();
    if !run.succeeded() || (walks, lines.len()) != (WALKS, WALKS) {
        return Err(format!("{walks} programs walked: {run}"));
    }
    match lines.iter().find(|&line| line != &lines[0]) {
        Some(other) => Err(format!("one walk found {other:?}, the first {:?}", lines[0])),
        None => Ok(()),
    }
}

/// The checks that a sandbox is as new do not prevent an unchanged one from serving again.
fn serve_again(lab: &Lab) -> Result<(), String> {
    const WALKS: usize = 40;
    // Prints when the sandbox's first process started, which identifies the sandbox.
    const BEGAN: &str = "open F, '/proc/1/stat'; print ((split ' ', <F>)[21], qq(\\n)); open G, '>/dev/shm/x'; unlink '/dev/shm/x'";
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("again")?;
    let mut command = up.exec(&dir.join("report.json"));
    let each = "for i in $(seq \"$1\"); do perl -e \"$2\"; done";
    command.args(["--on", "n3", "--walk", "perl", "--no-fallback", "--", "sh", "-c", each, "sh"]);
    command.args([&WALKS.to_string(), BEGAN]).current_dir(&dir);
    let run = Run::of(command, seconds(60))?;
    let said = run.out();
    let mut sandboxes: Vec<_> = said.lines().collect();
    let walks = sandboxes.len();
    sandboxes.sort_unstable();
    sandboxes.dedup();
    // Other tests use the node, too, and may make it create further sandboxes.
    if run.succeeded() && walks == WALKS && sandboxes.len() <= WALKS / 2 {
        Ok(())
    } else {
        Err(format!("{walks} walks in {} sandboxes: {run}", sandboxes.len()))
    }
}

/// The result of a walk that hit a limit of its runner is discarded, and the program executed at the origin.
fn bounded(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("bounded")?;
    let report = dir.join("report.json");
    // One count above the limit in agent/src/sys/groups.rs, and one below.
    for (tasks, walks) in [("4500", false), ("1000", true)] {
        let mut command = up.exec(&report);
        command.args(["--walk", "tasks", "--", "tasks", tasks]).current_dir(&dir);
        let run = Run::of(command, seconds(60))?;
        let walked = Report::read(&report)?.walked("tasks");
        if !run.succeeded() || run.out() != format!("{tasks} made\n") || walked != walks {
            return Err(format!("walked: {walked}: {run}"));
        }
    }
    Ok(())
}

/// The same holds for a walk of which a process was killed for lack of memory. No test can fill the
/// machine's memory, so the limit of the sandboxes is lowered.
fn out_of_memory(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let dir = up.fresh("memory")?;
    let report = dir.join("report.json");
    let walk = |mebibytes: &str| -> Result<bool, String> {
        let mut command = up.exec(&report);
        command.args(["--on", "n1", "--walk", "tasks", "--", "tasks", "1", mebibytes]);
        command.current_dir(&dir);
        let run = Run::of(command, seconds(60))?;
        if run.succeeded() && run.out() == "1 made\n" {
            Ok(Report::read(&report)?.walked("tasks"))
        } else {
            Err(format!("with {mebibytes} MiB: {run}"))
        }
    };
    if !walk("200")? {
        return Err("the program does not walk with enough memory".into());
    }
    let pid = std::fs::read_to_string(up.state("n1").join("pid")).map_err(|e| e.to_string())?;
    let name = format!("oswalk-{}", pid.trim());
    let bounds = memory_bounds(Path::new("/sys/fs/cgroup"), &name);
    if bounds.is_empty() {
        eprintln!("sandboxes: no memory controller on this machine");
        return Ok(());
    }
    let failed = |error: std::io::Error| error.to_string();
    // What one walk passes to another counts for all.
    let of_all = bounds.iter().filter_map(|bound| bound.parent()?.parent().zip(bound.file_name()));
    let of_all: BTreeSet<_> = of_all.map(|(dir, name)| dir.join(name)).collect();
    for bound in of_all.iter().chain(&bounds) {
        let text = std::fs::read_to_string(bound).map_err(failed)?;
        if text.trim().parse::<u64>().map_or(true, |bytes| bytes > 1 << 60) && !is_of_agent(bound) {
            return Err(format!("{} bounds nothing: {text}", bound.display()));
        }
    }
    let mut before = Vec::new();
    for bound in &bounds {
        before.push((bound, std::fs::read(bound).map_err(failed)?));
        std::fs::write(bound, "64M").map_err(failed)?;
    }
    let (large, small) = (walk("200"), walk("10"));
    // Fails only for a sandbox that is gone.
    for (bound, value) in before {
        let _ = std::fs::write(bound, value);
    }
    match (large?, small?) {
        (false, true) => Ok(()),
        (large, small) => Err(format!("walked with 200 MiB: {large}, with 10 MiB: {small}")),
    }
}

/// Tells whether a bound of version 2 is that of an agent, or of it and its sandboxes.
fn is_of_agent(bound: &Path) -> bool {
    bound.parent().is_some_and(|dir| dir.ends_with("agent") || dir.join("agent").exists())
}

/// Returns the files with the memory limits of an agent's sandboxes, in either version of cgroups.
fn memory_bounds(dir: &Path, agent: &str) -> Vec<PathBuf> {
    let dirs = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir() && !path.is_symlink())
    };
    let groups = dirs(dir).flat_map(|path| {
        if path.ends_with(agent) {
            let names = ["memory.max", "memory.limit_in_bytes"];
            let files = dirs(&path).flat_map(|group| names.map(|name| group.join(name)));
            files.filter(|file| file.exists()).collect()
        } else {
            memory_bounds(&path, agent)
        }
    });
    groups.collect()
}
