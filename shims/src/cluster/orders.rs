//! The commands of `oswalk cluster` that the running agent obeys.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use worknode::id::NodeId;
use worknode::request::{InviteStatus, MemberStatus, NodeCondition, Reply, Request};

use crate::door::{Door, DoorError};
use crate::error::Failure;
use crate::places::Places;
use crate::{down, say, up};

#[derive(Debug, Args)]
pub(crate) struct Invite {
    /// Machines that may join with the line
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    nodes: u32,
    /// Hours until the line expires
    #[arg(long, value_name = "COUNT", default_value_t = HOURS, value_parser = clap::value_parser!(u64).range(1..=8760))]
    hours: u64,
    /// List the lines that still admit machines, by their ids
    #[arg(long, conflicts_with_all = ["nodes", "hours", "withdraw"])]
    list: bool,
    /// Withdraw a line, so that nobody joins with it any more
    #[arg(long, value_name = "ID", conflicts_with_all = ["nodes", "hours"])]
    withdraw: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Nodes {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The node's name
    node: NodeId,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// The node's name
    node: NodeId,
    /// Have it take walks again
    #[arg(long)]
    undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Trust {
    /// The node's name
    node: NodeId,
}

#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// New URL, with the new password, of a Redis that is the cluster's own; restarts the agent
    #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
    broker: Option<String>,
}

/// Hours until a line expires, unless others were asked for.
pub(super) const HOURS: u64 = 24;
/// Seconds of an hour and of a minute.
const HOUR_S: u64 = 3600;
const MINUTE_S: u64 = 60;

pub(super) fn invite(options: &Invite, places: &Places) -> Result<ExitCode, Failure> {
    if let Some(id) = &options.withdraw {
        ask(places, &Request::Withdraw(id.clone()))?;
        say::out(format_args!("the join line {id} is withdrawn\n"))?;
    } else if options.list {
        let Reply::Invites(invites) = ask(places, &Request::Invites)? else {
            return Err(unexpected());
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        say::out(format_args!("{}", lines(&invites, now)))?;
    } else {
        let line = line(places, options.nodes, options.hours)?;
        say::out(format_args!("oswalk cluster join '{line}'\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Has the agent make a join line.
pub(super) fn line(places: &Places, nodes: u32, hours: u64) -> Result<String, Failure> {
    match ask(places, &Request::Invite { nodes, seconds: hours * HOUR_S })? {
        Reply::JoinLine(line) => Ok(line),
        _ => Err(unexpected()),
    }
}

fn lines(invites: &[InviteStatus], now: Duration) -> String {
    let mut text = format!("{:8}  {:7}  {:10}  EXPIRES\n", "ID", "NODES", "MADE");
    for InviteStatus { id, nodes_left, made_s, expires_s } in invites {
        let made = format!("{} ago", span(now.as_secs().saturating_sub(*made_s)));
        let expires = span(expires_s.saturating_sub(now.as_secs()));
        text.push_str(&format!("{id:8}  {nodes_left:<7}  {made:10}  in {expires}\n"));
    }
    text
}

/// Returns a time in hours, or in minutes if it is less than one.
fn span(seconds: u64) -> String {
    match seconds / HOUR_S {
        0 => format!("{} min", seconds / MINUTE_S),
        hours => format!("{hours} h"),
    }
}

pub(super) fn nodes(options: &Nodes, places: &Places) -> Result<ExitCode, Failure> {
    let Reply::Members(members) = ask(places, &Request::Members)? else { return Err(unexpected()) };
    if options.json {
        let json = serde_json::to_string_pretty(&members)
            .map_err(|error| Failure::new(error.to_string()))?;
        say::out(format_args!("{json}\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    say::out(format_args!("{}", table(&members)))?;
    Ok(ExitCode::SUCCESS)
}

fn table(members: &[MemberStatus]) -> String {
    let width = members.iter().map(|it| it.node.as_str().len()).max().unwrap_or(0).max(4);
    let mut text = format!("{:width$}  {:52}  MAY INVITE  STATE\n", "NODE", "KEY");
    for MemberStatus { node, key, may_invite, state } in members {
        let may = if *may_invite { "yes" } else { "no" };
        let state = state.map_or("unknown", NodeCondition::name);
        text.push_str(&format!("{:width$}  {key}  {may:10}  {state}\n", node.as_str()));
    }
    text
}

pub(super) fn remove(options: &Remove, places: &Places) -> Result<ExitCode, Failure> {
    let node = &options.node;
    let mut door = Door::open(&places.door()).map_err(failed)?;
    door.ask(&Request::Remove(node.clone())).map_err(failed)?;
    say::out(format_args!("node {node} is removed\n"))?;
    let broker = door.status().map(|status| status.broker).unwrap_or_default();
    if broker.starts_with("redis://") {
        say::err(format!(
            "note: {node} still knows the password of the Redis at {broker}: change it there, then run 'oswalk cluster rotate' \
             on each node with the new URL in OSWALK_BROKER"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn drain(options: &Drain, places: &Places) -> Result<ExitCode, Failure> {
    let Drain { node, undo } = options;
    ask(places, &Request::Drain { node: node.clone(), drains: !undo })?;
    let does = if *undo { "takes walks again" } else { "finishes its walks and takes no others" };
    say::out(format_args!("node {node} {does}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn trust(Trust { node }: &Trust, places: &Places) -> Result<ExitCode, Failure> {
    ask(places, &Request::Trust(node.clone()))?;
    say::out(format_args!("node {node} takes walks of this machine again\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn rotate(options: &Rotate, places: &Places) -> Result<ExitCode, Failure> {
    let broker = options.broker.clone().filter(|url| !url.is_empty());
    let restarts = broker.is_some();
    ask(places, &Request::Rotate { broker })?;
    if restarts {
        down::run(places)?;
        up::start(places)?;
    }
    say::out(format_args!(
        "this node has a new key, and its old one is removed; join lines that it made before are void\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Asks the agent.
pub(crate) fn ask(places: &Places, request: &Request) -> Result<Reply, Failure> {
    let mut door = Door::open(&places.door()).map_err(failed)?;
    door.ask(request).map_err(failed)
}

pub(crate) fn failed(error: DoorError) -> Failure {
    match error {
        DoorError::Failed(said) => Failure::new(said),
        error => Failure::from_error(&error).hint(error.hint()),
    }
}

/// Returns the failure of an agent that answers something else.
pub(crate) fn unexpected() -> Failure {
    Failure::new("the agent gave an unknown answer").hint("use oswalk and oswalkd of one version")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables() {
        let member = |node: &str, may_invite, state| MemberStatus {
            node: node.parse().expect("a name"),
            key: "k".repeat(52),
            may_invite,
            state,
        };
        let members = [
            member("n1", true, Some(NodeCondition::Alive)),
            member("laptop", false, Some(NodeCondition::Draining)),
            member("n3", false, None),
        ];
        let key = "k".repeat(52);
        assert_eq!(
            table(&members),
            format!(
                "NODE    KEY                                                   MAY INVITE  STATE\n\
                 n1      {key}  yes         alive\n\
                 laptop  {key}  no          draining\n\
                 n3      {key}  no          unknown\n"
            )
        );
        let invite = |nodes_left, expires_s| InviteStatus {
            id: "0a1b2c3d".to_owned(),
            nodes_left,
            made_s: 940,
            expires_s,
        };
        assert_eq!(
            lines(&[invite(1, 90_000), invite(12, 1_900)], Duration::from_secs(1_000)),
            "ID        NODES    MADE        EXPIRES\n\
             0a1b2c3d  1        1 min ago   in 24 h\n\
             0a1b2c3d  12       1 min ago   in 15 min\n"
        );
    }
}
