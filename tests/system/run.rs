//! Runs a command within a time limit, and collects its output.

use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// Interval at which a running process is polled.
const POLL: Duration = Duration::from_millis(5);
/// How long to wait for the end of the output after the process has exited.
const OUTPUT: Duration = seconds(5);
/// Most characters of an output that are shown.
const SHOWN_MAX: usize = 2000;

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A command that has exited.
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) took: Duration,
}

impl Run {
    /// Runs a command in its own process group. If it takes longer than `limit`, it is killed, and an
    /// error is returned.
    pub(crate) fn of(command: Command, limit: Duration) -> Result<Self, String> {
        Self::start(command, None)?.wait(limit)
    }

    /// Starts a command; a thread writes `stdin` to it, if given.
    pub(crate) fn start(mut command: Command, stdin: Option<Vec<u8>>) -> Result<Started, String> {
        let shown = format!("{command:?}");
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        if stdin.is_some() {
            command.stdin(Stdio::piped());
        }
        let began = Instant::now();
        let mut child =
            command.spawn().map_err(|error| format!("failed to start {shown}: {error}"))?;
        let stdout = collect(child.stdout.take().expect("is piped"));
        let stderr = collect(child.stderr.take().expect("is piped"));
        if let (Some(bytes), Some(mut pipe)) = (stdin, child.stdin.take()) {
            thread::spawn(move || pipe.write_all(&bytes));
        }
        Ok(Started { child, stdout, stderr, began, shown })
    }

    pub(crate) fn succeeded(&self) -> bool {
        self.status.success()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (status, took) = (ending(self.status), self.took.as_secs_f64());
        write!(f, "{status} after {took:.2} s\n{}{}", shown(&self.stdout), shown(&self.stderr))
    }
}

/// A running command.
pub(crate) struct Started {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    began: Instant,
    shown: String,
}

impl Started {
    /// Sends a signal to the command's process group.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process_group(pid, signal);
        }
    }

    /// Returns the pid of the command.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for the command to exit.
    pub(crate) fn wait(mut self, limit: Duration) -> Result<Run, String> {
        let deadline = self.began + limit;
        loop {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            if let Some(status) = ended {
                let took = self.began.elapsed();
                let all = |output: &Receiver<_>| output.recv_timeout(OUTPUT);
                let (Ok(stdout), Ok(stderr)) = (all(&self.stdout), all(&self.stderr)) else {
                    self.signal(Signal::KILL);
                    return Err(format!("{}: exited, but its output stays open", self.shown));
                };
                return Ok(Run { status, stdout, stderr, took });
            }
            if Instant::now() >= deadline {
                let left = standing(self.child.id());
                self.signal(Signal::KILL);
                let _ = self.child.wait();
                let said = |output: &Receiver<_>| output.recv_timeout(OUTPUT).unwrap_or_default();
                let said = [said(&self.stdout), said(&self.stderr)].concat();
                return Err(format!(
                    "{} hangs: killed after {limit:?}\n{}{left}",
                    self.shown,
                    shown(&said)
                ));
            }
            thread::sleep(POLL);
        }
    }
}

/// Returns a line for each process of a group, with the system call in which it waits.
fn standing(group: u32) -> String {
    let read = |pid: &str, name: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
    };
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let names = pids.filter_map(|entry| entry.file_name().into_string().ok());
    let line = |pid: String| {
        let stat = read(&pid, "stat");
        // The fields after the name: state, parent, group.
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(1);
        let parent = fields.next()?;
        (fields.next()? == group.to_string()).then(|| {
            let (command, call) = (read(&pid, "cmdline").replace('\0', " "), read(&pid, "syscall"));
            format!("{pid} (child of {parent}) {command}: {} {call}", read(&pid, "wchan"))
        })
    };
    names.filter_map(line).collect()
}

/// Describes an exit status.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no ending".to_owned(),
    }
}

/// Returns the beginning of an output.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let text = bytes
        .escape_ascii()
        .to_string()
        .replace("\\n", "\n")
        .replace("\\\'", "'")
        .replace("\\\"", "\"");
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}… ({} bytes)\n", &text[..end], bytes.len()),
        None => text,
    }
}

/// Collects an output in a thread, so that the command never waits for this process.
fn collect(mut pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (bytes_tx, bytes_rx) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        let _ = bytes_tx.send(bytes);
    });
    bytes_rx
}
