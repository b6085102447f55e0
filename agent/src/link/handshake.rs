//! Performs the handshake on a new connection: exchanges the messages of [`crate::wire::greeting`], and decides whether
//! the link is accepted.

use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use worknode::id::NodeId;
use worknode::said::Said;

use crate::wire::VERSION;
use crate::wire::greeting::{self, Hello, Proof, Purpose, Secret, Side};
use crate::wire::limits::CLOCKS_APART_MAX_S;
use crate::wire::message::encode;

/// An agent's identity after the handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
}

/// Why a handshake fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the connection ended during the handshake")]
    Broken,
    #[error("the peer does not speak OS Walk's link protocol")]
    Garbled,
    #[error(
        "node {node} runs OS Walk {theirs} (link protocol {their_protocol}), this one {ours} \
         ({VERSION}): install one version on all nodes"
    )]
    Version { node: NodeId, theirs: Said, their_protocol: u32, ours: &'static str },
    #[error("the other side's clock is {} s {} this one", .ahead_s.unsigned_abs(), if *.ahead_s < 0 { "behind" } else { "ahead of" })]
    Clock { ahead_s: i64 },
    #[error("node {0} does not hold this cluster's secret: give all agents the same --secret file")]
    Secret(NodeId),
}

/// Performs the caller's side.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    own: &Peer,
    secret: &Secret,
    purpose: Purpose,
) -> Result<Peer, HandshakeError> {
    let mine = hello(own, purpose);
    send(socket, &mine).await?;
    let theirs: Hello = receive(socket).await?;
    check_version(&theirs)?;
    let proof: Proof = receive(socket).await?;
    check_proof(&theirs, proof, secret.prove(Side::Callee, &mine, &theirs))?;
    check_clock(theirs.clock_s, clock_s())?;
    send(socket, &secret.prove(Side::Caller, &mine, &theirs)).await?;
    Ok(Peer { node: theirs.node, incarnation: theirs.incarnation })
}

/// Performs the callee's side.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    own: &Peer,
    secret: &Secret,
) -> Result<(Peer, Purpose), HandshakeError> {
    let theirs: Hello = receive(socket).await?;
    let mine = hello(own, Purpose::Link);
    send(socket, &mine).await?;
    check_version(&theirs)?;
    send(socket, &secret.prove(Side::Callee, &theirs, &mine)).await?;
    let proof: Proof = receive(socket).await?;
    check_proof(&theirs, proof, secret.prove(Side::Caller, &theirs, &mine))?;
    check_clock(theirs.clock_s, clock_s())?;
    Ok((Peer { node: theirs.node, incarnation: theirs.incarnation }, theirs.purpose))
}

fn hello(own: &Peer, purpose: Purpose) -> Hello {
    let mut nonce = [0; 32];
    crate::random::fill(&mut nonce);
    let version = env!("CARGO_PKG_VERSION").into();
    let Peer { node, incarnation } = own.clone();
    Hello { protocol: VERSION, version, node, incarnation, purpose, clock_s: clock_s(), nonce }
}

fn clock_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn check_clock(theirs: u64, ours: u64) -> Result<(), HandshakeError> {
    if theirs.abs_diff(ours) <= CLOCKS_APART_MAX_S {
        return Ok(());
    }
    let ahead_s = i128::from(theirs) - i128::from(ours);
    Err(HandshakeError::Clock { ahead_s: i64::try_from(ahead_s).unwrap_or(i64::MAX) })
}

fn check_version(theirs: &Hello) -> Result<(), HandshakeError> {
    let ours = env!("CARGO_PKG_VERSION");
    if theirs.protocol == VERSION && theirs.version.as_str() == ours {
        return Ok(());
    }
    Err(HandshakeError::Version {
        node: theirs.node.clone(),
        theirs: theirs.version.clone(),
        their_protocol: theirs.protocol,
        ours,
    })
}

fn check_proof(theirs: &Hello, given: Proof, expected: Proof) -> Result<(), HandshakeError> {
    if given == expected { Ok(()) } else { Err(HandshakeError::Secret(theirs.node.clone())) }
}

async fn send<S: AsyncRead + AsyncWrite + Unpin, T: Serialize>(
    socket: &mut WebSocketStream<S>,
    message: &T,
) -> Result<(), HandshakeError> {
    socket.send(Message::Binary(encode(message).into())).await.map_err(|_| HandshakeError::Broken)
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin, T: DeserializeOwned>(
    socket: &mut WebSocketStream<S>,
) -> Result<T, HandshakeError> {
    match socket.next().await {
        Some(Ok(Message::Binary(bytes))) => greeting::decode(&bytes).ok_or(HandshakeError::Garbled),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(HandshakeError::Broken),
        Some(Ok(_)) => Err(HandshakeError::Garbled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::limits::GREETING_MESSAGE_BYTES_MAX;
    use tokio_tungstenite::tungstenite::protocol::Role;

    fn peer(name: &str) -> Peer {
        let node = name.parse().expect("a node's name");
        Peer { node, incarnation: u64::MAX - name.len() as u64 }
    }

    type Socket = WebSocketStream<tokio::io::DuplexStream>;

    /// Connects a caller with another side, and returns the results of both.
    fn meet<T>(secret: Secret, other: impl AsyncFn(&mut Socket) -> T) -> (Result<Peer, String>, T) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (near, far) = tokio::io::duplex(4096);
            let name = peer("caller");
            let caller = async {
                let mut socket = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
                call(&mut socket, &name, &secret, Purpose::Link)
                    .await
                    .map_err(|error| error.to_string())
            };
            let callee = async {
                let mut socket = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
                other(&mut socket).await
            };
            tokio::join!(caller, callee)
        })
    }

    #[test]
    fn agents_with_the_same_secret_connect() {
        let name = peer("callee");
        let secret = || Secret::new(b"seven");
        let (caller, callee) =
            meet(secret(), async |socket| answer(socket, &name, &secret()).await);
        assert_eq!(caller, Ok(name));
        assert_eq!(callee.expect("greeted"), (peer("caller"), Purpose::Link));
    }

    #[test]
    fn another_secret_or_version_is_refused_by_name() {
        let name = peer("callee");
        let other = Secret::new(b"eight");
        let (caller, callee) =
            meet(Secret::new(b"seven"), async |socket| answer(socket, &name, &other).await);
        assert!(caller.expect_err("refused").contains("--secret"), "names the remedy");
        assert!(callee.is_err());
        let (caller, ()) = meet(Secret::new(b"seven"), async |socket| {
            let _: Hello = receive(socket).await.expect("a hello");
            let theirs = Hello { version: "9.9.9".into(), ..hello(&name, Purpose::Link) };
            send(socket, &theirs).await.expect("heard");
        });
        let said = caller.expect_err("refused");
        assert!(said.contains("9.9.9") && said.contains("install one version"), "{said}");
    }

    #[test]
    fn a_hello_is_short_and_names_a_node() {
        let name = peer("callee");
        let sent = |theirs: Vec<u8>| {
            let (caller, ()) = meet(Secret::new(b"seven"), async |socket| {
                let _: Hello = receive(socket).await.expect("a hello");
                socket.send(Message::Binary(theirs.clone().into())).await.expect("heard");
            });
            caller.expect_err("refused")
        };
        let garbled = HandshakeError::Garbled.to_string();
        let hello = encode(&hello(&name, Purpose::Link));
        assert_eq!(sent(vec![b'x'; 1_000_000 / 512]), garbled);
        assert_eq!(sent([&hello[..], &[0; GREETING_MESSAGE_BYTES_MAX]].concat()), garbled);
        // The name is as long.
        let at = hello.windows(6).position(|bytes| bytes == b"callee").expect("it is in there");
        let renamed = [&hello[..at], b"../../", &hello[at + 6..]].concat();
        assert_eq!(sent(renamed), garbled);
    }

    #[test]
    fn clocks_agree() {
        for (theirs, ours) in [(100, 100), (100, 110), (110, 100)] {
            assert!(check_clock(theirs, ours).is_ok());
        }
        assert!(check_clock(u64::MAX, 0).is_err() && check_clock(0, u64::MAX).is_err());
    }

    #[test]
    fn clocks_are_ahead_or_behind() {
        let said = |theirs| check_clock(theirs, 10_000).expect_err("far apart").to_string();
        assert_eq!(said(6_400), "the other side's clock is 3600 s behind this one");
        assert_eq!(said(13_600), "the other side's clock is 3600 s ahead of this one");
        assert!(check_clock(10_005, 10_000).is_ok());
    }

    #[test]
    fn versions_are_escaped() {
        let name = peer("callee");
        let (caller, ()) = meet(Secret::new(b"seven"), async |socket| {
            let _: Hello = receive(socket).await.expect("a hello");
            // As long as "0.1.0", which is what the encoded hello has there.
            let hello = encode(&hello(&name, Purpose::Link));
            let at = hello.windows(5).position(|bytes| bytes == b"0.1.0").expect("a version");
            let forged = [&hello[..at], b"\x1b[2J\n", &hello[at + 5..]].concat();
            socket.send(Message::Binary(forged.into())).await.expect("heard");
        });
        let said = caller.expect_err("refused");
        assert!(said.contains("\\u{1b}[2J\\n") && !said.contains(char::is_control), "{said}");
    }
}
