//! `oswalk up`: starts the agent.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::fcntl::OFlag;
use worknode::id::NodeId;
use worknode::request::Status;

use crate::door::Door;
use crate::error::Failure;
use crate::places::{self, Places};
use crate::process;

/// An agent that is not up by then has a problem that its log tells.
const UP_MAX: Duration = Duration::from_secs(10);
/// It names programs, directories and nodes.
const LOG_MODE: u32 = 0o600;
const POLL: Duration = Duration::from_millis(20);

/// Start the agent of this machine
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Name of this node [default: the host name]
    #[arg(long)]
    name: Option<NodeId>,
    /// Where links from other agents arrive
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// Where other agents reach this one, if not at the --listen address
    #[arg(long, value_name = "ADDR:PORT")]
    advertise: Option<String>,
    /// Walks this node takes at once [default: its processors]
    #[arg(long, value_name = "COUNT")]
    slots: Option<u32>,
    /// Broker of the cluster: redis://[:password@]host:port/ or redis+unix:///path
    #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
    broker: Option<String>,
    /// File with the secret that all agents of the cluster share
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,
    /// Most bytes of packets kept on disk [default: 20 GiB]
    #[arg(long, value_name = "BYTES")]
    store_bytes: Option<u64>,
    /// Most memory for the changed files of one walk [default: a quarter of the machine's]
    #[arg(long, value_name = "BYTES")]
    upper_bytes: Option<u64>,
    /// Stay in the foreground, and log to standard error
    #[arg(long)]
    foreground: bool,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    if let Some(status) = status(places) {
        println!("agent {} is already up (pid {})", status.node, status.pid);
        return Ok(ExitCode::SUCCESS);
    }
    let agent = places::agent()?;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&places.state).map_err(|error| {
        let dir = places.state.display();
        Failure::new(format!("failed to create the state directory {dir}: {error}"))
            .hint("choose another with --state DIR")
    })?;
    let mut command = Command::new(&agent);
    command.args(options.for_agent()).arg("--state").arg(&places.state);
    if let Some(broker) = &options.broker {
        // Everybody may read a command line; the URL has a password in it.
        command.env("OSWALK_BROKER", broker);
    }
    if options.foreground {
        return Err(cannot_start(&agent, &command.exec()));
    }
    start(&agent, command, places)
}

impl Options {
    fn for_agent(&self) -> Vec<OsString> {
        let slots = self.slots.map(|slots| slots.to_string());
        let number = |number: Option<u64>| number.map(|number| number.to_string().into());
        let options: [(&str, Option<OsString>); 7] = [
            ("--name", self.name.as_ref().map(|name| name.as_str().into())),
            ("--listen", self.listen.clone().map(Into::into)),
            ("--advertise", self.advertise.clone().map(Into::into)),
            ("--slots", slots.map(Into::into)),
            ("--secret", self.secret.clone().map(Into::into)),
            ("--store-bytes", number(self.store_bytes)),
            ("--upper-bytes", number(self.upper_bytes)),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.flat_map(|(name, value)| [name.into(), value]).collect()
    }
}

fn start(agent: &Path, mut command: Command, places: &Places) -> Result<ExitCode, Failure> {
    let log_path = places.log();
    let log = open_log(&log_path);
    let log = log.and_then(|log| Ok((log.try_clone()?, log))).map_err(|error| {
        Failure::new(format!("failed to open the log {}: {error}", log_path.display()))
    })?;
    command.stdin(Stdio::null()).stdout(log.0).stderr(log.1);
    process::detach(&mut command);
    let mut child = command.spawn().map_err(|error| cannot_start(agent, &error))?;
    let deadline = Instant::now() + UP_MAX;
    while Instant::now() < deadline {
        if let Some(status) = status(places) {
            println!("agent {} is up at {} (pid {})", status.node, status.listen, status.pid);
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(_)) = child.try_wait() {
            let line = last_line(&log_path);
            return Err(Failure::new(format!("the agent ended at once: {line}"))
                .hint(format!("its log is {}", log_path.display())));
        }
        std::thread::sleep(POLL);
    }
    let seconds = UP_MAX.as_secs();
    Err(Failure::new(format!("the agent does not answer within {seconds} s"))
        .hint(format!("its log is {}; 'oswalk doctor' checks this machine", log_path.display())))
}

fn open_log(path: &Path) -> io::Result<fs::File> {
    let mut options = OpenOptions::new();
    let log =
        options.create(true).append(true).mode(LOG_MODE).custom_flags(OFlag::O_NOFOLLOW.bits());
    let log = log.open(path)?;
    // One of an earlier version.
    log.set_permissions(fs::Permissions::from_mode(LOG_MODE))?;
    Ok(log)
}

fn status(places: &Places) -> Option<Status> {
    Door::open(&places.door()).ok()?.status().ok()
}

fn cannot_start(agent: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("failed to start {}: {error}", agent.display()))
}

fn last_line(path: &Path) -> String {
    let log = fs::read(path).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("(no log)").to_owned()
}
