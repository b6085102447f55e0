//! `oswalk doctor`: checks this machine and its agent, and names a remedy for each problem.

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
use nix::unistd::geteuid;
use serde::Serialize;
use worknode::notice;
use worknode::request::{NodeCondition, NodeStatus, Status};

use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;
use crate::{places, process, say};

/// 1 January 2024: a clock that shows an earlier time is not set.
const SANE_AFTER: Duration = Duration::from_secs(1_704_067_200);
/// Descriptors that the agent needs: each link, stub and walk takes some, a build of 64 jobs about a
/// thousand.
const DESCRIPTORS_MIN: u64 = 4096;
/// Watches for the directories of a large tree and its toolchain: the agent watches each directory that
/// a walk has read.
const WATCHES_MIN: u64 = 65_536;
/// Free disk space: the packets of a toolchain take 200 MB, and commits need room besides.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// The first number that walks' users have on a node (packetfs/src/owners.rs).
const WALKS_USER: u64 = 0x7800_0000;
/// The oldest kernel with the overlayfs, pidfds and close_range that the agent needs.
const KERNEL_MIN: (u32, u32) = (5, 11);

/// Check whether this machine can take part, and say what to do if not
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The result of a check: what is well, or what is not and how to mend it.
type Finding = Result<String, Problem>;

/// A problem that a check found.
#[derive(Debug)]
struct Problem {
    text: String,
    remedy: String,
    /// It may be intended, and is not a failure.
    is_note: bool,
}

/// A finding, as printed in JSON.
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
            say::out(shown(name, finding))?;
        }
    }
    Ok(ExitCode::from(u8::from(checks.iter().any(|(_, finding)| has_failed(finding)))))
}

/// Returns a finding as it is printed.
fn shown(name: &str, finding: &Finding) -> String {
    match finding {
        Ok(text) => format!("ok    {name}: {text}\n"),
        Err(Problem { text, remedy, is_note }) => {
            let word = if *is_note { "note" } else { "FAIL" };
            format!("{word}  {name}: {text}\n      remedy: {remedy}\n")
        }
    }
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
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut checks = vec![
        ("kernel", kernel(&read("/proc/sys/kernel/osrelease"))),
        ("fuse", fuse(Path::new("/dev/fuse"))),
        ("overlayfs", overlayfs(&read("/proc/filesystems"))),
        ("namespaces", namespaces()),
        ("descriptors", descriptors(status.map(|status| status.pid))),
        ("inotify", inotify(&read("/proc/sys/fs/inotify/max_user_watches"))),
        ("redis", redis(status)),
        ("clock", clock(SystemTime::now())),
        ("shim", shim()),
    ];
    if status.is_some() && is_anothers(&places.door()) {
        // What walks need is the business of that agent.
        checks.retain(|(check, _)| !matches!(*check, "fuse" | "namespaces"));
    }
    // Other users cannot see these, and need not.
    if geteuid().is_root() {
        let made = process::may_unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET);
        checks.push(("users", users(made, &read("/proc/self/uid_map"))));
        checks.push(("state", state(&places.state)));
        checks.push(("disk", disk(&places.state)));
        checks.push(("cluster", cluster(&places.state)));
    }
    match &door {
        Ok(status) => {
            checks.push(("agent", Ok(format!("{} answers (pid {})", status.node, status.pid))));
            checks.push(("door", served(&places.door())));
            checks.push(("broker", broker(status)));
            checks.push(("versions", versions(status, env!("CARGO_PKG_VERSION"))));
            checks.push(("mounts", mounts(status)));
            checks.push(("nodes", others(status)));
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

/// Makes a finding that may be intended.
fn note(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Err(Problem { text: what.into(), remedy: remedy.into(), is_note: true })
}

/// Checks the kernel's release.
fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let release = release.trim();
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < KERNEL_MIN => {
            let (major, minor) = KERNEL_MIN;
            wrong(format!("{release} is too old"), format!("boot Linux {major}.{minor} or later"))
        }
        _ => Ok(release.to_owned()),
    }
}

/// Checks the device. Only root must be able to open it, since the agent runs as root.
/// Tells whether a door is that of another user's agent.
fn is_anothers(door: &Path) -> bool {
    fs::metadata(door).is_ok_and(|door| door.uid() != geteuid().as_raw())
}

fn fuse(device: &Path) -> Finding {
    let shown = device.display();
    match fs::metadata(device) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => wrong(
            format!("{shown} is missing"),
            "load the module (modprobe fuse); in a container, pass the device (--device /dev/fuse)",
        ),
        Err(error) => wrong(format!("{shown}: {error}"), "check the permissions of /dev"),
        Ok(meta) if !meta.file_type().is_char_device() => wrong(
            format!("{shown} is not a device"),
            format!("create the device: rm {shown}, then mknod -m 666 {shown} c 10 229"),
        ),
        Ok(_) => match fs::File::options().read(true).write(true).open(device) {
            Ok(_) if !geteuid().is_root() && !has_program("fusermount3") => note(
                format!(
                    "{shown} can be opened, but 'oswalk mount' of an ordinary user needs fusermount3"
                ),
                "install the package fuse3, if this user's agent is to mount a volume",
            ),
            Ok(_) => Ok(format!("{shown} can be opened")),
            Err(error) => wrong(
                format!("{shown} cannot be opened: {error}"),
                format!(
                    "load the module (modprobe fuse); allow the device: 'chmod 666 {shown}' for users other than root, \
                     --device /dev/fuse for a container"
                ),
            ),
        },
    }
}

/// Tells whether a program is in a directory of `PATH`.
fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

fn overlayfs(filesystems: &str) -> Finding {
    if filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        Ok("the kernel supports it".to_owned())
    } else {
        wrong("/proc/filesystems does not list it", "load the module: modprobe overlay")
    }
}

fn namespaces() -> Finding {
    let of_users =
        if geteuid().is_root() { CloneFlags::empty() } else { CloneFlags::CLONE_NEWUSER };
    let all = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    creation(process::may_unshare(of_users | all))
}

fn creation(of_namespaces: io::Result<()>) -> Finding {
    match of_namespaces {
        Ok(()) => Ok("mount and pid namespaces can be created".to_owned()),
        Err(error) => wrong(
            format!("mount and pid namespaces cannot be created: {error}"),
            "for users other than root, allow user namespaces (sysctl user.max_user_namespaces, \
             kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); in a container, add \
             CAP_SYS_ADMIN (--cap-add SYS_ADMIN), or run the agent outside",
        ),
    }
}

/// Checks that walks can have a user namespace, and a network of their own.
fn users(made: io::Result<()>, map: &str) -> Finding {
    let has_number = |line: &str| {
        let mut numbers = line.split_whitespace().flat_map(str::parse::<u64>);
        let first = numbers.next()?;
        Some((first..first + numbers.nth(1)?).contains(&WALKS_USER))
    };
    match made {
        Err(error) => wrong(
            format!(
                "user and network namespaces cannot be created: {error}; this node takes no walks"
            ),
            "run 'sysctl -w user.max_user_namespaces=65536 user.max_net_namespaces=65536', and set the same \
             in /etc/sysctl.d; in a container, allow its root to call unshare",
        ),
        Ok(()) if !map.lines().any(|line| has_number(line) == Some(true)) => wrong(
            "this container has no numbers for the users of walks; this node takes none",
            format!("run the agent outside, or map the numbers from {WALKS_USER} on"),
        ),
        Ok(()) => Ok("walks have users of their own".to_owned()),
    }
}

/// Checks the limit of the agent that is up, or of one that would be started from here.
fn descriptors(agent: Option<u32>) -> Finding {
    let limits = agent.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/limits")).ok());
    let of_agent = limits.as_deref().and_then(hard_limit);
    let own = || getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(_, hard)| hard);
    enough_descriptors(of_agent.unwrap_or_else(own))
}

fn enough_descriptors(limit: u64) -> Finding {
    if limit >= DESCRIPTORS_MIN {
        return Ok(format!("{limit} may be open"));
    }
    wrong(
        format!("only {limit} may be open; a large build needs {DESCRIPTORS_MIN}"),
        "raise the limit before 'oswalk up' (ulimit -n 65536, or LimitNOFILE= of its service)",
    )
}

/// Returns the hard limit of open descriptors from `/proc/PID/limits`.
fn hard_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn inotify(watches: &str) -> Finding {
    match watches.trim().parse::<u64>() {
        Ok(watches) if watches < WATCHES_MIN => wrong(
            format!(
                "only {watches} watches: directories without one are read again for every walk"
            ),
            "run 'sysctl -w fs.inotify.max_user_watches=1048576', and set the same in /etc/sysctl.d",
        ),
        Ok(watches) => Ok(format!("{watches} watches")),
        Err(_) => wrong("the kernel has no inotify", "boot a kernel with CONFIG_INOTIFY_USER"),
    }
}

/// Checks for a Redis server, which only an agent with a broker of its own needs.
fn redis(status: Option<&Status>) -> Finding {
    let is_elsewhere = status.is_some_and(|status| !status.broker.contains("unix"));
    let server = which::which("redis-server").or_else(|_| which::which("valkey-server"));
    redis_server(server.ok().as_deref(), is_elsewhere)
}

fn redis_server(server: Option<&Path>, is_elsewhere: bool) -> Finding {
    match server {
        Some(path) => Ok(path.display().to_string()),
        None if is_elsewhere => Ok("not needed: the broker is elsewhere".to_owned()),
        None => wrong(
            "neither redis-server nor valkey-server is in PATH",
            "install the package redis-server (or valkey-server), or join a cluster, whose broker is elsewhere",
        ),
    }
}

/// Checks that only its user can write the state directory.
fn state(dir: &Path) -> Finding {
    let shown = dir.display();
    match fs::metadata(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(format!("'oswalk up' will create {shown}"))
        }
        Err(error) => wrong(format!("{shown}: {error}"), "choose another with --state DIR"),
        Ok(meta) if !meta.is_dir() => {
            wrong(format!("{shown} is not a directory"), "choose another with --state DIR")
        }
        Ok(meta) if meta.uid() != geteuid().as_raw() => wrong(
            format!("{shown} belongs to user {}", meta.uid()),
            format!("end what uses it, then run 'chown -R root: {shown}'"),
        ),
        Ok(meta) if meta.mode() & 0o022 != 0 => wrong(
            format!("other users can write {shown}"),
            format!("remove what is not yours from it, then run 'chmod 700 {shown}'"),
        ),
        Ok(_) => Ok(format!("other users cannot write {shown}")),
    }
}

fn disk(dir: &Path) -> Finding {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let shown = there.display();
    match statvfs(there) {
        Ok(found) => enough_space(found.blocks_available() * found.fragment_size(), there),
        Err(error) => wrong(format!("{shown}: {error}"), "choose another with --state DIR"),
    }
}

fn enough_space(free: u64, dir: &Path) -> Finding {
    let text = format!("{} MB are free at {}", free / 1_000_000, dir.display());
    if free >= FREE_BYTES_MIN {
        return Ok(text);
    }
    let needed = FREE_BYTES_MIN.div_ceil(1_000_000);
    wrong(
        format!("only {text}; packets and commits may need {needed} MB"),
        "free some space, or choose a state directory on another disk (--state DIR)",
    )
}

/// Checks the node's key, by which it is known in its cluster. An agent does not start with one that others can write.
fn cluster(state: &Path) -> Finding {
    let dir = state.join("cluster");
    let path = dir.join("key");
    let shown = path.display();
    if !dir.exists() {
        let remedy = "make one with 'oswalk cluster init', or join one with 'oswalk cluster join'";
        return note("this node belongs to no cluster", remedy);
    }
    match fs::metadata(&path) {
        Err(error) => wrong(
            format!("{shown}: {error}"),
            "run 'oswalk cluster leave', then join again with a line from 'oswalk cluster invite'",
        ),
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            wrong(format!("other users can read {shown}"), format!("run 'chmod 600 {shown}'"))
        }
        Ok(_) => Ok("this node has a key, which other users cannot read".to_owned()),
    }
}

/// Checks that only those can connect to the agent whom it can serve: root's serves all users, others their own.
fn served(door: &Path) -> Finding {
    let shown = door.display();
    match fs::metadata(door) {
        Ok(meta) if meta.uid() != 0 && meta.mode() & 0o007 != 0 => wrong(
            format!("other users can connect to {shown}, which belongs to user {}", meta.uid()),
            format!("run 'chmod 600 {shown}'"),
        ),
        Ok(meta) if meta.mode() & 0o006 == 0o006 => {
            Ok("all users of this machine can use the agent".to_owned())
        }
        Ok(_) => Ok("only its own user can use the agent".to_owned()),
        Err(error) => wrong(format!("{shown}: {error}"), "run 'oswalk down', then 'oswalk up'"),
    }
}

/// Checks that this shell sees the agent's mounts. With others, its paths may name other files.
fn mounts(status: &Status) -> Finding {
    if !status.other_mounts {
        return Ok("this shell has the same mounts as the agent".to_owned());
    }
    let text = notice::other_mounts("this shell", status.pid);
    let (text, remedy) = text.split_once(": ").unwrap_or((&text, ""));
    wrong(format!("{text}: nothing walks from here"), remedy)
}

/// Checks that the cluster has another node to walk to.
fn others(status: &Status) -> Finding {
    const NONE: &str = "no other node: nothing will walk";
    let others = status.nodes.iter().filter(|node| node.node != status.node);
    let alive = others.filter(|node| node.state == NodeCondition::Alive).count();
    if !status.broker_up {
        return Ok("not known while the broker does not answer".to_owned());
    }
    match alive {
        0 if status.settings.cluster.is_none() => note(
            NONE,
            "this node belongs to no cluster: make one with 'oswalk cluster init', or join one with 'oswalk cluster join'",
        ),
        0 => {
            note(NONE, "run 'oswalk cluster invite', and the line that it prints on other machines")
        }
        1 => Ok("1 other node".to_owned()),
        alive => Ok(format!("{alive} other nodes")),
    }
}

/// Returns a finding for each node that takes no walks. A node that was taken down is only a note.
fn nodes(status: &Status) -> Vec<(String, Finding)> {
    let others = status.nodes.iter().filter(|node| node.node != status.node);
    let not_alive = others.filter(|node| status.broker_up && node.state != NodeCondition::Alive);
    let finding = |node: &NodeStatus| {
        let why = node.why.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
        let remedy = node
            .remedy
            .clone()
            .unwrap_or_else(|| format!("run 'oswalk status' and 'oswalk doctor' on {}", node.node));
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
        wrong("it shows a time before 2024", "set it, preferably by NTP")
    }
}

fn shim() -> Finding {
    match places::shim() {
        Ok((preload, _)) => Ok(preload.display().to_string()),
        Err(failure) => wrong(failure.message(), failure.hint_text()),
    }
}

fn broker(status: &Status) -> Finding {
    if status.broker_up {
        Ok(format!("{} answers", status.broker))
    } else {
        wrong(
            format!("{} does not answer the agent", status.broker),
            notice::remedy_of_broker(&status.broker),
        )
    }
}

fn versions(status: &Status, own: &str) -> Finding {
    if status.version != own {
        return wrong(
            format!("oswalk is {own}, but this agent is {}", status.version),
            "install one version on all nodes, then restart the agents ('oswalk down', 'oswalk up')",
        );
    }
    // Nodes of another version take walks if they understand this one; if not, their state says so.
    let mut there = status.nodes.iter().filter(|node| node.state != NodeCondition::Gone);
    Ok(match there.find(|node| node.version.as_str() != own) {
        None => format!("{own} everywhere"),
        Some(other) => format!("{own} here, {} on {}", other.version, other.node),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples;

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
    fn others_must_not_write_the_state() {
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
        for (owner, mode, is_sound) in
            [(0, 0o600, true), (0, 0o666, true), (4711, 0o600, true), (4711, 0o666, false)]
        {
            fs::set_permissions(path.join("door"), fs::Permissions::from_mode(mode))
                .expect("chmod");
            std::os::unix::fs::chown(path.join("door"), Some(owner), None).expect("root's test");
            assert_eq!(served(&path.join("door")).is_ok(), is_sound, "{owner}: {mode:o}");
        }
        assert!(state(&path.join("door")).is_err());
    }

    #[test]
    fn redis_is_not_needed_if_the_broker_is_elsewhere() {
        let elsewhere = Status { broker: "oswalk://hub:7700/".to_owned(), ..examples::cluster() };
        // Holds whether a Redis server is installed on this machine or not.
        assert!(redis(Some(&elsewhere)).is_ok());
        assert_eq!(redis(None).is_ok(), which::which("redis-server").is_ok());
    }

    /// Returns all findings that need no particular machine.
    fn canned() -> Vec<(&'static str, Finding)> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = |name: &str| dir.path().join(name);
        let file = |name: &str, mode| {
            fs::write(path(name), "").expect("writes");
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).expect("chmod");
            path(name)
        };
        let others_file = |name: &str, mode| {
            let path = file(name, mode);
            std::os::unix::fs::chown(&path, Some(4711), None).expect("root's test");
            path
        };
        let denied = || Err(io::Error::from_raw_os_error(nix::libc::EPERM));
        let mut found = vec![
            ("kernel", kernel("6.1.0-18-amd64\n")),
            ("kernel", kernel("5.10.0-9-amd64\n")),
            ("fuse", fuse(&path("missing"))),
            ("fuse", fuse(&file("fuse", 0o644))),
            ("overlayfs", overlayfs("nodev\toverlay\n")),
            ("overlayfs", overlayfs("nodev\ttmpfs\n")),
            ("namespaces", creation(Ok(()))),
            ("namespaces", creation(denied())),
            ("users", users(Ok(()), "         0          0 4294967295\n")),
            ("users", users(denied(), "")),
            ("users", users(Ok(()), "0 100000 65536\n")),
            ("descriptors", enough_descriptors(1 << 20)),
            ("descriptors", enough_descriptors(1024)),
            ("inotify", inotify("1048576\n")),
            ("inotify", inotify("8192\n")),
            ("inotify", inotify("")),
            ("redis", redis_server(Some(Path::new("/usr/bin/redis-server")), false)),
            ("redis", redis_server(None, true)),
            ("redis", redis_server(None, false)),
            ("clock", clock(UNIX_EPOCH + 2 * SANE_AFTER)),
            ("clock", clock(UNIX_EPOCH)),
            ("state", state(&path("missing"))),
            ("state", state(&file("plain", 0o644))),
        ];
        for mode in [0o700, 0o777] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("chmod");
            found.push(("state", state(dir.path())));
        }
        found.extend([
            ("disk", enough_space(50 << 30, dir.path())),
            ("disk", enough_space(50 << 20, dir.path())),
            ("cluster", cluster(dir.path())),
        ]);
        fs::create_dir(path("cluster")).expect("mkdir");
        for mode in [0o600, 0o644] {
            file("cluster/key", mode);
            found.push(("cluster", cluster(dir.path())));
        }
        found.extend([
            ("door", served(&file("door", 0o600))),
            ("door", served(&file("door", 0o666))),
            ("door", served(&others_file("door", 0o666))),
            ("door", served(&path("missing"))),
        ]);
        let me = || node("me", NodeCondition::Alive, false);
        let alone = status(vec![me()]);
        let mut lone = alone.clone();
        lone.settings.cluster = None;
        let two = status(vec![me(), node("n1", NodeCondition::Alive, false)]);
        let three = [two.nodes.clone(), vec![node("n2", NodeCondition::Alive, false)]].concat();
        let away = Status { broker_up: false, other_mounts: true, ..two.clone() };
        found.extend([
            ("broker", broker(&two)),
            ("broker", broker(&away)),
            ("versions", versions(&two, "0.1.0")),
            ("versions", versions(&two, "0.2.0")),
            ("mounts", mounts(&two)),
            ("mounts", mounts(&away)),
            ("nodes", others(&alone)),
            ("nodes", others(&lone)),
            ("nodes", others(&two)),
            ("nodes", others(&status(three))),
            ("nodes", others(&away)),
        ]);
        let mut refused = node("n1", NodeCondition::Refused, false);
        refused.why = Some("it does not prove its key".to_owned());
        refused.remedy = Some("check which program listens there".to_owned());
        let mut down = node("n2", NodeCondition::Gone, true);
        down.why = Some("it was taken down 7 s ago".to_owned());
        let of_nodes = nodes(&status(vec![me(), refused, down]));
        found.extend(of_nodes.into_iter().map(|(_, finding)| ("node", finding)));
        let replaced =
            |text: String| text.replace(&*dir.path().to_string_lossy(), "/var/lib/oswalk");
        let canned = found.into_iter().map(|(name, finding)| {
            let problem = |problem: Problem| Problem {
                text: replaced(problem.text),
                remedy: replaced(problem.remedy),
                ..problem
            };
            (name, finding.map(replaced).map_err(problem))
        });
        canned.collect()
    }

    #[test]
    fn findings_as_printed() {
        let text: String = canned().iter().map(|(name, finding)| shown(name, finding)).collect();
        crate::messages::same("doctor", &text);
    }

    fn status(nodes: Vec<NodeStatus>) -> Status {
        Status {
            node: "me".parse().expect("a sound name"),
            pid: 7,
            listen: None,
            broker: "redis+unix:///s/redis/socket".to_owned(),
            nodes,
            ..examples::cluster()
        }
    }

    fn node(name: &str, state: NodeCondition, left: bool) -> NodeStatus {
        let address = ([10, 0, 0, 1], 7700).into();
        NodeStatus { address, slots: 1, left, ..examples::node(name, state) }
    }

    #[test]
    fn a_node_that_was_taken_down_is_no_failure() {
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
    fn a_cluster_of_one_is_a_note() {
        let me = node("me", NodeCondition::Alive, false);
        let said = |status: &Status| {
            let finding = others(status);
            assert!(!has_failed(&finding));
            finding.unwrap_or_else(|it| format!("{}; {}", it.text, it.remedy))
        };
        let alone = status(vec![me.clone(), node("n1", NodeCondition::Gone, true)]);
        assert!(said(&alone).contains("'oswalk cluster invite'"));
        let mut lone = alone.clone();
        lone.settings.cluster = None;
        assert!(
            said(&lone)
                .starts_with("no other node: nothing will walk; this node belongs to no cluster")
        );
        let two = status(vec![me, node("n1", NodeCondition::Alive, false)]);
        assert_eq!(said(&two), "1 other node");
        assert!(mounts(&two).is_ok());
        let apart = Status { other_mounts: true, ..two };
        let problem = mounts(&apart).expect_err("other mounts");
        assert_eq!(problem.remedy, "start both in one mount namespace");
        assert!(problem.text.contains("other mounts than the agent (pid 7)"), "{}", problem.text);
    }
}
