//! `oswalk doctor`: what this machine lacks, and the remedy.

use std::fs;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sched::CloneFlags;
use nix::unistd::{AccessFlags, access, geteuid};
use worknode::request::Status;

use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;
use crate::{places, process, say};

/// 1 January 2024: a clock before it was never set.
const SANE_AFTER: Duration = Duration::from_secs(1_704_067_200);

/// What a check found: what is well, or what is wrong and how to mend it.
type Finding = Result<String, (String, String)>;

pub(crate) fn run(places: &Places) -> Result<ExitCode, Failure> {
    let status = Door::open(&places.door()).and_then(|mut door| door.status());
    let mut checks = vec![
        ("fuse", fuse()),
        ("overlayfs", overlayfs(&fs::read_to_string("/proc/filesystems").unwrap_or_default())),
        ("namespaces", namespaces()),
        ("redis", redis()),
        ("clock", clock(SystemTime::now())),
        ("shim", shim()),
    ];
    match &status {
        Ok(status) => {
            checks.push(("agent", Ok(format!("{} answers (pid {})", status.node, status.pid))));
            checks.push(("broker", broker(status)));
            checks.push(("versions", versions(status, env!("CARGO_PKG_VERSION"))));
        }
        Err(error) => checks.push(("agent", wrong(error.to_string(), error.hint()))),
    }
    for (name, finding) in &checks {
        say::out(match finding {
            Ok(text) => format!("ok    {name}: {text}\n"),
            Err((text, remedy)) => format!("FAIL  {name}: {text}\n      remedy: {remedy}\n"),
        })?;
    }
    Ok(ExitCode::from(u8::from(checks.iter().any(|(_, finding)| finding.is_err()))))
}

fn wrong(what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Err((what.into(), remedy.into()))
}

fn fuse() -> Finding {
    match access("/dev/fuse", AccessFlags::R_OK | AccessFlags::W_OK) {
        Ok(()) => Ok("/dev/fuse can be opened".to_owned()),
        Err(nix::errno::Errno::ENOENT) => wrong(
            "/dev/fuse is missing".to_owned(),
            "load the module (modprobe fuse); in a container, pass the device (--device /dev/fuse)",
        ),
        Err(error) => wrong(format!("/dev/fuse: {error}"), "chmod 666 /dev/fuse"),
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
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if !geteuid().is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    match process::may_unshare(flags) {
        Ok(()) => Ok("mount and pid namespaces can be created".to_owned()),
        Err(error) => wrong(
            format!("they cannot be created: {error}"),
            "run the agent as root, or allow user namespaces: \
             sysctl -w user.max_user_namespaces=15000 kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
}

fn redis() -> Finding {
    match which::which("redis-server").or_else(|_| which::which("valkey-server")) {
        Ok(path) => Ok(path.display().to_string()),
        Err(_) => wrong(
            "neither redis-server nor valkey-server is in PATH".to_owned(),
            "install the package redis-server, or give the agent a broker with --broker URL",
        ),
    }
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
    let others = status.nodes.iter().map(|node| (node.node.as_str(), node.version.as_str()));
    let mut all = std::iter::once(("this agent", status.version.as_str())).chain(others);
    match all.find(|(_, version)| *version != own) {
        None => Ok(format!("{own} everywhere")),
        Some((who, version)) => wrong(
            format!("oswalk is {own}, {who} is {version}"),
            "install one version on all nodes, then restart the agents: oswalk down, oswalk up",
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
    }
}
