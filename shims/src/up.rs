//! `oswalk up`: starts the agent.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sched::CloneFlags;
use nix::unistd::geteuid;
use worknode::id::NodeId;
use worknode::request::{Retention, STORE_BYTES_MIN, Status, UPPER_BYTES_MIN};

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::{self, Places};
use crate::service::{self, Keeper};
use crate::{log, process, say};

pub(crate) use crate::log::last_message;

/// Longest wait for the agent to answer.
const UP_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Start the agent of this machine
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Name of this node, if it belongs to no cluster [default: the host name]
    #[arg(long)]
    name: Option<NodeId>,
    #[command(flatten)]
    agent: AgentOptions,
    /// Run in the foreground, and log to standard error
    #[arg(long)]
    foreground: bool,
}

/// What an agent may use of its machine.
#[derive(Debug, Args)]
pub(crate) struct AgentOptions {
    /// Walks that this node executes at once [default: the number of its processors]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = count)]
    slots: Option<u32>,
    /// Most bytes of packets kept on disk, such as 20G [default: 20 GiB]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true,
        value_parser = |text: &str| bytes(text, STORE_BYTES_MIN))]
    store_bytes: Option<u64>,
    /// Most memory for the changed files of one walk, and for those that all walks of this machine
    /// have sent back [default: a quarter of the machine's memory,
    /// divided by --slots; 512 MiB where that is less]
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true,
        value_parser = |text: &str| bytes(text, UPPER_BYTES_MIN))]
    upper_bytes: Option<u64>,
    /// How long the volume keeps its past: all of it, full hours, and days, such as 24h,7d,90d [default: 24h,7d,90d]
    #[arg(long, value_name = "ALL,HOURLY,DAILY")]
    keep: Option<Retention>,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    if let Some(status) = running(places)? {
        return options.compare(&status);
    }
    check_rights()?;
    let agent = places::agent()?;
    places.make()?;
    let mut command = options.agent.command(&agent, places);
    command.args(options.name.iter().flat_map(|name| ["--name", name.as_str()]));
    if options.foreground {
        return Err(cannot_start(&agent, &command.exec()));
    }
    let has_options = options.name.is_some() || !options.agent.for_agent().is_empty();
    let started = start_by(Keeper::find(&agent, places, has_options), &agent, command, places)?;
    if !places.is_member() {
        say::err(
            "note: this node belongs to no cluster, so nothing walks; make one with 'oswalk cluster init', or join one with \
             'oswalk cluster join'",
        );
    }
    Ok(started)
}

/// Returns the status of the agent that runs, if one does. One that is about to end is waited for.
fn running(places: &Places) -> Result<Option<Status>, Failure> {
    let deadline = Instant::now() + UP_MAX;
    loop {
        match Door::open(&places.own_door()).and_then(|mut door| door.status()) {
            Ok(status) => return Ok(Some(status)),
            Err(DoorError::NoAgent { .. }) => return Ok(None),
            Err(error) if error.is_end() && Instant::now() < deadline => thread::sleep(POLL),
            Err(error) => return Err(Failure::from_error(&error).hint(error.hint())),
        }
    }
}

/// Starts the agent of a node that belongs to a cluster, as it was when it joined.
pub(crate) fn start(places: &Places) -> Result<ExitCode, Failure> {
    let agent = places::agent()?;
    let mut command = Command::new(&agent);
    command.arg("--state").arg(&places.state);
    start_by(Keeper::find(&agent, places, false), &agent, command, places)
}

/// Has systemd start the agent, or starts it by this command.
fn start_by(
    keeper: Keeper,
    agent: &Path,
    command: Command,
    places: &Places,
) -> Result<ExitCode, Failure> {
    if keeper == Keeper::Nobody {
        return start_with(agent, command, places);
    }
    let started = service::start(keeper).and_then(|()| {
        // The unit is started when the agent is ready.
        status(places).ok_or_else(|| service::silent(keeper))
    });
    let status = started.inspect_err(|_| service::stop(keeper))?;
    say_up(&status)?;
    service::say_kept(keeper);
    Ok(ExitCode::SUCCESS)
}

/// Succeeds if this process may start an agent. Root mounts by itself; others do in a user namespace of their own.
pub(crate) fn check_rights() -> Result<(), Failure> {
    if geteuid().is_root() {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        return if may_mount(&status) { Ok(()) } else { Err(cannot_mount()) };
    }
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    device.map_err(|error| cannot_open_fuse(&error))?;
    process::may_unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|error| cannot_unshare(&error))
}

impl AgentOptions {
    fn command(&self, agent: &Path, places: &Places) -> Command {
        let mut command = Command::new(agent);
        command.arg("--state").arg(&places.state).args(self.for_agent());
        command
    }

    pub(crate) fn for_agent(&self) -> Vec<OsString> {
        let options = [
            ("--slots", self.slots.map(u64::from)),
            ("--store-bytes", self.store_bytes),
            ("--upper-bytes", self.upper_bytes),
        ];
        let given = options.into_iter().filter_map(|(name, number)| Some((name, number?)));
        let numbers = given.map(|(name, number)| (name, number.to_string()));
        let keep = self.keep.map(|keep| ("--keep", keep.to_string()));
        numbers.chain(keep).flat_map(|(name, value)| [name.into(), value.into()]).collect()
    }
}

impl Options {
    /// Succeeds if the running agent has the settings that were asked for.
    pub(crate) fn compare(&self, status: &Status) -> Result<ExitCode, Failure> {
        let (node, pid) = (&status.node, status.pid);
        let other = self.differences(status);
        if other.is_empty() {
            say::out(format_args!("agent {node} is already up (pid {pid})\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        let other = other.join(", ");
        Err(Failure::new(format!(
            "agent {node} is already up (pid {pid}) with other settings: {other}"
        ))
        .hint("end it with 'oswalk down', which moves its walks elsewhere; then run this again"))
    }

    /// Returns the settings that differ from those asked for.
    fn differences(&self, status: &Status) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |name: &str, is: String, asked: Option<String>| {
            if let Some(asked) = asked.filter(|asked| *asked != is) {
                found.push(format!("{name} is {is}, not {asked}"));
            }
        };
        let settings = &status.settings;
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        compare("version", status.version.clone(), Some(env!("CARGO_PKG_VERSION").to_owned()));
        compare("--name", status.node.to_string(), self.name.as_ref().map(NodeId::to_string));
        let AgentOptions { slots, store_bytes, upper_bytes, keep } = self.agent;
        compare("--slots", settings.slots.to_string(), number(slots.map(u64::from)));
        compare("--store-bytes", settings.store_bytes.to_string(), number(store_bytes));
        compare("--upper-bytes", settings.upper_bytes.to_string(), number(upper_bytes));
        compare("--keep", settings.keep.to_string(), keep.map(|keep| keep.to_string()));
        found
    }
}

fn start_with(agent: &Path, mut command: Command, places: &Places) -> Result<ExitCode, Failure> {
    let log_path = places.log();
    let log = log::open(&log_path);
    let log = log.and_then(|log| Ok((log.metadata()?.len(), log.try_clone()?, log)));
    let (written_before, out, err) = log.map_err(|error| {
        Failure::new(format!("failed to open the log {}: {error}", log_path.display()))
            .hint("choose another state directory with --state DIR")
    })?;
    command.stdin(Stdio::null()).stdout(out).stderr(err);
    process::detach(&mut command);
    let mut child = command.spawn().map_err(|error| cannot_start(agent, &error))?;
    let deadline = Instant::now() + UP_MAX;
    while Instant::now() < deadline {
        if let Some(status) = status(places) {
            return say_up(&status);
        }
        if let Ok(Some(ended)) = child.try_wait() {
            let said = log::last_words(&log_path, written_before);
            let said = said.unwrap_or_else(|| format!("it printed nothing ({ended})"));
            return Err(ended_at_once(&said, &log_path));
        }
        thread::sleep(POLL);
    }
    Err(silent(&log_path))
}

fn say_up(status: &Status) -> Result<ExitCode, Failure> {
    let Status { node, listen, pid, .. } = status;
    let at = listen.as_ref().map(|listen| format!(" at {listen}")).unwrap_or_default();
    say::out(format_args!("agent {node} is up{at} (pid {pid})\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Returns the failure of an agent that ended while it started.
pub(crate) fn ended_at_once(said: &str, log: &Path) -> Failure {
    Failure::new(format!("the agent ended at once: {said}"))
        .hint(format!("its log is {}", log.display()))
}

/// Returns the failure of an agent that runs but does not answer.
pub(crate) fn silent(log: &Path) -> Failure {
    let seconds = UP_MAX.as_secs();
    Failure::new(format!("the agent does not answer within {seconds} s"))
        .hint(format!("its log is {}; 'oswalk doctor' checks this machine", log.display()))
}

fn status(places: &Places) -> Option<Status> {
    Door::open(&places.own_door()).ok()?.status().ok()
}

pub(crate) fn cannot_start(agent: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("failed to start {}: {error}", agent.display()))
        .hint("check that it is an executable oswalkd, or install OS Walk again")
}

/// Returns the failure of root to start an agent without CAP_SYS_ADMIN, which it may lack in a container.
pub(crate) fn cannot_mount() -> Failure {
    Failure::new(
        "an agent needs CAP_SYS_ADMIN, to mount and to create namespaces, but root lacks it here",
    )
    .hint("in a container, add it (--cap-add SYS_ADMIN), or run the agent outside; without an agent, builds run here")
}

/// Returns the failure of an ordinary user to use FUSE.
pub(crate) fn cannot_open_fuse(error: &io::Error) -> Failure {
    Failure::new(format!("an agent needs /dev/fuse, which cannot be opened: {error}"))
        .hint("ask an administrator for 'chmod 666 /dev/fuse' (a udev rule keeps it), or to run 'oswalk up' as root: root's agent serves all users")
}

/// Returns the failure of an ordinary user to make a user namespace.
pub(crate) fn cannot_unshare(error: &io::Error) -> Failure {
    Failure::new(format!("an agent of an ordinary user needs user namespaces, which cannot be made: {error}"))
        .hint("ask an administrator to allow them (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns), or to run 'oswalk up' as root: root's agent serves all users")
}

/// Tells from `/proc/self/status` whether this process has CAP_SYS_ADMIN, which an agent needs to
/// start.
fn may_mount(status: &str) -> bool {
    const SYS_ADMIN: u32 = 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_none_or(|bits| bits & (1 << SYS_ADMIN) != 0)
}

/// The port of an address without one.
const PORT: u16 = 7700;

/// Parses an address of the command line.
pub(crate) fn address(text: &str) -> Result<SocketAddr, String> {
    let alone = || Some(SocketAddr::new(text.parse::<IpAddr>().ok()?, PORT));
    let found = text.parse().ok().or_else(alone);
    found.ok_or_else(|| format!("write IP:PORT, or IP alone for port {PORT}"))
}

/// Parses a number of slots.
fn count(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "write a number, such as 4".to_owned())
}

/// Parses a number of bytes, KiB, MiB, GiB or TiB.
fn bytes(text: &str, least: u64) -> Result<u64, String> {
    const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
    let plain = text.strip_suffix("iB").unwrap_or(text);
    let unit = UNITS.iter().find_map(|&(unit, shift)| Some((plain.strip_suffix(unit)?, shift)));
    let (digits, shift) = match unit {
        Some(found) => found,
        None => (text, 0),
    };
    let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    let number =
        number.ok_or("write a number of bytes, or a number with K, M, G or T, such as 20G")?;
    if number < least { Err(format!("it must be at least {}M", least >> 20)) } else { Ok(number) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn differences(line: &str) -> Vec<String> {
        let mut status = crate::examples::cluster();
        status.settings.store_bytes = 1 << 30;
        let words = std::iter::once("up").chain(line.split_whitespace());
        Line::try_parse_from(words).expect("sound options").options.differences(&status)
    }

    #[test]
    fn settings_of_an_agent_are_compared_with_the_options() {
        let nothing: [&str; 0] = [];
        assert_eq!(differences(""), nothing);
        assert_eq!(differences("--name n1 --slots 4"), nothing);
        assert_eq!(
            differences("--name n2 --slots 8 --store-bytes 67108864"),
            [
                "--name is n1, not n2",
                "--slots is 4, not 8",
                "--store-bytes is 1073741824, not 67108864",
            ]
        );
    }

    #[test]
    fn numbers_of_bytes() {
        for (text, expected) in [
            ("67108864", Some(67_108_864)),
            ("64M", Some(67_108_864)),
            ("20G", Some(20 << 30)),
            ("20GiB", Some(20 << 30)),
            ("1T", Some(1 << 40)),
            ("63M", None),
            ("20GB", None),
            ("G", None),
            ("iB", None),
            ("-5", None),
            ("99999999999T", None),
        ] {
            assert_eq!(bytes(text, STORE_BYTES_MIN).ok(), expected, "{text}");
        }
        assert!(bytes("20 GB", 0).expect_err("a space").contains("such as 20G"));
    }

    #[test]
    fn who_may_start_an_agent() {
        assert!(may_mount("Uid:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_mount("CapEff:\t0000000000000000\n"));
        assert!(!may_mount("CapEff:\t000001ffffdfffff\n"));
    }
}
