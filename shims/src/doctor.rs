//! `oswalk doctor`: what this machine lacks, and the remedy.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use nix::sched::CloneFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};
use serde::Serialize;
use worknode::notice;
use worknode::request::{NodeCondition, NodeStatus, Status};

use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;
use crate::{places, process, say};

/// 1 January 2024: a clock before it was never set.
const SANE_AFTER: Duration = Duration::from_secs(1_704_067_200);
/// Each link, stub and walk needs some: a build of 64 jobs has about a thousand.
const DESCRIPTORS_MIN: u64 = 4096;
/// Directories that a walk has read are watched: those of a large tree and its toolchain.
const WATCHES_MIN: u64 = 65_536;
/// A toolchain's packets take 200 MB, and a commit needs room besides.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// The oldest kernel whose overlayfs, pidfds and close_range are as the agent needs them.
const KERNEL_MIN: (u32, u32) = (5, 11);

/// Check whether this machine can take part, and say what to do if not
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What a check found: what is well, or what is not and how to mend it.
type Finding = Result<String, Problem>;

/// Something that is not as it could be.
#[derive(Debug)]
struct Problem {
    text: String,
    remedy: String,
    /// It may well be meant, and is no failure.
    is_note: bool,
}

/// A finding, as it is printed in JSON.
#[derive(Debug, Serialize)]
struct Line<'a> {
    check: &'a str,
    ok: bool,
    text: &'a str,
    remedy: Option<&'a str>,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let checks = checks(places);
    if options.json {
        let lines: Vec<_> = checks.iter().map(|(check, finding)| line(check, finding)).collect();
        let text = serde_json::to_string_pretty(&lines);
        say::out(text.map_err(|error| Failure::from_error(&error))? + "\n")?;
    } else {
        for (name, finding) in &checks {
            say::out(match finding {
                Ok(text) => format!("ok    {name}: {text}\n"),
                Err(Problem { text, remedy, is_note }) => {
                    let word = if *is_note { "note" } else { "FAIL" };
                    format!("{word}  {name}: {text}\n      remedy: {remedy}\n")
                }
            })?;
        }
    }
    Ok(ExitCode::from(u8::from(checks.iter().any(|(_, finding)| has_failed(finding)))))
}

fn has_failed(finding: &Finding) -> bool {
    finding.as_ref().is_err_and(|problem| !problem.is_note)
}

fn line<'a>(check: &'a str, finding: &'a Finding) -> Line<'a> {
    match finding {
        Ok(text) => Line { check, ok: true, text, remedy: None },
        Err(Problem { text, remedy, is_note }) => {
            Line { check, ok: *is_note, text, remedy: Some(remedy) }
        }
    }
}

fn checks(places: &Places) -> Vec<(String, Finding)> {
    let door = Door::open(&places.door()).and_then(|mut door| door.status());
    let status = door.as_ref().ok();
    let broker_url = std::env::var("OSWALK_BROKER").ok().filter(|url| !url.is_empty());
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut checks = vec![
        ("kernel", kernel(&read("/proc/sys/kernel/osrelease"))),
        ("fuse", fuse()),
        ("overlayfs", overlayfs(&read("/proc/filesystems"))),
        ("namespaces", namespaces()),
        ("descriptors", descriptors(status.map(|status| status.pid))),
        ("inotify", inotify(&read("/proc/sys/fs/inotify/max_user_watches"))),
        ("redis", redis(status, places, broker_url.as_deref())),
        ("clock", clock(SystemTime::now())),
        ("shim", shim()),
    ];
    // Others see nothing of it, and need not.
    if geteuid().is_root() {
        checks.push(("state", state(&places.state)));
        checks.push(("disk", disk(&places.state)));
        checks.push(("secret", secret(status, places)));
    }
    match &door {
        Ok(status) => {
            checks.push(("agent", Ok(format!("{} answers (pid {})", status.node, status.pid))));
            checks.push(("door", closed(&places.door())));
            checks.push(("broker", broker(status)));
            checks.push(("versions", versions(status, env!("CARGO_PKG_VERSION"))));
            checks.push(("mounts", mounts(status)));
            checks.push(("nodes", others(status, places)));
        }
        Err(error) => checks.push(("agent", wrong(error.to_string(), error.hint()))),
    }
    let mut checks: Vec<_> =
        checks.into_iter().map(|(name, finding)| (name.to_owned(), finding)).collect();
    checks.extend(status.into_iter().flat_map(nodes));
    checks
}

fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Err(Problem { text: what.into(), remedy: remedy.into(), is_note: false })
}

/// What may be meant.
fn note(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Err(Problem { text: what.into(), remedy: remedy.into(), is_note: true })
}

/// Reads a kernel's release.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let release = release.trim();
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_MIN => {
            let (major, minor) = KERNEL_MIN;
            wrong(format!("it is {release}"), format!("boot Linux {major}.{minor} or newer"))
        }
        _ => Ok(release.to_owned()),
    }
}

/// The agent is root's: whether others may open the device is no matter.
fn fuse() -> Finding {
    const PATH: &str = "/dev/fuse";
    match fs::metadata(PATH) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => wrong(
            "/dev/fuse is missing",
            "load the module (modprobe fuse); in a container, pass the device (--device /dev/fuse)",
        ),
        Err(error) => wrong(format!("{PATH}: {error}"), "check the permissions of /dev"),
        Ok(meta) if !meta.file_type().is_char_device() => wrong(
            format!("{PATH} is no device"),
            "make it one: rm /dev/fuse, then mknod -m 666 /dev/fuse c 10 229",
        ),
        Ok(_) if !geteuid().is_root() => Ok("the device is there".to_owned()),
        Ok(_) => match fs::File::options().read(true).write(true).open(PATH) {
            Ok(_) => Ok("/dev/fuse can be opened".to_owned()),
            Err(error) => wrong(
                format!("/dev/fuse cannot be opened: {error}"),
                "load the module (modprobe fuse); in a container, allow the device (--device /dev/fuse)",
            ),
        },
    }
}

fn overlayfs(filesystems: &str) -> Finding {
    if filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        Ok("the kernel has it".to_owned())
    } else {
        wrong("the kernel does not list it".to_owned(), "load the module: modprobe overlay")
    }
}

fn namespaces() -> Finding {
    if !geteuid().is_root() {
        let all = ["mnt", "pid", "ipc", "uts"]
            .iter()
            .all(|name| access(&Path::new("/proc/self/ns").join(name), AccessFlags::F_OK).is_ok());
        return if all {
            Ok("the kernel has them".to_owned())
        } else {
            wrong("the kernel has not all of them", "boot a kernel with namespaces")
        };
    }
    match process::may_unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID) {
        Ok(()) => Ok("mount and pid namespaces can be created".to_owned()),
        Err(error) => wrong(
            format!("they cannot be created: {error}"),
            "in a container, give it CAP_SYS_ADMIN (--cap-add SYS_ADMIN), or run the agent outside",
        ),
    }
}

/// The limit of the agent that is up, or of one that would be started here.
fn descriptors(agent: Option<u32>) -> Finding {
    let limits = agent.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let of_agent = limits.as_deref().and_then(hard_limit);
    let own = || getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    let limit = of_agent.unwrap_or_else(own);
    if limit >= DESCRIPTORS_MIN {
        return Ok(format!("{limit} may be open"));
    }
    wrong(
        format!("{limit} may be open, and {DESCRIPTORS_MIN} may be needed"),
        "raise the limit before 'oswalk up' (ulimit -n 65536, or LimitNOFILE= of its service)",
    )
}

/// Returns the hard limit of descriptors in `/proc/PID/limits`.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn inotify(watches: &str) -> Finding {
    match watches.trim().parse::<u64>() {
        Ok(watches) if watches < WATCHES_MIN => wrong(
            format!("{watches} watches: directories beyond are read again for every walk"),
            "sysctl -w fs.inotify.max_user_watches=1048576, and the same in /etc/sysctl.d",
        ),
        Ok(watches) => Ok(format!("{watches} watches")),
        Err(_) => wrong("the kernel has no inotify", "boot a kernel with CONFIG_INOTIFY_USER"),
    }
}

/// An agent with a broker elsewhere needs none here; nor will one that is started with such a broker.
fn redis(status: Option<&Status>, places: &Places, broker_url: Option<&str>) -> Finding {
    let is_elsewhere = match status {
        Some(status) => !is_private(status, places),
        None => broker_url.is_some(),
    };
    match which::which("redis-server").or_else(|_| which::which("valkey-server")) {
        Ok(path) => Ok(path.display().to_string()),
        Err(_) if is_elsewhere => Ok("not needed: the broker is elsewhere".to_owned()),
        Err(_) => wrong(
            "neither redis-server nor valkey-server is in PATH",
            "install the package redis-server, or name a broker with --broker URL or OSWALK_BROKER",
        ),
    }
}

/// Tells whether the agent has started its broker itself: nobody else can join.
fn is_private(status: &Status, places: &Places) -> bool {
    status.broker.contains(&*places.state.to_string_lossy())
}

/// The state directory is its user's alone.
fn state(dir: &Path) -> Finding {
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(format!("{shown} is made by 'oswalk up'"))
        }
        Err(error) => wrong(format!("{shown}: {error}"), "choose another with --state DIR"),
        Ok(meta) if !meta.is_dir() => {
            wrong(format!("{shown} is no directory"), "choose another with --state DIR")
        }
        Ok(meta) if meta.uid() != geteuid().as_raw() => wrong(
            format!("{shown} belongs to user {}", meta.uid()),
            format!("end what uses it, then: chown -R root: {shown}"),
        ),
        Ok(meta) if meta.mode() & 0o022 != 0 => wrong(
            format!("{shown} can be written by others"),
            format!("see what is in it that is not yours, then: chmod 700 {shown}"),
        ),
        Ok(_) => Ok(format!("{shown} is closed to others")),
    }
}

fn disk(dir: &Path) -> Finding {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let shown = there.display();
    match statvfs(there) {
        Ok(found) => {
            let free = found.blocks_available() * found.fragment_size();
            let text = format!("{} MB are free at {shown}", free / 1_000_000);
            if free >= FREE_BYTES_MIN {
                Ok(text)
            } else {
                let needed = FREE_BYTES_MIN.div_ceil(1_000_000);
                wrong(
                    format!("{text}, and {needed} MB may be needed"),
                    "make room, or choose a state directory on another disk (--state DIR)",
                )
            }
        }
        Err(error) => wrong(format!("{shown}: {error}"), "choose another with --state DIR"),
    }
}

/// The agent refuses a secret that others can read, when it starts.
fn secret(status: Option<&Status>, places: &Places) -> Finding {
    let path = status.map(|status| status.settings.secret.clone());
    let path = path.unwrap_or_else(|| places.state.join("secret"));
    let shown = path.display();
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && status.is_none() => {
            Ok("'oswalk up' makes one, or takes that of --secret FILE".to_owned())
        }
        Err(error) => wrong(format!("{shown}: {error}"), "copy the cluster's secret there"),
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            wrong(format!("{shown} can be read by others"), format!("chmod 600 {shown}"))
        }
        Ok(_) => Ok(format!("{shown} is closed to others")),
    }
}

fn closed(door: &Path) -> Finding {
    let shown = door.display();
    match fs::metadata(door) {
        Ok(meta) if meta.mode() & 0o007 != 0 => wrong(
            format!("{shown} is open to all users: their builds run through this agent"),
            format!("if that is not meant: chmod 600 {shown}"),
        ),
        Ok(_) => Ok("it is closed to others".to_owned()),
        Err(error) => wrong(format!("{shown}: {error}"), "start the agent anew"),
    }
}

/// Programs of a shell with other mounts than the agent's mean other files by the same paths.
fn mounts(status: &Status) -> Finding {
    if !status.other_mounts {
        return Ok("this shell has those of the agent".to_owned());
    }
    let text = notice::other_mounts("this shell", status.pid);
    let (text, remedy) = text.split_once(": ").unwrap_or((&text, ""));
    wrong(format!("{text}: nothing walks from here"), remedy)
}

/// A cluster of one is as good as none.
fn others(status: &Status, places: &Places) -> Finding {
    const NONE: &str = "no other node: nothing will walk";
    let others = status.nodes.iter().filter(|node| node.node != status.node);
    let alive = others.filter(|node| node.state == NodeCondition::Alive).count();
    if !status.broker_up {
        return Ok("unknown while the broker does not answer".to_owned());
    }
    match alive {
        0 if is_private(status, places) => note(
            NONE,
            "its broker is private, and others cannot join: end the agent with 'oswalk down', and start \
             it with a broker that all nodes reach (--broker URL, or OSWALK_BROKER)",
        ),
        0 => note(NONE, "run 'oswalk up' with this broker on other machines"),
        1 => Ok("1 other node".to_owned()),
        alive => Ok(format!("{alive} other nodes")),
    }
}

/// What keeps nodes from taking walks. That one was taken down was meant.
fn nodes(status: &Status) -> Vec<(String, Finding)> {
    let others = status.nodes.iter().filter(|node| node.node != status.node);
    let not_alive = others.filter(|node| status.broker_up && node.state != NodeCondition::Alive);
    let finding = |node: &NodeStatus| {
        let why = node.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let remedy = node
            .remedy
            .clone()
            .unwrap_or_else(|| format!("see 'oswalk status' and 'oswalk doctor' on {}", node.node));
        let text = format!("it is {}{why}", node.state.name());
        let finding = if node.left { note(text, remedy) } else { wrong(text, remedy) };
        (format!("node {}", node.node), finding)
    };
    not_alive.map(finding).collect()
}

fn clock(now: SystemTime) -> Finding {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since > SANE_AFTER {
        Ok("it is set".to_owned())
    } else {
        wrong("it shows a time before 2024".to_owned(), "set it, best by NTP")
    }
}

fn shim() -> Finding {
    match places::shim() {
        Ok((preload, _)) => Ok(preload.display().to_string()),
        Err(_) => wrong(
            "the preload library or the stub is missing".to_owned(),
            "install OS Walk as a whole, or name their directory in OSWALK_LIBDIR",
        ),
    }
}

fn broker(status: &Status) -> Finding {
    if status.broker_up {
        Ok(format!("{} answers", status.broker))
    } else {
        wrong(
            format!("{} does not answer the agent", status.broker),
            "check that Redis runs there and that no firewall is between",
        )
    }
}

fn versions(status: &Status, own: &str) -> Finding {
    let there = status.nodes.iter().filter(|node| node.state != NodeCondition::Gone);
    let others = there.map(|node| (node.node.as_str(), node.version.as_str()));
    let mut all = std::iter::once(("this agent", status.version.as_str())).chain(others);
    match all.find(|(_, version)| *version != own) {
        None => Ok(format!("{own} everywhere")),
        Some((who, version)) => wrong(
            format!("oswalk is {own}, {who} is {version}"),
            "install one version on all nodes, then restart the agents ('oswalk down', 'oswalk up')",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings() {
        assert!(overlayfs("nodev\ttmpfs\nnodev\toverlay\n").is_ok());
        assert!(overlayfs("nodev\ttmpfs\n\text4\n").is_err());
        assert!(clock(SystemTime::now()).is_ok());
        assert!(clock(UNIX_EPOCH).is_err());
        assert!(kernel("5.11.0-generic\n").is_ok() && kernel("6.1\n").is_ok());
        assert!(kernel("5.10.0-9-amd64\n").is_err() && kernel("4.19\n").is_err());
        assert!(inotify("8\n").is_err() && inotify("1048576\n").is_ok());
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files  1024  524288  files\n";
        assert_eq!(hard_limit(limits), Some(524_288));
    }

    #[test]
    fn modes_of_the_state() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("state");
        assert!(state(&path).is_ok(), "it is made");
        fs::create_dir(&path).expect("mkdir");
        for (mode, is_sound) in [(0o700, true), (0o711, true), (0o770, false), (0o777, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            assert_eq!(state(&path).is_ok(), is_sound, "{mode:o}");
        }
        fs::write(path.join("door"), "").expect("writes");
        for (mode, is_sound) in [(0o600, true), (0o666, false)] {
            fs::set_permissions(path.join("door"), fs::Permissions::from_mode(mode))
                .expect("chmod");
            assert_eq!(closed(&path.join("door")).is_ok(), is_sound, "{mode:o}");
        }
        assert!(state(&path.join("door")).is_err());
    }

    #[test]
    fn a_private_broker_is_not_needed_where_another_is_named() {
        let places = Places { state: "/s".into() };
        let needed = |url| redis(None, &places, url);
        // Whether one is installed here is no matter: then nothing is wrong at all.
        assert!(needed(Some("redis://hub/")).is_ok());
        assert_eq!(needed(None).is_ok(), which::which("redis-server").is_ok());
    }

    fn status(nodes: Vec<NodeStatus>) -> Status {
        Status {
            node: "me".parse().expect("a sound name"),
            version: "0.1.0".to_owned(),
            pid: 7,
            listen: String::new(),
            broker: "redis+unix:///s/redis/socket".to_owned(),
            broker_up: true,
            settings: worknode::request::Settings::default(),
            sessions: 0,
            fuse: worknode::request::FuseCounts::default(),
            other_mounts: false,
            nodes,
        }
    }

    fn node(name: &str, state: NodeCondition, left: bool) -> NodeStatus {
        NodeStatus {
            node: name.parse().expect("a sound name"),
            address: ([10, 0, 0, 1], 7700).into(),
            version: "0.1.0".into(),
            slots: 1,
            running: 0,
            state,
            why: None,
            remedy: None,
            last_seen: 0,
            left,
        }
    }

    #[test]
    fn who_was_taken_down_is_no_failure() {
        let gone = |left| {
            let status = status(vec![node("n1", NodeCondition::Gone, left)]);
            let mut found = nodes(&status);
            found.pop().expect("one").1
        };
        assert!(gone(true).is_err() && !has_failed(&gone(true)));
        assert!(has_failed(&gone(false)));
        assert!(line("x", &gone(true)).ok && !line("x", &gone(false)).ok);
    }

    #[test]
    fn a_cluster_of_one_is_told() {
        let me = node("me", NodeCondition::Alive, false);
        let said = |status: &Status, state: &str| {
            let finding = others(status, &Places { state: state.into() });
            assert!(!has_failed(&finding));
            finding.unwrap_or_else(|it| format!("{}; {}", it.text, it.remedy))
        };
        let alone = status(vec![me.clone(), node("n1", NodeCondition::Gone, true)]);
        assert!(
            said(&alone, "/s")
                .starts_with("no other node: nothing will walk; its broker is private")
        );
        assert!(said(&alone, "/other").contains("'oswalk up' with this broker"));
        let two = status(vec![me, node("n1", NodeCondition::Alive, false)]);
        assert_eq!(said(&two, "/s"), "1 other node");
        assert!(mounts(&two).is_ok());
        let apart = Status { other_mounts: true, ..two };
        let problem = mounts(&apart).expect_err("other mounts");
        assert_eq!(problem.remedy, "start both in one mount namespace");
        assert!(problem.text.contains("other mounts than the agent (pid 7)"), "{}", problem.text);
    }
}
