//! Misconfigured clusters: `oswalk status` shows the state of each node with cause and remedy, and walks go
//! to the nodes that can take them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use worknode::key::Key;
use worknode::membership::JoinLine;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, NODES, Up};
use crate::nodes::{all_join, running_on, status};
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("members::one_that_listens_on_its_loopback", |lab| {
        odd(lab, &["--listen", "127.0.0.1:0"], "unreachable", "", "--listen")
    }),
    ("members::one_whose_port_nobody_reaches", |lab| {
        let elsewhere = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.13:7711"];
        odd(lab, &elsewhere, "unreachable", "nobody answers", "firewall")
    }),
    ("members::another_answers_at_its_address", |lab| {
        let of_n1 = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.11:7700"];
        odd(lab, &of_n1, "refused", "does not prove odd's key", "address of its own")
    }),
    ("members::one_that_was_removed", removed),
    ("members::one_that_leaves_and_joins_again", leaves),
    ("members::one_without_a_cluster_listens_on_nothing", listens_on_nothing),
    ("members::what_does_not_let_a_node_in", what_does_not_let_in),
    ("members::one_without_room", without_room),
    ("members::one_that_has_gone_is_remembered", gone),
    ("members::a_name_is_free_at_once", name_is_free_at_once),
    ("members::one_whose_address_changes", address_changes),
    ("members::one_behind_a_thin_link", thin_link),
    ("members::the_broker_is_gone", broker_gone),
];

const LIMIT: std::time::Duration = seconds(20);

/// Another agent in the network of n3, called `odd`, which is ended on drop.
pub(crate) struct Odd<'a> {
    up: &'a Up,
    state: PathBuf,
}

impl<'a> Odd<'a> {
    /// Has it join the lab's cluster, in place of the one of an earlier test.
    pub(crate) fn join(up: &'a Up, state: PathBuf, options: &[&str]) -> Result<Self, String> {
        // Fails if there is none.
        up.cluster(&up.state("origin"), &["remove", "odd"])?;
        let line = up.join_line(&up.state("origin"))?;
        let join = ["cluster", "join", &line, "--node", "odd"];
        Self::run(up, state, &[&join[..], options].concat())
    }

    /// Starts it again.
    fn up(up: &'a Up, state: PathBuf) -> Result<Self, String> {
        Self::run(up, state, &["up"])
    }

    fn run(up: &'a Up, state: PathBuf, arguments: &[&str]) -> Result<Self, String> {
        let mut command = up.inside("n3", "oswalk");
        command.args(arguments).args(["--slots", "2"]).env("OSWALK_STATE", &state);
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
pub(crate) fn said(up: &Up, node: &str) -> Result<[String; 3], String> {
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
fn odd(lab: &Lab, options: &[&str], state: &str, cause: &str, remedy: &str) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let _odd = Odd::join(up, up.fresh("odd")?, options)?;
    wait_until("the origin says what is wrong", || is(up, "odd", state))?;
    let [_, why, helps] = said(up, "odd")?;
    if why.is_empty() || !why.contains(cause) || !helps.contains(remedy) {
        return Err(format!("the cause is '{why}', the remedy '{helps}'"));
    }
    takes_no_walks(up)
}

pub(crate) fn takes_no_walks(up: &Up) -> Result<(), String> {
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

/// Removes a node under a build that uses it: the build goes on, all others come to know, and nobody deals with the
/// node any more.
fn removed(lab: &Lab) -> Result<(), String> {
    const BUILD: &str = "for i in $(seq 8); do sleep 1 & done; wait";
    let (up, _alone) = lab.alone()?;
    let origin = up.state("origin");
    let state = up.fresh("removed")?;
    let odd = Odd::join(up, state.clone(), &["--listen", "10.77.0.13:7709"])?;
    wait_until("it is alive", || is(up, "odd", "alive"))?;
    all_join(up, &["odd"])?;
    let report = up.fresh("removed-build")?.join("report.json");
    let mut build = up.exec(&report);
    build.args(["--walk", "sleep", "--", "sh", "-c", BUILD]);
    let build = Run::start(build, None)?;
    wait_until("it executes walks", || running_on(up, "odd").is_ok_and(|count| count > 0))?;
    let gone = up.cluster(&origin, &["remove", "odd"])?;
    let build = build.wait(LIMIT)?;
    let report = Report::read(&report)?;
    if !gone.succeeded() || !build.succeeded() || report.runners().contains(&"odd") {
        return Err(format!("{gone}, {build}, executed by {:?}", report.runners()));
    }
    for node in NODES {
        let knows = || {
            up.cluster(&up.state(node), &["nodes"])
                .is_ok_and(|nodes| nodes.succeeded() && !nodes.out().contains("odd"))
        };
        wait_until("another node knows that it is no member", knows)?;
    }
    wait_until("it is refused", || is(up, "odd", "refused"))?;
    takes_no_walks(up)?;
    // It is told so when it calls, also after a restart.
    drop(odd);
    let _odd = Odd::up(up, state.clone())?;
    let told = || {
        let status = status_of(up, &state).unwrap_or_default();
        status.contains(
            "this node was removed from cluster lab by origin: run 'oswalk cluster leave' here",
        )
    };
    wait_until("it is told why nothing walks", told)
        .map_err(|error| format!("{error}: {:?}", status_of(up, &state)))?;
    fails(&up.cluster(&state, &["nodes"])?, &["was removed from cluster lab by origin"])
}

fn status_of(up: &Up, state: &Path) -> Result<String, String> {
    let mut command = up.command("oswalk");
    command.arg("status").env("OSWALK_STATE", state);
    Ok(Run::of(command, LIMIT)?.out())
}

/// Checks that a command failed with these words.
fn fails(run: &Run, words: &[&str]) -> Result<(), String> {
    let said = run.err();
    if run.status.code() == Some(125) && words.iter().all(|word| said.contains(word)) {
        Ok(())
    } else {
        Err(format!("expected {words:?}: {run}"))
    }
}

fn leaves(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let (origin, state) = (up.state("origin"), up.fresh("leaves")?);
    let listen = ["--listen", "10.77.0.13:7709"];
    let _odd = Odd::join(up, state.clone(), &listen)?;
    let left = up.cluster(&state, &["leave"])?;
    if !left.succeeded() {
        return Err(left.to_string());
    }
    fails(&up.cluster(&state, &["leave"])?, &["belongs to no cluster"])?;
    let line = up.join_line(&origin)?;
    let join = [&["cluster", "join", &line, "--node", "odd"], &listen[..]].concat();
    let taken = Odd::run(up, state.clone(), &join).map(drop);
    let said = taken.err().ok_or("a name is given twice")?;
    if !said.contains("has a node 'odd' already") || state.join("cluster").exists() {
        return Err(said);
    }
    let removed = up.cluster(&origin, &["remove", "odd"])?;
    if !removed.succeeded() {
        return Err(removed.to_string());
    }
    // The line is not used up: it has let nobody in.
    let _odd = Odd::run(up, state, &join)?;
    wait_until("it is alive", || is(up, "odd", "alive"))?;
    all_join(up, &["odd"])
}

fn listens_on_nothing(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.shared()?;
    let state = up.fresh("lone")?;
    let mut start = up.command("unshare");
    start.args(["--net", "oswalk", "up", "--name", "lone"]);
    start.env("OSWALK_STATE", &state);
    let started = Run::of(start, LIMIT)?;
    let checked = (|| {
        let pid = fs::read_to_string(state.join("pid")).map_err(|error| error.to_string())?;
        let mut sockets = up.command("nsenter");
        sockets.args(["--net", "--target", pid.trim(), "ss", "-H", "-l", "-n", "-t", "-u"]);
        let sockets = Run::of(sockets, LIMIT)?;
        if !sockets.succeeded() || !sockets.stdout.is_empty() {
            return Err(format!("it listens: {sockets}"));
        }
        let status = status_of(up, &state)?;
        let mut doctor = up.command("oswalk");
        doctor.arg("doctor").env("OSWALK_STATE", &state);
        let doctor = Run::of(doctor, LIMIT)?;
        if !started.err().contains("belongs to no cluster")
            || !status.contains("lone")
            || !doctor.out().contains("this node belongs to no cluster")
            || doctor.out().contains("FAIL")
        {
            return Err(format!("{started}\n{status}\n{doctor}"));
        }
        for request in [&["invite"][..], &["nodes"], &["remove", "n1"]] {
            fails(&up.cluster(&state, request)?, &["this node belongs to no cluster"])?;
        }
        Ok(())
    })();
    drop(Odd { up, state });
    checked
}

/// A node that is refused stays as it was.
fn what_does_not_let_in(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let (origin, state) = (up.state("origin"), up.fresh("member")?);
    let listen = ["--listen", "10.77.0.13:7709"];
    let odd = Odd::join(up, state.clone(), &listen)?;
    let again = up.cluster(&state, &["join", &up.join_line(&origin)?])?;
    fails(&again, &["belongs to the cluster 'lab' already", "oswalk cluster leave"])?;
    fails(&up.cluster(&state, &["init"])?, &["belongs to the cluster 'lab' already"])?;
    fails(&up.cluster(&state, &["invite"])?, &["may not admit others"])?;
    fails(&up.cluster(&state, &["remove", "n1"])?, &["run this on origin"])?;
    fails(&up.cluster(&origin, &["remove", "n9"])?, &["no node 'n9'", "oswalk cluster nodes"])?;
    fails(&up.cluster(&origin, &["remove", "origin"])?, &["this node made the cluster"])?;
    drop(odd);
    fails(&up.cluster(&state, &["init"])?, &["belongs to the cluster 'lab' already"])?;

    let line = up.join_line(&origin)?;
    let mut altered = line.clone();
    let last = altered.pop();
    altered.push(if last == Some('A') { 'B' } else { 'A' });
    let elsewhere = line.replace("10.77.0.2:", "10.77.0.3:");
    let state = up.fresh("outsider")?;
    let join = |line: &str| -> Result<Run, String> {
        let mut command = up.inside("n3", "oswalk");
        command.args(["cluster", "join", line, "--node", "new", "--listen", "10.77.0.13:7712"]);
        Run::of(
            {
                command.env("OSWALK_STATE", &state);
                command
            },
            LIMIT,
        )
    };
    let with = |change: &dyn Fn(&mut JoinLine)| -> Result<String, String> {
        let mut line: JoinLine = line.parse().map_err(|error| format!("{error}"))?;
        change(&mut line);
        Ok(line.to_string())
    };
    let nobody = with(&|line| line.address = "10.77.0.13:1".to_owned())?;
    let other_key = with(&|line| line.host = Key([7; 32]))?;
    let unknown = with(&|line| line.word = [7; 16])?;
    let used = up.join_line(&origin)?;
    let use_up = ["cluster", "join", &used, "--node", "other", "--listen", "10.77.0.13:7711"];
    drop(Odd::run(up, up.fresh("other")?, &use_up)?);
    let freed = up.cluster(&origin, &["remove", "other"])?;
    for (line, words) in [
        ("hunter2", &["this is no join line", "oswalk cluster invite"][..]),
        (&altered, &["the join line is not whole"]),
        (&elsewhere, &["the join line is not whole"]),
        (&used, &["the join line is used up", "oswalk cluster invite"]),
        (&unknown, &["the join line is not known there", "oswalk cluster invite"]),
        (&nobody, &["failed to reach 10.77.0.13:1", "check that its agent runs"]),
        (&other_key, &["is not the node that made the join line", "oswalk cluster invite"]),
    ] {
        fails(&join(line)?, words)?;
        if state.join("cluster").exists() || state.join("cluster.new").exists() {
            return Err(format!("{line}: a refused node has a membership"));
        }
    }
    if freed.succeeded() { Ok(()) } else { Err(freed.to_string()) }
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
    let checked = Odd::join(up, state.clone(), &listen).and_then(|_odd| {
        wait_until("the origin says that it is full", || is(up, "odd", "full"))?;
        takes_no_walks(up)
    });
    mount("umount", &["-l"])?;
    checked
}

fn gone(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let odd = Odd::join(up, up.fresh("gone")?, &["--listen", "10.77.0.13:7709"])?;
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

/// A node that was taken down or killed can start again at once; one that was removed can join again at once
/// under its name, at another address.
fn name_is_free_at_once(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let mut state = up.fresh("restarts")?;
    for round in 0..8 {
        let listen = format!("10.77.0.13:{}", 7721 + round);
        let odd = match round % 4 {
            0 => {
                state = up.fresh(&format!("restarts-{round}"))?;
                Odd::join(up, state.clone(), &["--listen", &listen])
            }
            _ => Odd::up(up, state.clone()),
        };
        let odd = odd.map_err(|error| format!("round {round}: {error}"))?;
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
    let _odd = Odd::join(up, up.fresh("moves")?, &listen)?;
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
    let mut relay = up.inside("n3", env!("CARGO_BIN_EXE_oswalk-relay"));
    relay.args(["--listen", "10.77.0.13:7720", "--to", "10.77.0.13:7709"]);
    relay.args(["--delay-ms", "0", "--mbit", "10"]);
    let mut relay = relay.spawn().map_err(|error| format!("oswalk-relay: {error}"))?;
    let checked = (|| {
        let options = ["--listen", "10.77.0.13:7709", "--advertise", "10.77.0.13:7720"];
        let _odd = Odd::join(up, up.fresh("thin")?, &options)?;
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
    all_join(up, &NODES)?;
    noticed
}
