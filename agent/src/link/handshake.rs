//! Greets over a new connection whose peer TLS has authenticated: sends and receives the messages of
//! [`crate::wire::greeting`], and decides whether two agents come together.

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use worknode::id::NodeId;
use worknode::key::Key;
use worknode::said::Said;

use crate::clock::now_s;
use crate::membership::Membership;
use crate::wire::VERSION;
use crate::wire::greeting::{self, Hello, Ordered, Purpose, Spoken};
use crate::wire::limits::CLOCKS_APART_MAX_S;
use crate::wire::message::encode;

/// An agent, as the other one knows it after they have greeted each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    pub(crate) incarnation: u64,
    /// The key that TLS has proved. Absent for this agent itself.
    pub(crate) key: Option<Key>,
    /// The version of the protocol that both sides speak.
    pub(crate) speaks: u32,
}

/// Why two agents do not come together.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("the link broke while the agents greeted each other")]
    Broken,
    #[error("the other side does not speak OS Walk's link protocol")]
    Garbled,
    #[error(
        "node {node} runs OS Walk {theirs} (link protocol {their_protocol}), this one {ours} \
         ({VERSION}): install one version on all nodes"
    )]
    Version { node: NodeId, theirs: Said, their_protocol: u32, ours: &'static str },
    #[error("the other side's clock is {} s {} this one", .ahead_s.unsigned_abs(), if *.ahead_s < 0 { "behind" } else { "ahead of" })]
    Clock { ahead_s: i64 },
    #[error(
        "node {0} is not a member of this cluster, or was removed: join it with a line from 'oswalk cluster invite'"
    )]
    Stranger(NodeId),
    #[error("{0}")]
    Removed(String),
    #[error("node {0} does not take this node as a member of its cluster")]
    NotTaken(NodeId),
}

/// Greets as the side that called the node with this key. Returns whether it told of new members or removals, too.
pub(crate) async fn call<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    own: &Peer,
    (membership, key): (&Membership, Key),
    purpose: Purpose,
) -> Result<(Peer, bool), HandshakeError> {
    let mine = hello(own, membership, purpose, Side::Caller);
    send(socket, &mine).await?;
    let theirs = receive(socket, greeting::hello).await?;
    if !theirs.admission.is_empty() {
        // The callee tells a node that it does not take by which record the owner has removed it.
        membership.merge(theirs.admission.clone()).await;
        if let Some(removed) = membership.removed() {
            return Err(HandshakeError::Removed(removed));
        }
    }
    check(membership, key, &theirs)?;
    membership.note_addresses(key, theirs.address, theirs.broker);
    let mut has_news = false;
    if mine.roll != theirs.roll {
        tell(socket, membership).await?;
        // A side that does not know this node as a member goes away after its hello.
        let learned = learn(socket, membership).await;
        has_news = learned.map_err(|_| HandshakeError::NotTaken(theirs.node.clone()))?;
        check_member(membership, key, &theirs.node)?;
    }
    Ok((peer(theirs, key)?, has_news))
}

/// What a caller has said.
pub(crate) struct Caller {
    pub(crate) peer: Peer,
    pub(crate) purpose: Purpose,
    key: Key,
    /// Its roll is another than this side's.
    differs: bool,
    /// Its admission was new.
    has_news: bool,
}

/// Greets as the side that was called by the holder of this key.
pub(crate) async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    own: &Peer,
    (membership, key): (&Membership, Key),
) -> Result<Caller, HandshakeError> {
    let mut theirs = receive(socket, greeting::hello).await?;
    let is_known = membership.node(&key).is_some();
    let has_news = !is_known && membership.merge(std::mem::take(&mut theirs.admission)).await;
    let side = match membership.node(&key) {
        Some(_) => Side::CalledByMember,
        None => Side::CalledByStranger(key),
    };
    // A stranger is answered, too: it may be a node that was removed, whose user has to know.
    let mine = hello(own, membership, Purpose::Link, side);
    send(socket, &mine).await?;
    check(membership, key, &theirs)?;
    membership.note_addresses(key, theirs.address, theirs.broker);
    let (purpose, differs) = (theirs.purpose, mine.roll != theirs.roll);
    Ok(Caller { peer: peer(theirs, key)?, purpose, key, differs, has_news })
}

/// Brings both rolls up to date, as the side that was called. Returns whether the caller knew more.
pub(crate) async fn settle<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    membership: &Membership,
    caller: &Caller,
) -> Result<bool, HandshakeError> {
    if !caller.differs {
        return Ok(caller.has_news);
    }
    let has_news = learn(socket, membership).await? || caller.has_news;
    tell(socket, membership).await?;
    // It may have been removed in the meantime.
    check_member(membership, caller.key, &caller.peer.node)?;
    Ok(has_news)
}

/// Tells the other side what this one knows of the cluster.
async fn tell<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    membership: &Membership,
) -> Result<(), HandshakeError> {
    send(socket, &membership.records()).await?;
    send(socket, &membership.revocation_lists()).await
}

/// Takes in what the other side knows. Returns whether any of it was new.
async fn learn<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    membership: &Membership,
) -> Result<bool, HandshakeError> {
    let records = receive(socket, greeting::records).await?;
    let revoked = receive(socket, greeting::revoked).await?;
    // The records say who may sign lists.
    let has_records = membership.merge(records).await;
    Ok(membership.merge_revocations(revoked).await || has_records)
}

/// Receives the answer to an order.
pub(crate) async fn ordered<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Result<Ordered, HandshakeError> {
    receive(socket, greeting::ordered).await
}

/// Answers an order.
pub(crate) async fn answer_order<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    answer: &Ordered,
) -> Result<(), HandshakeError> {
    send(socket, answer).await
}

fn peer(theirs: Hello, key: Key) -> Result<Peer, HandshakeError> {
    let speaks = check_version(&theirs)?;
    Ok(Peer { node: theirs.node, incarnation: theirs.incarnation, key: Some(key), speaks })
}

/// Who says hello to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    /// It knows the callee by its key, and has to show that it is a member.
    Caller,
    CalledByMember,
    /// Whoever holds a key can call. It learns no more than that this side does not take it, and the record that removes
    /// its key.
    CalledByStranger(Key),
}

fn hello(own: &Peer, membership: &Membership, purpose: Purpose, side: Side) -> Hello {
    let Peer { node, incarnation, .. } = own.clone();
    let is_known = !matches!(side, Side::CalledByStranger(_));
    let admission = match side {
        Side::Caller => membership.admission(),
        Side::CalledByMember => Vec::new(),
        Side::CalledByStranger(key) => membership.removal(&key).into_iter().collect(),
    };
    Hello {
        spoken: Spoken::OURS,
        version: env!("CARGO_PKG_VERSION").into(),
        node,
        incarnation,
        purpose,
        clock_s: now_s(),
        roll: if is_known { membership.digest() } else { [0; 32] },
        admission,
        address: membership.address(),
        broker: membership.broker_at().filter(|_| is_known),
    }
}

fn check(membership: &Membership, key: Key, theirs: &Hello) -> Result<(), HandshakeError> {
    check_version(theirs)?;
    check_member(membership, key, &theirs.node)?;
    check_clock(theirs.clock_s, now_s())
}

fn check_member(membership: &Membership, key: Key, node: &NodeId) -> Result<(), HandshakeError> {
    if membership.node(&key).as_ref() == Some(node) {
        return Ok(());
    }
    Err(HandshakeError::Stranger(node.clone()))
}

fn check_clock(theirs: u64, ours: u64) -> Result<(), HandshakeError> {
    if theirs.abs_diff(ours) <= CLOCKS_APART_MAX_S {
        return Ok(());
    }
    let ahead_s = i128::from(theirs) - i128::from(ours);
    Err(HandshakeError::Clock { ahead_s: i64::try_from(ahead_s).unwrap_or(i64::MAX) })
}

/// Returns the version that both sides speak.
fn check_version(theirs: &Hello) -> Result<u32, HandshakeError> {
    Spoken::OURS.with(theirs.spoken).ok_or_else(|| HandshakeError::Version {
        node: theirs.node.clone(),
        theirs: theirs.version.clone(),
        their_protocol: theirs.spoken.newest,
        ours: env!("CARGO_PKG_VERSION"),
    })
}

async fn send<S: AsyncRead + AsyncWrite + Unpin, T: Serialize>(
    socket: &mut WebSocketStream<S>,
    message: &T,
) -> Result<(), HandshakeError> {
    socket.send(Message::Binary(encode(message).into())).await.map_err(|_| HandshakeError::Broken)
}

async fn receive<S: AsyncRead + AsyncWrite + Unpin, T>(
    socket: &mut WebSocketStream<S>,
    decode: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, HandshakeError> {
    match socket.next().await {
        Some(Ok(Message::Binary(bytes))) => decode(&bytes).ok_or(HandshakeError::Garbled),
        Some(Ok(Message::Close(_)) | Err(_)) | None => Err(HandshakeError::Broken),
        Some(Ok(_)) => Err(HandshakeError::Garbled),
    }
}

#[cfg(test)]
mod tests;
