//! Every exec is accounted for: each program that strace sees executed at the origin during a build is in
//! the report, as a walk or as a stay with its reason.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::Test;
use crate::cases::programs::{CARGO_PROJECT, CMAKE_PROJECT};
use crate::lab::{Lab, Up, root};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("coverage::lua", |lab| of(lab, "lua", Source::Fetched("lua"), "make -j4 linux")),
    ("coverage::cmake", |lab| {
        let build = "cmake -B build . && cmake --build build -j4 && build/main; test $? = 5";
        of(lab, "cmake", Source::Written(CMAKE_PROJECT), build)
    }),
    ("coverage::cargo", |lab| {
        of(lab, "cargo", Source::Written(CARGO_PROJECT), "CARGO_HOME=$PWD/home cargo build -j4")
    }),
];

/// Tests that take too long for every run: Redis has some 250 compile steps, here under strace.
pub(crate) const LONG: &[Test] = &[("coverage::redis", |lab| {
    let build = "make -j4 -C src all MALLOC=libc OPTIMIZATION=-O2 USE_SYSTEMD=no";
    of(lab, "redis", Source::Fetched("redis"), build)
})];

/// One exec in this many may be missing from the report.
const MISSING: usize = 1000;
const LIMIT: Duration = seconds(600);

/// The source of a project.
enum Source {
    /// `scripts/projects` fetches it under this name.
    Fetched(&'static str),
    /// This script writes it.
    Written(&'static str),
}

fn of(lab: &Lab, name: &str, source: Source, build: &str) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh(&format!("coverage-{name}"))?;
    let make = match source {
        Source::Fetched(project) => format!("cp -a {}/. .", fetched(project)?.display()),
        Source::Written(script) => script.to_owned(),
    };
    let mut command = up.command("sh");
    command.args(["-e", "-c", &make]).current_dir(&dir);
    succeeded(Run::of(command, LIMIT)?)?;

    let traces = up.fresh(&format!("coverage-{name}-traces"))?;
    let report = traces.with_extension("json");
    // One file for each process, so that nothing is interleaved.
    let mut command = up.command("strace");
    command.args(["-ff", "-qq", "-s", "4096", "-e", "trace=execve,execveat", "-e", "signal=none"]);
    command.arg("-o").arg(traces.join("trace")).arg(up.dist.join("oswalk"));
    command.args(["exec", "--on", "n1", "--report"]).arg(&report);
    command.args(["--", "sh", "-c", build]).current_dir(&dir);
    succeeded(Run::of(command, LIMIT)?)?;

    let executed = executed(up, &dir, &traces)?;
    let report = Report::read(&report)?;
    if report.walks.is_empty() {
        return Err("nothing walked".into());
    }
    compare(name, &executed, &report.counted())
}

fn succeeded(run: Run) -> Result<(), String> {
    if run.succeeded() { Ok(()) } else { Err(run.to_string()) }
}

/// Returns the directory of a project that `scripts/projects` fetches.
fn fetched(project: &str) -> Result<PathBuf, String> {
    let run = Run::of(Command::new(root().join("scripts/projects")), LIMIT)?;
    let said = run.out();
    let dir = said.lines().find_map(|line| line.strip_prefix(&format!("{project} ")));
    dir.map(PathBuf::from).ok_or(format!("scripts/projects: {run}"))
}

/// Number of executions by base name.
type Counts = BTreeMap<String, usize>;

/// Counts the programs executed in the session: the files that the kernel executed, and for each stub the
/// program that it stands for.
fn executed(up: &Up, dir: &Path, traces: &Path) -> Result<Counts, String> {
    let mut counts = Counts::new();
    let stub = up.dist.join("oswalk-stub");
    let failed = |error: std::io::Error| error.to_string();
    for trace in fs::read_dir(traces).map_err(failed)? {
        let text = fs::read(trace.map_err(failed)?.path()).map_err(failed)?;
        let text = String::from_utf8_lossy(&text);
        let execs: Vec<_> = text.lines().filter_map(Exec::parse).collect();
        for (index, exec) in execs.iter().enumerate() {
            let next = execs.get(index + 1);
            let own = exec.path == up.dist.join("oswalk");
            // A stub that then executes its program counts as one exec of that program.
            let is_stub = exec.path == stub;
            let home = is_stub && next.is_some_and(|next| next.is_home(exec));
            if own || home || !is_stub && !is_dynamic(&dir.join(&exec.path)) {
                continue;
            }
            let name = if is_stub { &exec.argv0 } else { &exec.path };
            *counts.entry(base(name)).or_default() += 1;
        }
    }
    Ok(counts)
}

/// A successful exec.
struct Exec {
    path: PathBuf,
    argv0: PathBuf,
}

impl Exec {
    /// Parses `execve("PATH", ["ARGV0", …], …) = 0` or `execveat(FD, "PATH", …`.
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_end().strip_suffix(" = 0")?;
        let mut quoted = line.split('"').skip(1).step_by(2);
        Some(Self { path: quoted.next()?.into(), argv0: quoted.next()?.into() })
    }

    /// Tells whether this is the program of the stub that was executed before it.
    fn is_home(&self, stub: &Self) -> bool {
        self.argv0 == stub.argv0
    }
}

/// Tells whether a program loads libraries, and so the preload library. The interpreter of a script does.
/// A file that no longer exists, such as a trial program of a configuration, counts as one.
fn is_dynamic(path: &Path) -> bool {
    let mut command = Command::new("readelf");
    command.arg("-lW").arg(path);
    match Run::of(command, LIMIT) {
        Ok(run) if run.succeeded() => run.out().contains("INTERP"),
        _ => true,
    }
}

fn base(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn compare(name: &str, executed: &Counts, reported: &Counts) -> Result<(), String> {
    let count = |counts: &Counts, name: &String| counts.get(name).copied().unwrap_or(0);
    let names: std::collections::BTreeSet<_> = executed.keys().chain(reported.keys()).collect();
    let (mut missing, mut invented, mut wrong) = (0, 0, Vec::new());
    for name in names {
        let (executed, reported) = (count(executed, name), count(reported, name));
        missing += executed.saturating_sub(reported);
        invented += reported.saturating_sub(executed);
        if executed != reported {
            wrong.push(format!("{name}: executed {executed}, reported {reported}"));
        }
    }
    let all: usize = executed.values().sum();
    eprintln!("coverage: {name}: {all} execs, {missing} not in the report");
    if missing * MISSING > all || invented > 0 { Err(wrong.join("\n")) } else { Ok(()) }
}
