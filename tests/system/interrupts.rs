//! Interrupts: a program that the user ends, ends on all nodes.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::run::{Run, ending, seconds};

pub(crate) const ALL: &[Test] = &[
    ("interrupts::ctrl_c_ends_all_walks", |lab| interrupted(lab, "int", Signal::INT)),
    ("interrupts::term_ends_all_walks", |lab| interrupted(lab, "term", Signal::TERM)),
    ("interrupts::kill_ends_all_walks", |lab| interrupted(lab, "kill", Signal::KILL)),
    ("interrupts::ctrl_c_on_a_terminal", on_a_terminal),
    ("interrupts::ctrl_c_reaches_the_program", reaches_the_program),
];

const LIMIT: Duration = seconds(10);
const POLL: Duration = Duration::from_millis(20);

/// Waits until a condition holds.
pub(crate) fn wait_until(what: &str, holds: impl FnMut() -> bool) -> Result<(), String> {
    wait_longer(LIMIT, what, holds)
}

/// Waits until a condition holds, up to a limit.
pub(crate) fn wait_longer(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> bool,
) -> Result<(), String> {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("{what}: not within {limit:?}"));
        }
        thread::sleep(POLL);
    }
    Ok(())
}

/// Returns the processes on this machine, including those of the nodes, whose command lines contain the
/// word.
pub(crate) fn processes(word: &str) -> Vec<String> {
    let own = std::process::id().to_string();
    let lines = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let pid = entry.file_name().to_string_lossy().into_owned();
        let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (pid != own && pid.parse::<u32>().is_ok() && line.contains(word))
            .then(|| format!("{pid} {line}"))
    });
    lines.collect()
}

/// Returns a program that prints when it runs, and then sleeps. Its command line contains the word.
fn sleeper(word: &str) -> String {
    format!("perl -e '$|=1; print qq(up\\n); sleep 100; # {word}'")
}

fn interrupted(lab: &Lab, name: &str, signal: Signal) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh(&format!("interrupted-{name}"))?;
    let word = format!("oswalk-{name}-{}", std::process::id());
    let script = format!("{} >one | {} >two", sleeper(&word), sleeper(&word));
    let started = start(up, &dir, &script)?;
    wait_until("the walks run", || ["one", "two"].iter().all(|file| visible(&dir.join(file))))?;
    started.signal(signal);
    let run = started.wait(LIMIT)?;
    if run.succeeded() {
        return Err(format!("interrupted, but the command ended so: {run}"));
    }
    let gone = wait_until("all processes are gone", || processes(&word).is_empty());
    gone.map_err(|error| format!("{error}: {:#?}", processes(&word)))
}

fn visible(path: &Path) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == b"up\n")
}

fn start(up: &Up, dir: &Path, script: &str) -> Result<crate::run::Started, String> {
    let mut command = up.exec(&dir.join("report.json"));
    command.args(["--walk-all", "--", "sh", "-c", script]).current_dir(dir);
    Run::start(command, None)
}

/// Ctrl-C at a terminal: `script` provides a pseudo-terminal, whose line discipline sends the signal.
fn on_a_terminal(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("terminal")?;
    let word = format!("oswalk-terminal-{}", std::process::id());
    let run = |walked: bool| {
        let file = dir.join(if walked { "walked" } else { "native" });
        let exec = if walked { "oswalk exec --walk-all -- " } else { "" };
        let program = format!("{} >{}", sleeper(&word), file.display());
        fs::write(dir.join("job"), program).map_err(|error| error.to_string())?;
        let mut command = up.command("/usr/bin/python3");
        command
            .args(["-c", TERMINAL])
            .arg(&file)
            .arg(format!("{exec}sh {}", dir.join("job").display()));
        Run::of(command, LIMIT).map(|run| (ending(run.status), run.out()))
    };
    let (native, walked) = (run(false)?, run(true)?);
    wait_until("all processes are gone", || processes(&word).is_empty())
        .map_err(|error| format!("{error}: {:#?}", processes(&word)))?;
    if native == walked { Ok(()) } else { Err(format!("native {native:?}, walked {walked:?}")) }
}

const TERMINAL: &str = r"
import os, pty, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp('sh', ['sh', '-c', 'exec ' + sys.argv[2]])
until = time.time() + 8
while time.time() < until and not (os.path.exists(sys.argv[1]) and os.path.getsize(sys.argv[1])):
    time.sleep(0.02)
os.write(fd, b'\x03')
said = b''
try:
    while True:
        part = os.read(fd, 1000)
        if not part: break
        said += part
except OSError:
    pass
print(os.waitpid(pid, 0)[1], said)
";

/// A program's signal handler runs on the node.
fn reaches_the_program(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let dir = up.fresh("handler")?;
    let script = "trap '' INT; perl -e '$SIG{INT}=sub{print qq(caught\\n); exit 7}; $|=1; print qq(up\\n); sleep 100' >out; echo $? >status";
    let started = start(up, &dir, script)?;
    wait_until("the walk runs", || visible(&dir.join("out")))?;
    started.signal(Signal::INT);
    started.wait(LIMIT)?;
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    let (out, status) = (read("out"), read("status"));
    if out == "up\ncaught\n" && status == "7\n" {
        Ok(())
    } else {
        Err(format!("out {out:?}, status {status:?}"))
    }
}
