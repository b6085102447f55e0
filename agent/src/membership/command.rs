//! The commands by which a node founds or joins a cluster, while its agent is down.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use anyhow::Context;
use worknode::membership::JoinLine;

use super::join::join;
use super::{Membership, Place};
use crate::config::{Command, PlaceOptions};
use crate::machine;
use crate::state::State;
use crate::wire::joining::BrokerPlace;

/// A join line is far shorter.
const LINE_BYTES_MAX: u64 = 4096;

/// Executes a command. Prints the name of the cluster.
///
/// # Errors
/// It failed, and nothing was changed.
pub(crate) fn run(state: &Path, command: &Command) -> anyhow::Result<()> {
    let state = State::take(state)?;
    let (Command::Found { place, .. } | Command::Join { place }) = command;
    check_free(place.listen)?;
    let cluster = match command {
        Command::Found { cluster, broker, place } => {
            let broker = broker.clone().filter(|url| !url.is_empty()).map(BrokerPlace::Url);
            let place = Place { broker, ..chosen(place)? };
            Membership::found(state.dir(), cluster.clone(), &place)?;
            cluster.clone()
        }
        Command::Join { place } => {
            let mut line = String::new();
            let read = std::io::stdin().lock().take(LINE_BYTES_MAX).read_to_string(&mut line);
            read.context("failed to read the join line from standard input")?;
            let line: JoinLine = line.parse()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(join(state.dir(), &line, chosen(place)?))?.name().clone()
        }
    };
    writeln!(std::io::stdout(), "{cluster}").context("failed to print the cluster's name")
}

/// Succeeds if the agent will be able to listen there.
fn check_free(address: SocketAddr) -> anyhow::Result<()> {
    TcpListener::bind(address).map(drop).with_context(|| {
        format!(
            "failed to listen on {address}: end the program that uses this port, or choose another --listen IP:PORT"
        )
    })
}

fn chosen(place: &PlaceOptions) -> anyhow::Result<Place> {
    let node = place.node.clone().map_or_else(machine::default_name, Ok)?;
    let PlaceOptions { listen, advertise, bounds, .. } = place.clone();
    Ok(Place { node, listen, advertise, bounds, broker: None })
}
