//! A hostile program in a walk reaches nothing of its node, as root and as another user.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Test;
use crate::lab::{Lab, Up};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("hostile::nothing_of_the_node_is_reached", nothing_is_reached),
    ("hostile::the_network_of_walks", networks),
    ("hostile::a_walks_root_is_nobody_on_the_node", root_is_nobody),
];

/// What a program could change on the node, and the tests' machine shares with it.
fn node() -> Result<String, String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let null = fs::metadata("/dev/null").map_err(|error| error.to_string())?;
    let null = (null.mode(), null.uid(), null.gid(), null.mtime());
    let settings = ["kernel/core_pattern", "kernel/modprobe", "net/ipv4/ip_forward"]
        .map(|name| read(&format!("/proc/sys/{name}")));
    let others =
        ["/proc/sys/kernel/hostname", "/proc/self/mountinfo", "/proc/sysvipc/shm"].map(read);
    Ok(format!("{null:?} {settings:?} {others:?}"))
}

fn nothing_is_reached(lab: &Lab) -> Result<(), String> {
    // Alone, because others mount and unmount.
    let (up, _alone) = lab.alone()?;
    let agent =
        || fs::read_to_string(up.state("n1").join("pid")).map_err(|error| error.to_string());
    let before = (node()?, agent()?);
    for user in ["0", "1000"] {
        let dir = up.fresh("hostile")?;
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        command.args(["--on", "n1", "--walk", "hostile", "--no-fallback", "--", "hostile", user]);
        command.current_dir(&dir);
        let run = Run::of(command, seconds(60))?;
        if !run.succeeded() || run.out() != "tried\n" || !Report::read(&report)?.walked("hostile") {
            return Err(format!("as {user}: {run}"));
        }
    }
    if !Path::new("/proc").join(agent()?.trim()).exists() {
        return Err("the node's agent is gone".into());
    }
    let after = (node()?, agent()?);
    if before == after { Ok(()) } else { Err(format!("the node was {before:?} and is {after:?}")) }
}

/// Returns the address of the lab's Redis.
fn redis(up: &Up) -> Result<[String; 2], String> {
    let path = up.state("broker").join("redis.conf");
    let settings = fs::read_to_string(&path).map_err(|error| error.to_string())?;
    let setting = |name: &str| {
        let value = settings.lines().find_map(|line| line.strip_prefix(name));
        value.map(|value| value.trim().to_owned()).ok_or(format!("no {name}in {}", path.display()))
    };
    Ok([setting("bind ")?, setting("port ")?])
}

fn networks(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("networks")?;
    let [host, port] = redis(up)?;
    for (name, policy) in
        [("compilers", "compilers = [\"hostile\"]"), ("none", "network = \"none\"")]
    {
        fs::write(dir.join(name), format!("{policy}\n")).map_err(|error| error.to_string())?;
    }
    let node = "-NOAUTH";
    for (options, expected) in [
        (&["--walk", "hostile"][..], node),
        (&["--walk", "hostile", "--network", "node", "--policy", "none"], node),
        (&["--walk", "hostile", "--network", "none"], "unreachable"),
        (&["--walk", "hostile", "--policy", "none"], "unreachable"),
        (&["--policy", "compilers"], "unreachable"),
    ] {
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        command.args(options).args(["--no-fallback", "--", "hostile", "-c", "x.c"]);
        command.env("HOST", &host).env("PORT", &port).current_dir(&dir);
        let run = Run::of(command, seconds(30))?;
        let said = run.out();
        let is_alone = said.starts_with("lo ") && said.split_whitespace().count() == 2;
        let is_right = said.trim_end().ends_with(expected) && is_alone == (expected != node);
        if !run.succeeded() || !is_right || !Report::read(&report)?.walked("hostile") {
            return Err(format!("with {options:?}: {run}"));
        }
    }
    Ok(())
}

/// On the node, a walk of root's has a user that nobody else has, and no capability there.
fn root_is_nobody(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("nobody")?;
    let mut command = up.exec(&dir.join("report.json"));
    let script = "id -u; read -r line </proc/self/uid_map; echo $line";
    command.args(["--on", "n1", "--walk", "sh", "--no-fallback", "--", "sh", "-c", script]);
    let run = Run::of(command, seconds(30))?;
    let said = run.out();
    let words: Vec<_> = said.split_whitespace().collect();
    match words[..] {
        ["0", "0", number, "65536"] if number.parse().is_ok_and(|it: u32| it >= 0x7800_0000) => {
            Ok(())
        }
        _ => Err(format!("{run}")),
    }
}
