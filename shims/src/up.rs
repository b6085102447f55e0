//! `oswalk up`: starts the agent.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::fcntl::OFlag;
use nix::unistd::geteuid;
use worknode::broker_url::without_password;
use worknode::id::NodeId;
use worknode::request::{STORE_BYTES_MIN, Status, UPPER_BYTES_MIN};

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::{self, Places};
use crate::{process, say};

/// Longest wait for the agent to answer.
const UP_MAX: Duration = Duration::from_secs(10);
/// The log names programs, directories and nodes, so only its user may read it.
const LOG_MODE: u32 = 0o600;
const POLL: Duration = Duration::from_millis(20);
/// Most of the log that is searched for the error of an agent that ended at once.
const LOG_BYTES_MAX: u64 = 64 * 1024;

/// Start the agent of this machine
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Name of this node [default: the host name]
    #[arg(long)]
    name: Option<NodeId>,
    /// Address to accept links from other agents on [default: 127.0.0.1, any port]
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Address at which other agents reach this one, if not that of --listen
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    advertise: Option<SocketAddr>,
    /// Walks that this node executes at once [default: the number of its processors]
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, value_parser = count)]
    slots: Option<u32>,
    /// Broker of the cluster: redis://[:password@]host:port/ or redis+unix:///path
    #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
    broker: Option<String>,
    /// File with the secret that all agents of the cluster share
    #[arg(long, value_name = "FILE")]
    secret: Option<PathBuf>,
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
    /// Run in the foreground, and log to standard error
    #[arg(long)]
    foreground: bool,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    match Door::open(&places.door()).and_then(|mut door| door.status()) {
        Ok(status) => return options.compare(&status),
        Err(DoorError::NoAgent { .. }) => {}
        Err(error) => return Err(Failure::from_error(&error).hint(error.hint())),
    }
    if !may_mount(&fs::read_to_string("/proc/self/status").unwrap_or_default()) {
        return Err(cannot_mount(geteuid().is_root()));
    }
    options.belongs_to_a_cluster(places)?;
    let agent = places::agent()?;
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(&places.state).map_err(|error| {
        let dir = places.state.display();
        Failure::new(format!("failed to create the state directory {dir}: {error}"))
            .hint("choose another with --state DIR")
    })?;
    let mut command = Command::new(&agent);
    command.args(options.for_agent()).arg("--state").arg(&places.state);
    match options.broker() {
        // The URL may contain a password, and everybody can read a command line.
        Some(broker) => command.env("OSWALK_BROKER", broker),
        None => command.env_remove("OSWALK_BROKER"),
    };
    if options.foreground {
        return Err(cannot_start(&agent, &command.exec()));
    }
    let started = start(&agent, command, places)?;
    if options.broker().is_none() {
        say::err(
            "note: the cluster is private, so no other machine can join it; name a broker with --broker URL",
        );
    }
    Ok(started)
}

impl Options {
    /// Succeeds if the agent that is up has the settings that were asked for.
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
        // Port 0 stands for any port.
        let at = |asked: Option<SocketAddr>, is: &str| {
            let is: Option<SocketAddr> = is.parse().ok();
            let same = |asked: &SocketAddr| {
                is.is_some_and(|is| asked.port() == 0 && is.ip() == asked.ip())
            };
            asked.filter(|asked| !same(asked)).map(|asked| asked.to_string())
        };
        let path = |path: &Path| path.display().to_string();
        let secret = self.secret.as_deref();
        let secret = secret.map(|asked| path(&asked.canonicalize().unwrap_or(asked.to_owned())));
        compare("version", status.version.clone(), Some(env!("CARGO_PKG_VERSION").to_owned()));
        compare("--name", status.node.to_string(), self.name.as_ref().map(NodeId::to_string));
        compare("--listen", status.listen.clone(), at(self.listen, &status.listen));
        compare("--advertise", settings.advertise.clone(), at(self.advertise, &settings.advertise));
        compare("--slots", settings.slots.to_string(), self.slots.map(|slots| slots.to_string()));
        compare("--broker", status.broker.clone(), self.broker().map(without_password));
        compare("--secret", path(&settings.secret), secret);
        let number = |number: Option<u64>| number.map(|number| number.to_string());
        compare("--store-bytes", settings.store_bytes.to_string(), number(self.store_bytes));
        compare("--upper-bytes", settings.upper_bytes.to_string(), number(self.upper_bytes));
        found
    }

    /// Refuses a broker elsewhere without an address that other nodes reach, or without a shared secret:
    /// such an agent could join no cluster.
    pub(crate) fn belongs_to_a_cluster(&self, places: &Places) -> Result<(), Failure> {
        let Some(broker) = self.broker().filter(|url| is_elsewhere(url)) else { return Ok(()) };
        let has_address = self.listen.is_some() || self.advertise.is_some();
        let has_secret = self.secret.is_some() || places.state.join("secret").exists();
        let (what, hint) = match (has_address, has_secret) {
            (true, true) => return Ok(()),
            (false, true) => (
                "--listen: no other node could call it",
                "give --listen ADDRESS, an address of this machine that other nodes can reach",
            ),
            (true, false) => (
                "--secret: no other node would trust it",
                "give --secret FILE, the same on all nodes",
            ),
            (false, false) => (
                "--listen and --secret: no other node could call it or would trust it",
                "give --listen ADDRESS, an address of this machine that other nodes can reach, and --secret FILE, the same on all nodes",
            ),
        };
        let url = without_password(broker);
        Err(Failure::new(format!(
            "the broker {url} serves a cluster, which this agent cannot join without {what}"
        ))
        .hint(hint))
    }

    /// Returns the broker that was named. An empty variable names none.
    fn broker(&self) -> Option<&str> {
        self.broker.as_deref().filter(|url| !url.is_empty())
    }

    fn for_agent(&self) -> Vec<OsString> {
        let slots = self.slots.map(|slots| slots.to_string());
        let number = |number: Option<u64>| number.map(|number| number.to_string().into());
        let options: [(&str, Option<OsString>); 7] = [
            ("--name", self.name.as_ref().map(|name| name.as_str().into())),
            ("--listen", self.listen.map(|address| address.to_string().into())),
            ("--advertise", self.advertise.map(|address| address.to_string().into())),
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
            let Status { node, listen, pid, .. } = status;
            say::out(format_args!("agent {node} is up at {listen} (pid {pid})\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let Ok(Some(ended)) = child.try_wait() {
            let said = last_words(&log_path, written_before);
            let said = said.unwrap_or_else(|| format!("it printed nothing ({ended})"));
            return Err(ended_at_once(&said, &log_path));
        }
        std::thread::sleep(POLL);
    }
    Err(silent(&log_path))
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

fn open_log(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let log =
        options.create(true).append(true).mode(LOG_MODE).custom_flags(OFlag::O_NOFOLLOW.bits());
    let log = log.open(path)?;
    // An earlier version may have created it with another mode.
    log.set_permissions(PermissionsExt::from_mode(LOG_MODE))?;
    Ok(log)
}

fn status(places: &Places) -> Option<Status> {
    Door::open(&places.door()).ok()?.status().ok()
}

pub(crate) fn cannot_start(agent: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("failed to start {}: {error}", agent.display()))
        .hint("check that it is an executable oswalkd, or install OS Walk again")
}

/// Returns the failure to start an agent without CAP_SYS_ADMIN. In a container even root may lack it.
pub(crate) fn cannot_mount(is_root: bool) -> Failure {
    if is_root {
        Failure::new(
            "an agent needs CAP_SYS_ADMIN, to mount and to create namespaces, but root lacks it here",
            )
            .hint("in a container, add it (--cap-add SYS_ADMIN), or run the agent outside; without an agent, builds run here")
    } else {
        Failure::new("an agent needs root on this machine, to mount and to create namespaces")
            .hint("run 'oswalk up' as root; without an agent, builds run here")
    }
}

/// Tells from `/proc/self/status` whether this process has CAP_SYS_ADMIN, which an agent needs to
/// start.
fn may_mount(status: &str) -> bool {
    const SYS_ADMIN: u32 = 21;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    effective.is_none_or(|bits| bits & (1 << SYS_ADMIN) != 0)
}

/// Returns the message of an agent that ended, from the part of the log behind `written_before`.
fn last_words(path: &Path, written_before: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let end = log.metadata().ok()?.len();
    log.seek(SeekFrom::Start(written_before.max(end.saturating_sub(LOG_BYTES_MAX)))).ok()?;
    let mut text = Vec::new();
    log.take(LOG_BYTES_MAX).read_to_end(&mut text).ok()?;
    message(&String::from_utf8_lossy(&text))
}

/// Returns the message of the last line that reports an error, or else the last line.
fn message(log: &str) -> Option<String> {
    let mut lines = log.lines().filter(|line| !line.trim().is_empty()).rev();
    // Reports of a wrong option, lines of the log (time and module precede the message), and panics.
    let failed = lines.clone().find_map(|line| {
        let usage = line.strip_prefix("error: ");
        let logged = line.split_once(" ERROR ").map(|(_, rest)| {
            let module = rest.split_once(": ").filter(|(module, _)| !module.contains(' '));
            module.map_or(rest, |(_, message)| message)
        });
        usage.or(logged).or_else(|| line.starts_with("thread '").then_some(line))
    });
    failed.or_else(|| lines.next()).map(|line| line.trim().to_owned())
}

/// The port of an address without one.
const PORT: u16 = 7700;

/// Parses an address of the command line.
fn address(text: &str) -> Result<SocketAddr, String> {
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

/// Tells whether a broker is on another machine.
fn is_elsewhere(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let authority = rest.rsplit_once('@').map_or(rest, |(_credentials, host)| host);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _port)) => host,
        None => authority.split_once(':').map_or(authority, |(host, _port)| host),
    };
    let is_here = host.parse().map_or(host == "localhost", |ip: IpAddr| ip.is_loopback());
    !(scheme.contains("unix") || host.is_empty() || is_here)
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
        status.settings.secret = "/no/such/secret".into();
        status.settings.store_bytes = 1 << 30;
        let words = std::iter::once("up").chain(line.split_whitespace());
        Line::try_parse_from(words).expect("sound options").options.differences(&status)
    }

    #[test]
    fn settings_of_an_agent_are_compared_with_the_options() {
        let nothing: [&str; 0] = [];
        assert_eq!(differences(""), nothing);
        assert_eq!(
            differences("--name n1 --slots 4 --listen 10.0.0.11 --secret /no/such/secret"),
            nothing
        );
        assert_eq!(differences("--listen 10.0.0.11:0 --broker redis://:pw@hub:6379/"), nothing);
        assert_eq!(
            differences("--name n2 --slots 8 --listen 10.0.0.12:0 --store-bytes 67108864"),
            [
                "--name is n1, not n2",
                "--listen is 10.0.0.11:7700, not 10.0.0.12:0",
                "--slots is 4, not 8",
                "--store-bytes is 1073741824, not 67108864",
            ]
        );
        assert_eq!(
            differences("--broker redis://:secret@other/ --secret /other"),
            [
                "--broker is redis://hub:6379/, not redis://other/",
                "--secret is /no/such/secret, not /other",
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
    fn where_a_broker_is() {
        for (url, expected) in [
            ("redis://hub:6379/", true),
            ("redis://:p@10.0.0.4", true),
            ("redis://[fd00::1]:6379/", true),
            ("redis://[::1]:6379/", false),
            ("redis://:p@127.0.0.1:6379/", false),
            ("redis://localhost/1", false),
            ("redis+unix:///run/r.sock", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_elsewhere(url), expected, "{url}");
        }
        assert_eq!(without_password("redis://:a/b#c@hub:6379/?x"), "redis://hub:6379/");
        assert_eq!(without_password("redis+unix:///r.sock?pass=x"), "redis+unix:///r.sock");
    }

    #[test]
    fn root_without_its_rights_is_not_told_to_become_root() {
        let said = |is_root| cannot_mount(is_root).message().to_owned();
        assert!(said(true).contains("CAP_SYS_ADMIN") && said(false).contains("needs root"));
    }

    #[test]
    fn who_may_start_an_agent() {
        assert!(may_mount("Uid:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_mount("CapEff:\t0000000000000000\n"));
        assert!(!may_mount("CapEff:\t000001ffffdfffff\n"));
    }

    #[test]
    fn the_message_of_a_log() {
        for (log, expected) in [
            ("", None),
            ("one\ntwo\n\n", Some("two")),
            (
                "2026-01-01T00:00:00.0Z  INFO oswalk_agent::agent: ready\n\
                 2026-01-01T00:00:00.1Z ERROR oswalk_agent: failed to listen on x: in use\n",
                Some("failed to listen on x: in use"),
            ),
            (
                "error: invalid value 'x' for '--name <NAME>': bad\n\nFor more information, try '--help'.\n",
                Some("invalid value 'x' for '--name <NAME>': bad"),
            ),
            (
                "thread 'main' panicked at a.rs:1:\noops\nnote: run\n",
                Some("thread 'main' panicked at a.rs:1:"),
            ),
        ] {
            assert_eq!(message(log).as_deref(), expected);
        }
    }
}
