//! `oswalk status`: shows the agent and its cluster.

use std::process::ExitCode;

use clap::Args;
use worknode::request::{NodeCondition, NodeStatus, Status};

use crate::door::Door;
use crate::error::Failure;
use crate::places::Places;
use crate::{say, watch};

/// Show the agent and the nodes of its cluster
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it again every second, until q or Ctrl-C; with --json, print one object a line
    #[arg(long)]
    watch: bool,
}

pub(crate) fn run(options: &Options, places: &Places) -> Result<ExitCode, Failure> {
    let status = ask(places)?;
    if options.watch {
        return watch::run(status, || ask(places), if options.json { line } else { table });
    }
    if options.json {
        let text = serde_json::to_string_pretty(&status);
        say::out(text.map_err(|error| Failure::from_error(&error))? + "\n")?;
    } else {
        say::out(table(&status))?;
    }
    Ok(ExitCode::from(u8::from(!status.broker_up)))
}

fn ask(places: &Places) -> Result<Status, Failure> {
    let status = Door::open(&places.door()).and_then(|mut door| door.status());
    let mut status = status.map_err(|error| Failure::from_error(&error).hint(error.hint()))?;
    if !status.broker_up {
        // The last known states may be outdated.
        status.nodes.iter_mut().for_each(|node| node.state = NodeCondition::Unknown);
    }
    Ok(status)
}

/// Returns the status as a line of JSON.
fn line(status: &Status) -> String {
    serde_json::to_string(status).expect("a status has string keys only") + "\n"
}

const COLUMNS: [&str; 8] =
    ["NODE", "ADDRESS", "VERSION", "SLOTS", "RUNNING", "LOAD", "TAKES", "STATE"];

/// Returns the status as a table, and a line for each problem.
pub(crate) fn table(status: &Status) -> String {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    for node in &status.nodes {
        let mark = if node.node == status.node { "*" } else { "" };
        rows.push([
            format!("{}{mark}", node.node),
            node.address.to_string(),
            node.version.to_string(),
            node.slots.to_string(),
            node.running.to_string(),
            format!("{}.{:02}", node.load_percent / 100, node.load_percent % 100),
            node.takes.name().to_owned(),
            node.state.name().to_owned(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let state = if status.broker_up { "up" } else { "away" };
    let sessions = if status.sessions == 1 { "session" } else { "sessions" };
    let mut text = format!("broker {} ({state}), {} {sessions}\n", status.broker, status.sessions);
    let machine = &status.machine;
    text += &format!(
        "this node: load {:.2} on {} processors, store {:.1} of {:.1} GB\n",
        machine.load,
        machine.processors,
        gigabytes(machine.store_bytes),
        gigabytes(status.settings.store_bytes),
    );
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    if let Some(removed) = &status.removed {
        text += &format!("{removed}\n");
    } else if !status.broker_up {
        let remedy = worknode::notice::remedy_of_broker(&status.broker);
        text += &format!("the broker {} does not answer: {remedy}\n", status.broker);
    }
    if status.conflicts > 0 {
        let paths = if status.conflicts == 1 { "path is" } else { "paths are" };
        text += &format!(
            "{} {paths} in conflict: 'oswalk fs conflicts' lists them\n",
            status.conflicts
        );
    }
    if let Some(dir) = &status.full_volume {
        let remedy = worknode::notice::REMEDY_OF_FULL_VOLUME;
        text += &format!("the disk of the volume in {dir} is full: {remedy}\n");
    }
    for node in &status.nodes {
        text += &problem(node);
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn gigabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e9
}

/// Returns a line about a node that takes no walks of this origin, if the reason is known.
fn problem(node: &NodeStatus) -> String {
    // For a node that is gone, `why` says when it was last seen.
    let seen = (node.last_seen > 0 && node.state != NodeCondition::Gone)
        .then(|| format!("last seen {} s ago", node.last_seen));
    let parts: Vec<_> =
        [seen, node.why.clone(), node.remedy.clone()].into_iter().flatten().collect();
    if node.state == NodeCondition::Alive || parts.is_empty() {
        return String::new();
    }
    format!("{} is {}: {}\n", node.node, node.state.name(), parts.join("; "))
}

#[cfg(test)]
mod tests {
    use worknode::request::NodeTakes;

    use super::*;
    use crate::examples;

    #[test]
    fn the_table() {
        let node = |name: &str, slots: u8, state| NodeStatus {
            address: ([10, 0, 0, slots], 7000).into(),
            slots: slots.into(),
            running: 1,
            ..examples::node(name, state)
        };
        let status = Status {
            node: "laptop".parse().expect("a sound name"),
            sessions: 2,
            nodes: vec![
                NodeStatus {
                    takes: NodeTakes::CompileSteps,
                    load_percent: 105,
                    ..node("laptop", 4, NodeCondition::Alive)
                },
                node("n1", 64, NodeCondition::Gone),
            ],
            ..examples::cluster()
        };
        assert_eq!(
            table(&status),
            "broker redis://hub:6379/ (up), 2 sessions\n\
             this node: load 1.50 on 4 processors, store 3.2 of 21.5 GB\n\
             NODE     ADDRESS         VERSION  SLOTS  RUNNING  LOAD  TAKES          STATE\n\
             laptop*  10.0.0.4:7000   0.1.0    4      1        1.05  compile steps  alive\n\
             n1       10.0.0.64:7000  0.1.0    64     1        0.00  all            gone\n"
        );
        let mut status = status;
        status.broker_up = false;
        status.nodes.remove(0);
        let why = ("it does not prove its key", "check which program listens there");
        let refused = &mut status.nodes[0];
        refused.state = NodeCondition::Refused;
        (refused.why, refused.remedy) = (Some(why.0.to_owned()), Some(why.1.to_owned()));
        refused.last_seen = 12;
        assert_eq!(
            table(&status),
            "broker redis://hub:6379/ (away), 2 sessions\n\
             this node: load 1.50 on 4 processors, store 3.2 of 21.5 GB\n\
             NODE  ADDRESS         VERSION  SLOTS  RUNNING  LOAD  TAKES  STATE\n\
             n1    10.0.0.64:7000  0.1.0    64     1        0.00  all    refused\n\
             the broker redis://hub:6379/ does not answer: check that Redis runs there and that no firewall blocks its port\n\
             n1 is refused: last seen 12 s ago; it does not prove its key; check which program listens there\n"
        );
    }
}
