//! Misconfigured clusters: `oswalk status` shows the state of each node with cause and remedy, and walks go
//! to the nodes that can take them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, Up};
use crate::nodes::{all_join, status};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("members::one_that_listens_on_its_loopback", |lab| {
        odd(lab, &["--listen", "127.0.0.1:0"], Secret::Shared, "unreachable", "--listen")
    }),
    ("members::one_with_another_secret", |lab| {
        odd(lab, &["--listen", "10.77.0.13:7709"], Secret::Other, "refused", "--secret")
    }),
    ("members::one_whose_port_nobody_reaches", |lab| {
        let elsewhere = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.13:7711"];
        odd(lab, &elsewhere, Secret::Shared, "unreachable", "firewall")
    }),
    ("members::one_that_is_another", |lab| {
        let of_n1 = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.11:7700"];
        odd(lab, &of_n1, Secret::Shared, "refused", "address of its own")
    }),
    ("members::one_without_room", without_room),
    ("members::one_that_has_gone_is_remembered", gone),
    ("members::a_name_is_free_at_once", name_is_free_at_once),
    ("members::one_whose_address_changes", address_changes),
    ("members::one_behind_a_thin_link", thin_link),
    ("members::the_broker_is_gone", broker_gone),
];

const LIMIT: std::time::Duration = seconds(20);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Secret {
    Shared,
    Other,
}

/// Another agent in the network of n3, called `odd`, which is ended on drop.
pub(crate) struct Odd<'a> {
    up: &'a Up,
    state: PathBuf,
}

impl<'a> Odd<'a> {
    pub(crate) fn start(
        up: &'a Up,
        state: PathBuf,
        options: &[&str],
        secret: Secret,
    ) -> Result<Self, String> {
        fs::create_dir_all(&state).map_err(|error| error.to_string())?;
        let mut file = up.dir.join("lab/secret");
        if secret == Secret::Other {
            file = up.dir.join("other-secret");
            let mode = fs::Permissions::from_mode(0o600);
            fs::write(&file, "0123456789abcdef0123456789abcdef")
                .and_then(|()| fs::set_permissions(&file, mode))
                .map_err(|error| error.to_string())?;
        }
        let mut command = up.inside("n3", "oswalk")?;
        command.args(["up", "--name", "odd", "--slots", "2", "--secret"]).arg(file).args(options);
        command.env("OSWALK_STATE", &state);
        let run = Run::of(command, LIMIT)?;
        if run.succeeded() { Ok(Self { up, state }) } else { Err(run.to_string()) }
    }
}

impl Drop for Odd<'_> {
    fn drop(&mut self) {
        let mut down = self.up.command("oswalk");
        down.arg("down").env("OSWALK_STATE", &self.state);
        let _ = Run::of(down, LIMIT);
    }
}

/// Returns state, cause and remedy of a node, as shown at the origin.
fn said(up: &Up, node: &str) -> Result<[String; 3], String> {
    let status = status(up, "origin")?;
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let mut of_node = nodes.filter(|state| state["node"] == node);
    let state = of_node.next().ok_or_else(|| format!("no {node} in {status}"))?;
    Ok(["state", "why", "remedy"].map(|field| state[field].as_str().unwrap_or_default().to_owned()))
}

pub(crate) fn is(up: &Up, node: &str, expected: &str) -> bool {
    said(up, node).is_ok_and(|[state, ..]| state == expected)
}

/// Checks that a misconfigured node is shown with its state, that no walk waits for it, and that the other
/// nodes take the walks.
fn odd(
    lab: &Lab,
    options: &[&str],
    secret: Secret,
    state: &str,
    remedy: &str,
) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let _odd = Odd::start(up, up.fresh("odd")?, options, secret)?;
    wait_until("the origin says what is wrong", || is(up, "odd", state))?;
    let [_, why, helps] = said(up, "odd")?;
    if why.is_empty() || !helps.contains(remedy) {
        return Err(format!("the cause is '{why}', the remedy '{helps}'"));
    }
    takes_no_walks(up)
}

fn takes_no_walks(up: &Up) -> Result<(), String> {
    let dir = up.fresh("odd-walks")?;
    let report = dir.join("report.json");
    let run = Run::of(shows(up, &report, &[], 12), LIMIT)?;
    let walks = Report::read(&report)?;
    let runners = walks.runners();
    if !run.succeeded() || walks.walks.len() != 12 || runners.contains(&"odd") {
        return Err(format!("{} walks, executed by {runners:?}: {run}", walks.walks.len()));
    }
    // With `--on` this node, the user is told why not, or the program is executed at the origin.
    let refused = Run::of(shows(up, &report, &["--no-fallback", "--on", "odd"], 1), LIMIT)?;
    if refused.succeeded() || !refused.err().contains("odd is ") {
        return Err(format!("--no-fallback: {refused}"));
    }
    let run = Run::of(shows(up, &report, &["--on", "odd"], 1), LIMIT)?;
    if run.succeeded() && Report::read(&report)?.walks.is_empty() {
        Ok(())
    } else {
        Err(format!("--on: {run}"))
    }
}

/// Returns a command that executes `show` so many times in parallel.
fn shows(up: &Up, report: &Path, options: &[&str], count: usize) -> Command {
    let script = match count {
        1 => "show >/dev/null".to_owned(),
        count => format!("for i in $(seq {count}); do show >/dev/null & done; wait"),
    };
    let mut command = up.exec(report);
    command.args(options).args(["--walk", "show", "--", "sh", "-c", &script]);
    command
}

fn without_room(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let state = up.fresh("full")?;
    let mount = |command: &str, arguments: &[&str]| {
        let run = Run::of(
            {
                let mut c = up.command(command);
                c.args(arguments).arg(&state);
                c
            },
            LIMIT,
        )?;
        if run.succeeded() { Ok(()) } else { Err(run.to_string()) }
    };
    mount("mount", &["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"])?;
    let listen = ["--listen", "10.77.0.13:7709"];
    let checked = Odd::start(up, state.clone(), &listen, Secret::Shared).and_then(|_odd| {
        wait_until("the origin says that it is full", || is(up, "odd", "full"))?;
        takes_no_walks(up)
    });
    mount("umount", &["-l"])?;
    checked
}

fn gone(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let odd = Odd::start(up, up.fresh("gone")?, &["--listen", "10.77.0.13:7709"], Secret::Shared)?;
    wait_until("it is alive", || is(up, "odd", "alive"))?;
    drop(odd);
    wait_until("it is gone", || is(up, "odd", "gone"))?;
    let [_, why, _] = said(up, "odd")?;
    let run = doctor(up)?;
    if !why.starts_with("it was taken down ") || !run.out().contains("note  node odd: it is gone") {
        return Err(format!("a node that was taken down counts as a failure: {why}; {run}"));
    }
    up.lab(&["kill", "n2"])?;
    let noticed = wait_until("n2 is gone", || is(up, "n2", "gone"));
    let lost = said(up, "n2").map(|[_, why, _]| why);
    let failed = doctor(up);
    let asked = Run::of(shows(up, &up.fresh("on-gone")?.join("r.json"), &["--on", "n2"], 1), LIMIT);
    up.lab(&["heal", "n2"])?;
    all_join(up, &["n2"])?;
    noticed?;
    let (lost, failed, asked) = (lost?, failed?, asked?);
    if !asked.succeeded() || !asked.err().contains("nothing walks: n2 is gone, it has not been") {
        return Err(format!("--on a node that is gone: {asked}"));
    }
    if !lost.starts_with("it has not been heard for ") || !failed.out().contains("FAIL  node n2:") {
        return Err(format!(
            "a node that was killed does not count as a failure: {lost}; {failed}"
        ));
    }
    wait_until("n2 is alive", || is(up, "n2", "alive"))
}

fn doctor(up: &Up) -> Result<Run, String> {
    let mut command = up.command("oswalk");
    command.arg("doctor");
    Run::of(command, LIMIT)
}

/// A node that was taken down or killed can start again at once, at another address.
fn name_is_free_at_once(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let state = up.fresh("restarts")?;
    for (round, port) in (7721..7729).enumerate() {
        let listen = format!("10.77.0.13:{port}");
        let odd = Odd::start(up, state.clone(), &["--listen", &listen], Secret::Shared)
            .map_err(|error| format!("round {round}: {error}"))?;
        if round % 2 == 1 {
            let pid = fs::read_to_string(state.join("pid")).map_err(|error| error.to_string())?;
            let mut kill = up.command("kill");
            kill.args(["-KILL", pid.trim()]);
            Run::of(kill, LIMIT)?;
        }
        drop(odd);
    }
    Ok(())
}

/// A node that listens on a specific address is unreachable once that is gone, and says so; one that listens
/// on all addresses is reached at the new one.
fn address_changes(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let change = |from: &str, to: &str| {
        // In this order, since the kernel removes secondary addresses along with the first of a network.
        up.ip("n3", &["address", "del", &format!("{from}/24"), "dev", "eth0"])?;
        up.ip("n3", &["address", "add", &format!("{to}/24"), "dev", "eth0"])
    };
    let listen = ["--listen", "0.0.0.0:7709"];
    let _odd = Odd::start(up, up.fresh("moves")?, &listen, Secret::Shared)?;
    let checked = wait_until("it is alive", || is(up, "odd", "alive")).and_then(|()| {
        change("10.77.0.13", "10.77.0.23")?;
        wait_until("n3 is said not to be reached", || is(up, "n3", "unreachable"))?;
        let moved = || {
            let status = status(up, "origin").unwrap_or_default();
            let mut nodes = status["nodes"].as_array().into_iter().flatten();
            nodes.any(|node| node["address"] == "10.77.0.23:7709" && node["state"] == "alive")
        };
        wait_until("the other is found at its new address", moved)
    });
    // Restores the address, whatever has failed.
    let back = change("10.77.0.23", "10.77.0.13");
    checked?;
    back?;
    all_join(up, &["n3"])
}

/// A user who waits at a terminal while files are sent to a node is told so, once. Nothing is written to a
/// pipe.
fn thin_link(lab: &Lab) -> Result<(), String> {
    const BYTES: usize = 4_000_000;
    let (up, _alone) = lab.alone()?;
    let mut relay = up.inside("n3", env!("CARGO_BIN_EXE_oswalk-relay"))?;
    relay.args(["--listen", "10.77.0.13:7720", "--to", "10.77.0.13:7709"]);
    relay.args(["--delay-ms", "0", "--mbit", "10"]);
    let mut relay = relay.spawn().map_err(|error| format!("oswalk-relay: {error}"))?;
    let checked = (|| {
        let options = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.13:7720"];
        let _odd = Odd::start(up, up.fresh("thin")?, &options, Secret::Shared)?;
        wait_until("it is alive", || is(up, "odd", "alive"))?;
        let dir = up.fresh("thin-files")?;
        let run_at = |terminal: bool| {
            let name = format!("file-{terminal}");
            // Incompressible content.
            let text: Vec<u8> = (0..BYTES / 32)
                .flat_map(|number| *blake3::hash(format!("{name}{number}").as_bytes()).as_bytes())
                .collect();
            fs::write(dir.join(&name), text).map_err(|error| error.to_string())?;
            let exec = format!("oswalk exec --on odd --no-fallback cksum {name} {name}");
            let mut command = up.command(if terminal { "script" } else { "sh" });
            command.arg(if terminal { "-qec" } else { "-c" }).arg(exec).current_dir(&dir);
            if terminal {
                command.arg("/dev/null");
            }
            Run::of(command, seconds(60))
        };
        for terminal in [true, false] {
            let run = run_at(terminal)?;
            let said = format!("{}{}", run.out(), run.err());
            let lines = said.matches("oswalk: sending the files that odd lacks: ").count();
            if !run.succeeded() || lines != usize::from(terminal) {
                return Err(format!("at a terminal: {terminal}: {lines} lines: {run}"));
            }
        }
        Ok(())
    })();
    let _ = relay.kill();
    let _ = relay.wait();
    checked
}

fn broker_gone(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    up.lab(&["kill", "broker"])?;
    let unknown = || {
        status(up, "origin").is_ok_and(|status| status["broker_up"] == false)
            && is(up, "n1", "unknown")
    };
    let noticed = wait_until("nothing is known of the nodes", unknown);
    up.lab(&["heal", "broker"])?;
    all_join(up, &crate::lab::NODES)?;
    noticed
}
