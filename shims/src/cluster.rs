//! `oswalk cluster`: makes and joins a cluster; `orders` are the commands that the running agent obeys;
//! `over_ssh` joins other machines.

pub(crate) mod orders;
mod over_ssh;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};

use clap::{Args, Subcommand};
use orders::{Drain, Invite, Nodes, Remove, Rotate, Trust};
use worknode::id::NodeId;
use worknode::membership::{ClusterName, JoinLine};

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::{self, Places};
use crate::up::{self, AgentOptions, address, last_message};
use crate::{down, say};

/// Make, join and keep a cluster
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Make a cluster with this machine as its first node
    Init(Init),
    /// Join a cluster with a line from 'oswalk cluster invite'
    Join(Join),
    /// Print a line with which other machines join
    Invite(Invite),
    /// List the nodes that belong to the cluster
    Nodes(Nodes),
    /// Remove a node from the cluster at once
    Remove(Remove),
    /// Have a node finish its walks and take no others
    Drain(Drain),
    /// Let a quarantined node take walks of this machine again
    Trust(Trust),
    /// Give this node a new key, at once
    Rotate(Rotate),
    /// Leave the cluster
    Leave(Leave),
}

#[derive(Debug, Args)]
pub(crate) struct Leave {
    /// On the node that made the cluster: delete its owner's key, without which nobody can admit or remove nodes
    #[arg(long)]
    end_cluster: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Name of the cluster
    #[arg(long, default_value = "cluster")]
    name: ClusterName,
    /// Machines to join to it over ssh, where oswalk is installed
    #[arg(long, value_name = "HOST,…", value_delimiter = ',')]
    nodes: Vec<String>,
    /// Redis or Valkey to use as broker instead of one that this node runs
    #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
    broker: Option<String>,
    #[command(flatten)]
    place: PlaceOptions,
    #[command(flatten)]
    agent: AgentOptions,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The line, which begins with oswalk://; '-' reads it from standard input, where 'ps' does not show it
    line: String,
    #[command(flatten)]
    place: PlaceOptions,
    #[command(flatten)]
    agent: AgentOptions,
}

#[derive(Debug, Args)]
struct PlaceOptions {
    /// Name of this node [default: the host name]
    #[arg(long)]
    node: Option<NodeId>,
    /// Address to accept calls of other nodes on [default: all addresses, port 7700]
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    listen: Option<SocketAddr>,
    /// Address at which other nodes reach this one, if not that of --listen
    #[arg(long, value_name = "IP[:PORT]", value_parser = address)]
    advertise: Option<SocketAddr>,
}

/// A join line is far shorter.
const LINE_BYTES_MAX: u64 = 4096;

pub(crate) fn run(command: &Cluster, places: &Places) -> Result<ExitCode, Failure> {
    match command {
        Cluster::Init(options) => init(options, places),
        Cluster::Join(options) => join(options, places),
        Cluster::Invite(options) => orders::invite(options, places),
        Cluster::Nodes(options) => orders::nodes(options, places),
        Cluster::Remove(options) => orders::remove(options, places),
        Cluster::Drain(options) => orders::drain(options, places),
        Cluster::Trust(options) => orders::trust(options, places),
        Cluster::Rotate(options) => orders::rotate(options, places),
        Cluster::Leave(options) => leave(options, places),
    }
}

fn init(options: &Init, places: &Places) -> Result<ExitCode, Failure> {
    let name = options.name.to_string();
    let mut arguments: Vec<OsString> = vec!["found".into(), "--cluster".into(), name.into()];
    arguments.extend(options.place.for_agent());
    arguments.extend(options.agent.for_agent());
    let broker = options.broker.as_deref().filter(|url| !url.is_empty());
    change(&arguments, broker, "", places)?;
    if let Err(failure) = up::start(places) {
        // Nobody has joined yet, so the next attempt can begin anew.
        if agent_has_ended(places) {
            let _ = std::fs::remove_dir_all(places.cluster());
        }
        return Err(failure);
    }
    let count = u32::try_from(options.nodes.len().max(1)).unwrap_or(u32::MAX);
    let line = orders::line(places, count, orders::HOURS)?;
    say::out(format_args!("cluster {} is made\n", options.name))?;
    if options.nodes.is_empty() {
        paste("another machine, where OS Walk is installed", &line)?;
    }
    for host in &options.nodes {
        match over_ssh::join(host, &line) {
            Ok(said) => {
                let last = said.lines().next_back().unwrap_or("joined");
                say::out(format_args!("{host}: {last}\n"))?;
            }
            Err(why) => {
                say::err(format!("note: {host} was not joined over ssh: {why}"));
                paste(host, &line)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what the user is to run on a machine.
fn paste(machine: &str, line: &str) -> Result<(), Failure> {
    let hours = orders::HOURS;
    say::out(format_args!(
        "On {machine}, run within {hours} hours:\n\n  oswalk cluster join '{line}'\n\n"
    ))
}

fn join(options: &Join, places: &Places) -> Result<ExitCode, Failure> {
    let line = match options.line.as_str() {
        "-" => read_line()?,
        line => line.to_owned(),
    };
    line.parse::<JoinLine>().map_err(|error| Failure::new(error.to_string()))?;
    let mut arguments: Vec<OsString> = vec!["join".into()];
    arguments.extend(options.place.for_agent());
    arguments.extend(options.agent.for_agent());
    let cluster = change(&arguments, None, &line, places)?;
    up::start(places).inspect_err(|_| {
        say::err(format!("note: this node belongs to the cluster {cluster} now; when its agent can start, run 'oswalk up'"));
    })?;
    say::out(format_args!("this node belongs to the cluster {cluster}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads a join line from standard input.
fn read_line() -> Result<String, Failure> {
    let mut said = String::new();
    let read = io::stdin().lock().take(LINE_BYTES_MAX).read_to_string(&mut said);
    read.map_err(|error| {
        Failure::new(format!("failed to read the join line from standard input: {error}"))
    })?;
    // What 'oswalk cluster invite' prints has words around it.
    let line = said.split([' ', '\n', '\'', '"']).find(|word| word.starts_with("oswalk://"));
    Ok(line.unwrap_or(&said).to_owned())
}

/// Has the agent's program change this node's membership, for which the agent must be down. Returns what it prints.
fn change(
    arguments: &[OsString],
    broker: Option<&str>,
    input: &str,
    places: &Places,
) -> Result<String, Failure> {
    up::check_rights()?;
    end_lone_agent(places)?;
    let agent = places::agent()?;
    places.make()?;
    let mut command = Command::new(&agent);
    command.arg("--state").arg(&places.state).args(arguments);
    match broker {
        Some(url) => command.env("OSWALK_BROKER", url),
        None => command.env_remove("OSWALK_BROKER"),
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut run = || -> io::Result<std::process::Output> {
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that has failed already reads nothing.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| up::cannot_start(&agent, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(last_message(&said).unwrap_or_else(|| "the agent failed".to_owned())))
}

/// Ends an agent that belongs to no cluster, so that it starts again as a member.
fn end_lone_agent(places: &Places) -> Result<(), Failure> {
    match Door::open(&places.own_door()).and_then(|mut door| door.status()) {
        Err(DoorError::NoAgent { .. }) => Ok(()),
        Err(error) => Err(Failure::from_error(&error).hint(error.hint())),
        Ok(status) => match status.settings.cluster {
            Some(name) => {
                Err(Failure::new(format!("this node belongs to the cluster '{name}' already"))
                    .hint("'oswalk cluster invite' on the node that made it prints a line for another node; 'oswalk cluster leave' ends this one's membership"))
            }
            None => down::run(places).map(drop),
        },
    }
}

/// Tells whether the agent that was started has exited. One that is slow to start has not.
fn agent_has_ended(places: &Places) -> bool {
    let pid = std::fs::read_to_string(places.state.join("pid"));
    pid.ok().and_then(|pid| pid.trim().parse().ok()).is_none_or(down::is_gone)
}

fn leave(options: &Leave, places: &Places) -> Result<ExitCode, Failure> {
    let dir = places.cluster();
    if !places.is_member() {
        return Err(Failure::new("this node belongs to no cluster")
            .hint("'oswalk status' shows the cluster of root's agent, which root can leave"));
    }
    let is_owner = dir.join("owner").exists();
    if is_owner && !options.end_cluster {
        return Err(Failure::new(
            "this node made the cluster: without its owner's key nobody can admit or remove nodes",
        )
        .hint(format!(
            "'oswalk cluster invite' adds a node; keep a copy of {}, then repeat with --end-cluster",
            dir.join("owner").display()
        )));
    }
    down::run(places)?;
    std::fs::remove_dir_all(&dir).map_err(|error| {
        Failure::new(format!("failed to remove {}: {error}", dir.display()))
            .hint("remove that directory")
    })?;
    let said = if is_owner {
        "this node has left the cluster, and so should the others\n"
    } else {
        "this node has left the cluster; on the node that made it, 'oswalk cluster remove' frees its name\n"
    };
    say::out(format_args!("{said}"))?;
    Ok(ExitCode::SUCCESS)
}

impl PlaceOptions {
    fn for_agent(&self) -> Vec<OsString> {
        let options: [(&str, Option<OsString>); 3] = [
            ("--node", self.node.as_ref().map(|node| node.as_str().into())),
            ("--listen", self.listen.map(|address| address.to_string().into())),
            ("--advertise", self.advertise.map(|address| address.to_string().into())),
        ];
        let given = options.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.flat_map(|(name, value)| [name.into(), value]).collect()
    }
}
