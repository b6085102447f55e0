//! The life of a cluster whose founding node runs the broker: its members go, move and come back.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, NODES, Up};
use crate::nodes::all_join;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("life::nodes_start_before_the_founder", start_before_the_founder),
    ("life::members_that_move_are_found", members_move),
    ("life::a_draining_node_gets_no_walks", drains),
    ("life::keys_are_rotated", rotated),
    ("life::a_withdrawn_line_admits_nobody", withdrawn),
    ("life::nodes_are_joined_over_ssh", over_ssh),
    ("life::a_removed_node_loses_the_broker_and_its_links", removed),
];

const LIMIT: std::time::Duration = seconds(20);
/// The members, each in the network of another node of the lab. `a` founds the cluster.
const MEMBERS: [(&str, &str); 3] = [("a", "n1"), ("b", "n2"), ("c", "n3")];
const PORT: u16 = 7709;

/// A cluster of its own in the networks of the lab's nodes. It ends on drop.
struct Small<'a> {
    up: &'a Up,
    name: String,
}

impl<'a> Small<'a> {
    /// Makes a cluster of all members.
    fn new(up: &'a Up, name: &str) -> Result<Self, String> {
        let small = Self { up, name: name.to_owned() };
        for (member, _) in MEMBERS {
            up.fresh(&small.dir(member))?;
        }
        small.sound("a", &["cluster", "init", "--name", "small"], true)?;
        let line = up.join_line(&small.state("a"))?;
        small.sound("b", &["cluster", "join", &line], true)?;
        let line = up.join_line(&small.state("a"))?;
        small.sound("c", &["cluster", "join", &line], true)?;
        small.sees_all()?;
        Ok(small)
    }

    fn dir(&self, member: &str) -> String {
        format!("{}-{member}", self.name)
    }

    fn state(&self, member: &str) -> PathBuf {
        self.up.dir.join("t").join(self.dir(member))
    }

    /// Returns `oswalk` for a member, in its network.
    fn oswalk(&self, member: &str, arguments: &[&str]) -> Command {
        let node = MEMBERS.iter().find(|(name, _)| *name == member).map_or("", |(_, node)| node);
        let mut command = self.up.inside(node, "oswalk");
        command.args(arguments).env("OSWALK_STATE", self.state(member));
        command
    }

    fn run(&self, member: &str, arguments: &[&str]) -> Result<Run, String> {
        Run::of(self.oswalk(member, arguments), LIMIT)
    }

    /// Runs a command that must succeed; with `placed`, with the member's name and port.
    fn sound(&self, member: &str, arguments: &[&str], placed: bool) -> Result<Run, String> {
        let listen = format!("0.0.0.0:{PORT}");
        let place = ["--node", member, "--slots", "2", "--listen", &listen];
        let place = if placed { &place[..] } else { &[] };
        let run = self.run(member, &[arguments, place].concat())?;
        if run.succeeded() { Ok(run) } else { Err(format!("{member}: {arguments:?}: {run}")) }
    }

    /// Returns what a member says of all nodes: name, state and address.
    fn nodes(&self, member: &str) -> Result<Vec<[String; 3]>, String> {
        let run = self.run(member, &["status", "--json"])?;
        let status: serde_json::Value =
            serde_json::from_slice(&run.stdout).map_err(|error| format!("{error}: {run}"))?;
        let nodes = status["nodes"].as_array().into_iter().flatten();
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        Ok(nodes.map(|node| ["node", "state", "address"].map(|field| text(&node[field]))).collect())
    }

    /// Waits until a member sees another one alive, at an address if given.
    fn sees(&self, member: &str, other: &str, ip: Option<&str>) -> Result<(), String> {
        let is_there = |[node, state, address]: &[String; 3]| {
            let there = ip.is_none_or(|ip| *address == format!("{ip}:{PORT}"));
            node == other && state == "alive" && there
        };
        let sees = || self.nodes(member).is_ok_and(|nodes| nodes.iter().any(is_there));
        wait_until(&format!("{member} sees {other} at {ip:?}"), sees)
            .map_err(|error| format!("{error}: {:?}", self.nodes(member)))
    }

    fn sees_all(&self) -> Result<(), String> {
        let pairs = MEMBERS.iter().flat_map(|(a, _)| MEMBERS.map(|(b, _)| (*a, b)));
        pairs.into_iter().try_for_each(|(member, other)| self.sees(member, other, None))
    }

    /// Waits until a member says that another one is in a state.
    fn says(&self, member: &str, other: &str, expected: &str) -> Result<(), String> {
        let is_so = |[node, state, _]: &[String; 3]| node == other && state == expected;
        let says = || self.nodes(member).is_ok_and(|nodes| nodes.iter().any(is_so));
        wait_until(&format!("{member} says that {other} is {expected}"), says)
            .map_err(|error| format!("{error}: {:?}", self.nodes(member)))
    }

    /// Runs a command that must fail with these words.
    fn refused(&self, member: &str, arguments: &[&str], words: &[&str]) -> Result<(), String> {
        let run = self.run(member, arguments)?;
        let said = run.err();
        if run.status.code() == Some(125) && words.iter().all(|word| said.contains(word)) {
            Ok(())
        } else {
            Err(format!("{member}: {arguments:?}: expected {words:?}: {run}"))
        }
    }

    /// Returns the keys of all members, as one of them knows them.
    fn keys(&self, member: &str) -> Result<Vec<(String, String)>, String> {
        let run = self.sound(member, &["cluster", "nodes", "--json"], false)?;
        let members: serde_json::Value =
            serde_json::from_slice(&run.stdout).map_err(|error| format!("{error}: {run}"))?;
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let members = members.as_array().into_iter().flatten();
        Ok(members.map(|member| (text(&member["node"]), text(&member["key"]))).collect())
    }

    /// Returns the TCP connections of a member's agent to others.
    fn connections(&self, member: &str) -> Result<String, String> {
        let node = MEMBERS.iter().find(|(name, _)| *name == member).map_or("", |(_, node)| node);
        let mut sockets = self.up.inside(node, "ss");
        sockets.args(["-H", "-t", "-n", "-p", "state", "established"]);
        let pid = fs::read_to_string(self.state(member).join("pid"));
        let pid = format!("pid={},", pid.map_err(|error| error.to_string())?.trim());
        let said = Run::of(sockets, LIMIT)?.out();
        Ok(said.lines().filter(|line| line.contains(&pid)).collect::<Vec<_>>().join("\n"))
    }

    fn signal(&self, member: &str, signal: &str) -> Result<(), String> {
        let pid = fs::read_to_string(self.state(member).join("pid"));
        let pid = pid.map_err(|error| error.to_string())?;
        let mut kill = self.up.command("kill");
        kill.args([signal, pid.trim()]);
        let run = Run::of(kill, LIMIT)?;
        if run.succeeded() { Ok(()) } else { Err(run.to_string()) }
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        for (member, _) in MEMBERS {
            let _ = self.run(member, &["down"]);
        }
    }
}

/// Changes the address of a node of the lab until it is dropped.
struct Moved<'a>(&'a Up, &'a str, [&'a str; 2]);

impl<'a> Moved<'a> {
    fn new(up: &'a Up, node: &'a str, from: &'a str, to: &'a str) -> Result<Self, String> {
        change(up, node, from, to)?;
        Ok(Self(up, node, [from, to]))
    }
}

impl Drop for Moved<'_> {
    fn drop(&mut self) {
        let Self(up, node, [from, to]) = self;
        let _ = change(up, node, to, from);
    }
}

fn change(up: &Up, node: &str, from: &str, to: &str) -> Result<(), String> {
    // In this order, since the kernel removes secondary addresses along with the first of a network.
    up.ip(node, &["address", "del", &format!("{from}/24"), "dev", "eth0"])?;
    up.ip(node, &["address", "add", &format!("{to}/24"), "dev", "eth0"])
}

/// Nodes whose broker is away start, say so, and find it when it comes back.
fn start_before_the_founder(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small::new(up, "order")?;
    for member in ["b", "a"] {
        small.sound(member, &["down"], false)?;
    }
    small.sound("b", &["up"], false)?;
    let status = small.run("b", &["status"])?;
    if !status.out().contains("does not answer") {
        return Err(format!("it does not say that the broker is away: {status}"));
    }
    small.sound("a", &["up"], false)?;
    small.sees_all()
}

/// The founder moves while others run and while it is down, and a node moves while it sleeps. Nobody types a command.
fn members_move(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let checked = (|| {
        let small = Small::new(up, "moves")?;
        let first = Moved::new(up, "n1", "10.77.0.11", "10.77.0.21")?;
        small.sees("b", "a", Some("10.77.0.21"))?;
        small.sees("c", "a", Some("10.77.0.21"))?;
        small.sound("a", &["down"], false)?;
        drop(first);
        small.sound("a", &["up"], false)?;
        small.sees("b", "a", Some("10.77.0.11"))?;
        // The laptop sleeps, and wakes up elsewhere. The founder has moved meanwhile; only the others know where.
        small.signal("b", "-STOP")?;
        let _founder = Moved::new(up, "n1", "10.77.0.11", "10.77.0.31")?;
        small.sees("c", "a", Some("10.77.0.31"))?;
        let _laptop = Moved::new(up, "n2", "10.77.0.12", "10.77.0.32")?;
        small.signal("b", "-CONT")?;
        small.sees("a", "b", Some("10.77.0.32"))?;
        small.sees("b", "a", Some("10.77.0.31"))
    })();
    // The lab's own agents have lost their addresses for a while as well.
    let restarted = ["n1", "n2"].into_iter().try_for_each(|node| {
        up.lab(&["kill", node])?;
        up.lab(&["heal", node])
    });
    let back = restarted.and_then(|()| all_join(up, &NODES));
    checked.and(back)
}

/// A draining node is shown as such, also after a restart; whoever may remove it has it drain, and so does itself.
fn drains(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small::new(up, "drains")?;
    small.refused(
        "b",
        &["cluster", "drain", "c"],
        &["only the node that made", "run this on a"],
    )?;
    small.refused("a", &["cluster", "drain", "x"], &["no node 'x'", "oswalk cluster nodes"])?;
    small.sound("a", &["cluster", "drain", "b"], false)?;
    small.says("c", "b", "draining")?;
    small.says("b", "b", "draining")?;
    let shown = small.sound("a", &["cluster", "nodes"], false)?;
    if !shown.out().contains("draining") {
        return Err(shown.to_string());
    }
    small.sound("b", &["down"], false)?;
    small.sound("b", &["up"], false)?;
    small.says("a", "b", "draining")?;
    small.sound("b", &["cluster", "drain", "b", "--undo"], false)?;
    small.sees("a", "b", None)?;
    small.sound("a", &["cluster", "drain", "a"], false)?;
    small.says("b", "a", "draining")?;
    small.sound("a", &["cluster", "drain", "a", "--undo"], false)?;
    small.sees_all()
}

/// A node, and the founder, get new keys under their names. The others learn of it, also one that was down.
fn rotated(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small::new(up, "rotates")?;
    let old = small.keys("a")?;
    let rotates = |member: &str, others: &[&str]| {
        let before = small.keys(member)?;
        small.sound(member, &["cluster", "rotate"], false)?;
        let after = small.keys(member)?;
        let changed = |(old, new): &(&(String, String), &(String, String))| old != new;
        let changed: Vec<_> =
            before.iter().zip(&after).filter(changed).map(|(old, _)| &old.0).collect();
        if changed != [member] {
            return Err(format!("{member}: {before:?}, then {after:?}"));
        }
        others.iter().try_for_each(|other| {
            let knows = || small.keys(other).is_ok_and(|keys| keys == after);
            wait_until(&format!("{other} knows the new key of {member}"), knows)
        })
    };
    rotates("b", &["a", "c"])?;
    small.sees_all()?;
    small.sound("c", &["down"], false)?;
    rotates("a", &["b"])?;
    small.sound("c", &["up"], false)?;
    small.sees_all()?;
    rotates("c", &["a", "b"])?;
    small.sees_all()?;
    // They are the same after a restart.
    let keys = small.keys("a")?;
    for member in ["b", "a"] {
        small.sound(member, &["down"], false)?;
        small.sound(member, &["up"], false)?;
    }
    small.sees_all()?;
    let same = small.keys("b")? == keys && keys.iter().all(|key| !old.contains(key));
    if same { Ok(()) } else { Err(format!("{old:?}, {keys:?}, {:?}", small.keys("b"))) }
}

/// Lines are listed by ids, which are no secrets, and can be withdrawn.
fn withdrawn(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small::new(up, "lines")?;
    let listed = || -> Result<Vec<String>, String> {
        let run = small.sound("a", &["cluster", "invite", "--list"], false)?;
        let ids = run.out();
        let ids = ids.lines().skip(1).filter_map(|line| line.split_whitespace().next());
        Ok(ids.map(str::to_owned).collect())
    };
    // The line of `init` is open.
    let before = listed()?;
    let line = up.join_line(&small.state("a"))?;
    let after = listed()?;
    let mut new = after.iter().filter(|id| !before.contains(id));
    let (Some(id), None, 1) = (new.next(), new.next(), before.len()) else {
        return Err(format!("{before:?}, then {after:?}"));
    };
    if line.contains(id.as_str()) {
        return Err(format!("the id {id} is a part of {line}"));
    }
    small.refused(
        "a",
        &["cluster", "invite", "--withdraw", "x"],
        &["no join line 'x'", "--list"],
    )?;
    small.sound("a", &["cluster", "invite", "--withdraw", id], false)?;
    small.refused("a", &["cluster", "invite", "--withdraw", id], &["no join line"])?;
    if listed()? != before {
        return Err(format!("it is still listed: {:?}", listed()?));
    }
    small.sound("c", &["cluster", "leave"], false)?;
    small.sound("a", &["cluster", "remove", "c"], false)?;
    let listen = format!("0.0.0.0:{PORT}");
    let join = ["cluster", "join", &line, "--node", "c", "--listen", &listen];
    small.refused("c", &join, &["was withdrawn", "oswalk cluster invite"])?;
    if small.state("c").join("cluster").exists() {
        return Err("a refused node has a membership".to_owned());
    }
    let line = up.join_line(&small.state("a"))?;
    small.sound("c", &["cluster", "join", &line], true)?;
    small.sees_all()
}

/// A removed node has no connection left, neither to the broker nor to any member.
fn removed(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small::new(up, "loses")?;
    let before = small.connections("c")?;
    if before.is_empty() {
        return Err("c has no connection to the broker".to_owned());
    }
    small.sound("a", &["cluster", "remove", "c"], false)?;
    let is_cut_off = || small.connections("c").is_ok_and(|open| open.is_empty());
    wait_until("c has no connection", is_cut_off)
        .map_err(|error| format!("{error}: {:?}", small.connections("c")))?;
    small.says("b", "c", "refused").or_else(|_| small.says("b", "c", "gone"))?;
    // What it calls is refused.
    let status = small.run("c", &["status", "--json"])?;
    if status.out().contains("\"broker_up\": true") {
        return Err(format!("it has the broker back: {status}"));
    }
    Ok(())
}

/// An sshd in the network of n2, whose users find an `oswalk` that joins as `b`.
struct Sshd(Child);

impl Sshd {
    fn start(small: &Small, dir: &Path) -> Result<Self, String> {
        let write = |name: &str, text: String, mode: u32| {
            let path = dir.join(name);
            fs::write(&path, text)
                .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(mode)))
        };
        let shown = dir.display();
        let state = small.state("b");
        let wrapper = format!(
            "#!/bin/sh\nexec {}/oswalk \"$@\" --node b --slots 2 --listen 0.0.0.0:{PORT}\n",
            small.up.dist.display()
        );
        let settings = format!(
            "Port 2222\nHostKey {shown}/host\nAuthorizedKeysFile {shown}/mine.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             SetEnv PATH={shown}/bin:/usr/bin:/bin OSWALK_STATE={}\n",
            state.display()
        );
        let host = |name: &str, key: &str, known: &str, port: u16| {
            format!(
                "Host {name}\n HostName 10.77.0.12\n Port {port}\n IdentityFile {shown}/{key}\n \
                 IdentitiesOnly yes\n UserKnownHostsFile {shown}/{known}\n"
            )
        };
        let client = [
            host("b", "mine", "known", 2222),
            host("unknown", "mine", "none", 2222),
            host("changed", "mine", "changed", 2222),
            host("closed", "other", "known", 2222),
            host("away", "mine", "known", 1),
        ];
        for name in ["host", "mine", "other"] {
            let mut make = small.up.command("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(dir.join(name));
            let made = Run::of(make, LIMIT)?;
            if !made.succeeded() {
                return Err(made.to_string());
            }
        }
        let known = |key: &str| {
            let key = fs::read_to_string(dir.join(key))?;
            Ok::<_, std::io::Error>(format!("[10.77.0.12]:2222 {key}"))
        };
        let all = || {
            fs::create_dir_all(dir.join("bin"))?;
            fs::create_dir_all("/run/sshd")?;
            write("bin/oswalk", wrapper, 0o755)?;
            write("sshd_config", settings, 0o600)?;
            write("ssh_config", client.concat(), 0o600)?;
            write(
                "ssh",
                format!("#!/bin/sh\nexec /usr/bin/ssh -F {shown}/ssh_config \"$@\"\n"),
                0o755,
            )?;
            write("known", known("host.pub")?, 0o600)?;
            write("changed", known("other.pub")?, 0o600)
        };
        all().map_err(|error: std::io::Error| error.to_string())?;
        let mut sshd = small.up.inside("n2", "/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(dir.join("sshd_config"));
        let log = fs::File::create(dir.join("sshd.log")).map_err(|error| error.to_string())?;
        let sshd = sshd.stderr(log).spawn().map_err(|error| format!("sshd: {error}"))?;
        let listens = || {
            fs::read_to_string(dir.join("sshd.log"))
                .is_ok_and(|log| log.contains("Server listening"))
        };
        let sshd = Self(sshd);
        wait_until("sshd listens", listens)?;
        Ok(sshd)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `init --nodes` joins whom ssh reaches. For each other one it says why not, and prints a line to paste there.
fn over_ssh(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let small = Small { up, name: "ssh".to_owned() };
    for (member, _) in MEMBERS {
        up.fresh(&small.dir(member))?;
    }
    let dir = up.fresh("ssh-files")?;
    let _sshd = Sshd::start(&small, &dir)?;
    let listen = format!("0.0.0.0:{PORT}");
    let mut init = small.oswalk("a", &["cluster", "init", "--name", "small", "--node", "a"]);
    init.args(["--listen", &listen, "--nodes", "b,unknown,changed,closed,away"]);
    let path = format!("{}:{}:/usr/bin:/bin:/usr/sbin:/sbin", dir.display(), up.dist.display());
    let run = Run::of(
        {
            init.env("PATH", path);
            init
        },
        seconds(60),
    )?;
    let (out, err) = (run.out(), run.err());
    let said = |words: &str| err.contains(words);
    let is_told = said("unknown was not joined over ssh: its host key is unknown")
        && said("changed was not joined over ssh: its host key is unknown, or another than before")
        && said("closed was not joined over ssh: ssh is not let in without a password")
        && said("away was not joined over ssh: ssh fails");
    let lines = out.matches("  oswalk cluster join 'oswalk://").count();
    if !run.succeeded() || !is_told || lines != 4 || !out.contains("b: this node belongs to") {
        let log = fs::read_to_string(dir.join("sshd.log")).unwrap_or_default();
        return Err(format!("{lines} lines: {run}\n{log}"));
    }
    small.sees("a", "b", None)?;
    small.sees("b", "a", None)
}
