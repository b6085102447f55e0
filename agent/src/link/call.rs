//! Calls another agent. A failure names its cause and remedy.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tokio_tungstenite::tungstenite::Error as SocketError;
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::request::NodeCondition::{Incompatible, Refused, Unreachable};

use super::handshake::{self, HandshakeError, Peer};
use super::socket::{self, Socket};
use crate::cluster::{Failure, LISTEN, SAME_VERSION};
use crate::membership::Membership;
use crate::tls::{self, Use};
use crate::wire::VERSION;
use crate::wire::greeting::Purpose;

/// Timeout of a call with its handshake.
pub(crate) const LINK_TIMEOUT: Duration = Duration::from_secs(2);

const OPEN_THE_WAY: &str = "check that its agent runs and that no firewall blocks its port";
const JOIN: &str = "join it with a line from 'oswalk cluster invite'";
const REJOIN: &str =
    "if this node was removed, run 'oswalk cluster leave' here, and join again with a new line";
const REMOVED: &str = "if it is to come back, run 'oswalk cluster leave' there, and join it again";
const CLOCK: &str = "set the clocks of both machines, preferably by NTP";
const NAMES: &str = "check which program listens there: each node needs an address of its own, and one that lost its files joins again";

/// An answered call.
pub(crate) struct Called {
    pub(crate) socket: Socket,
    pub(crate) peer: Peer,
    /// The duration of the handshake.
    pub(crate) took: Duration,
    /// Whether the peer told of new members or removals.
    pub(crate) has_news: bool,
}

/// Calls the agent of a node.
pub(crate) async fn call(
    own: &Peer,
    membership: &Membership,
    (node, address): (&NodeId, SocketAddr),
    purpose: Purpose,
) -> Result<Called, Failure> {
    let Some(key) = membership.key_of(node) else {
        let why = "it is not a member of this cluster, or was removed".to_owned();
        return Err(Failure { condition: Refused, why, remedy: JOIN });
    };
    let greeting = greet(own, (membership, key), address, purpose);
    match tokio::time::timeout(LINK_TIMEOUT, greeting).await {
        Ok(Ok(called)) => Ok(called),
        Ok(Err(error)) => Err(failure(error, node, address)),
        Err(_) => {
            let why = format!("nobody answers at {address} within {} s", LINK_TIMEOUT.as_secs());
            Err(unreachable(why, address))
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error(transparent)]
    Connect(io::Error),
    #[error(transparent)]
    Tls(io::Error),
    #[error(transparent)]
    Upgrade(#[from] SocketError),
    #[error(transparent)]
    Greet(#[from] HandshakeError),
}

async fn greet(
    own: &Peer,
    (membership, key): (&Membership, Key),
    address: SocketAddr,
    purpose: Purpose,
) -> Result<Called, CallError> {
    let stream = TcpStream::connect(address).await.and_then(socket::prepare);
    let connector = TlsConnector::from(membership.contacts.identity().caller(key, Use::Link));
    let connected = connector.connect(tls::nameless(), stream.map_err(CallError::Connect)?).await;
    let stream = TlsStream::Client(connected.map_err(CallError::Tls)?);
    let url = format!("ws://{address}/oswalk");
    let config = Some(socket::config());
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(url, stream, config).await?;
    // The peer has proved a member's key.
    socket::lift(&mut socket);
    let asked = Instant::now();
    let (peer, has_news) = handshake::call(&mut socket, own, (membership, key), purpose).await?;
    Ok(Called { socket, peer, took: asked.elapsed(), has_news })
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
        CallError::Tls(error) => {
            let why = match proves_another_key(&error) {
                true => format!("the agent that answers at {address} does not prove {node}'s key"),
                false => format!(
                    "the program that listens at {address} does not speak TLS as agents do: {error}"
                ),
            };
            Failure { condition: Refused, why, remedy: NAMES }
        }
        CallError::Greet(HandshakeError::Removed(_)) => {
            let why = "this node was removed from the cluster".to_owned();
            Failure { condition: Refused, why, remedy: REJOIN }
        }
        CallError::Greet(HandshakeError::NotTaken(_)) => {
            let why = "it does not take this node as a member".to_owned();
            Failure { condition: Refused, why, remedy: REJOIN }
        }
        CallError::Greet(HandshakeError::Stranger(other)) if other == *node => {
            let why = format!("{node} was removed from the cluster");
            Failure { condition: Refused, why, remedy: REMOVED }
        }
        CallError::Greet(HandshakeError::Stranger(other)) => {
            let why = format!("the agent that answers at {address} is {other}, not {node}");
            Failure { condition: Refused, why, remedy: NAMES }
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

fn proves_another_key(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::InvalidCertificate(_)))
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
        let other: NodeId = "n9".parse().expect("a sound name");
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
            ("a removed node", [10, 0, 0, 1], HandshakeError::Stranger(node.clone()).into()),
            ("another node", [10, 0, 0, 1], HandshakeError::Stranger(other).into()),
            ("another key", [10, 0, 0, 1], CallError::Tls(io::Error::other("wrong key"))),
        ] {
            let Failure { condition, why, remedy } = failure(error, &node, (ip, 7700).into());
            messages.add(situation, format_args!("{}, {why}: {remedy}", condition.name()));
        }
        messages.compare("calls");
    }
}
