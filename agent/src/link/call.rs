//! Calls another agent. A failure names its cause and remedy.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use worknode::id::NodeId;
use worknode::request::NodeCondition::{Incompatible, Refused, Unreachable};

use super::handshake::{self, HandshakeError, Peer};
use super::socket::{self, Socket};
use crate::cluster::{Failure, SAME_VERSION};
use crate::wire::VERSION;
use crate::wire::greeting::{Purpose, Secret};

/// Timeout of a call with its handshake.
pub(crate) const LINK_TIMEOUT: Duration = Duration::from_secs(2);

const OPEN_THE_WAY: &str = "check that its agent runs and that no firewall blocks its port";
const LISTEN: &str =
    "start its agent with --listen ADDRESS:PORT, or --advertise: an address that other nodes reach";
const SECRET: &str = "give all agents the same file with --secret";
const CLOCK: &str = "set the clocks of both machines, preferably by NTP";
const NAMES: &str = "check which program listens there: each node needs an address of its own";

/// Calls the agent of a node. Returns also the duration of the handshake.
pub(crate) async fn call(
    own: &Peer,
    secret: &Secret,
    (node, address): (&NodeId, SocketAddr),
    purpose: Purpose,
) -> Result<(Socket, Peer, Duration), Failure> {
    let greeted = tokio::time::timeout(LINK_TIMEOUT, greet(own, secret, address, purpose)).await;
    let (socket, peer, took) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return Err(failure(error, node, address)),
        Err(_) => {
            let why = format!("nobody answers at {address} within {} s", LINK_TIMEOUT.as_secs());
            return Err(unreachable(why, address));
        }
    };
    if peer.node == *node {
        return Ok((socket, peer, took));
    }
    let why = format!("the agent that answers at {address} is {}, not {node}", peer.node);
    let remedy = if address.ip().is_loopback() { LISTEN } else { NAMES };
    Err(Failure { condition: Refused, why, remedy })
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Connect(#[from] io::Error),
    #[error(transparent)]
    Upgrade(#[from] SocketError),
    #[error(transparent)]
    Greet(#[from] HandshakeError),
}

async fn greet(
    own: &Peer,
    secret: &Secret,
    address: SocketAddr,
    purpose: Purpose,
) -> Result<(Socket, Peer, Duration), CallError> {
    let stream = TcpStream::connect(address).await?;
    let url = format!("ws://{address}/oswalk");
    let (stream, config) = (socket::prepare(stream)?, Some(socket::config()));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, config).await?;
    let asked = Instant::now();
    let peer = handshake::call(&mut socket, own, secret, purpose).await?;
    socket.get_mut().reader_mut().open();
    Ok((socket, peer, asked.elapsed()))
}

fn failure(error: CallError, node: &NodeId, address: SocketAddr) -> Failure {
    match error {
        CallError::Connect(error) => {
            unreachable(format!("nobody answers at {address}: {error}"), address)
        }
        CallError::Greet(HandshakeError::Version { theirs, their_protocol, ours, .. }) => {
            let why = format!(
                "it runs OS Walk {theirs} (link protocol {their_protocol}), this one {ours} ({VERSION})"
            );
            Failure { condition: Incompatible, why, remedy: SAME_VERSION }
        }
        CallError::Greet(HandshakeError::Clock { ahead_s }) => {
            let side = if ahead_s < 0 { "behind" } else { "ahead of" };
            let why = format!("its clock is {} s {side} this one", ahead_s.unsigned_abs());
            Failure { condition: Incompatible, why, remedy: CLOCK }
        }
        CallError::Greet(HandshakeError::Secret(_)) => {
            let why = format!("{node} does not hold the secret that this agent holds");
            Failure { condition: Refused, why, remedy: SECRET }
        }
        CallError::Greet(HandshakeError::Garbled) | CallError::Upgrade(_) => {
            let why = format!("the program that listens at {address} is not an OS Walk agent");
            Failure { condition: Refused, why, remedy: NAMES }
        }
        CallError::Greet(HandshakeError::Broken) => {
            let why = format!("the program that listens at {address} ended the connection");
            Failure { condition: Refused, why, remedy: "see its log, oswalkd.log, for the reason" }
        }
    }
}

/// Chooses the remedy for an unreachable address. A loopback address is wrong rather than blocked by a firewall.
fn unreachable(why: String, address: SocketAddr) -> Failure {
    let remedy = if address.ip().is_loopback() { LISTEN } else { OPEN_THE_WAY };
    Failure { condition: Unreachable, why, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Messages;

    /// What `oswalk status` and the log say of a node that cannot be called.
    #[test]
    fn messages() {
        let mut messages = Messages::default();
        let node: NodeId = "n1".parse().expect("a sound name");
        let theirs = "0.2.0".into();
        let version = HandshakeError::Version {
            node: node.clone(),
            theirs,
            their_protocol: 14,
            ours: "0.1.0",
        };
        let refused = || CallError::Connect(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        for (situation, ip, error) in [
            ("nothing listens", [10, 0, 0, 1], refused()),
            ("nothing listens, on loopback", [127, 0, 0, 1], refused()),
            ("not a WebSocket", [10, 0, 0, 1], SocketError::ConnectionClosed.into()),
            ("not an agent", [10, 0, 0, 1], HandshakeError::Garbled.into()),
            ("the connection ended", [10, 0, 0, 1], HandshakeError::Broken.into()),
            ("another version", [10, 0, 0, 1], version.into()),
            ("a clock ahead", [10, 0, 0, 1], HandshakeError::Clock { ahead_s: 60 }.into()),
            ("a clock behind", [10, 0, 0, 1], HandshakeError::Clock { ahead_s: -60 }.into()),
            ("another secret", [10, 0, 0, 1], HandshakeError::Secret(node.clone()).into()),
        ] {
            let Failure { condition, why, remedy } = failure(error, &node, (ip, 7700).into());
            messages.add(situation, format_args!("{}, {why}: {remedy}", condition.name()));
        }
        messages.compare("calls");
    }
}
