//! How a node is admitted: it calls a member at the address of its join line, over TLS with the key that the line names,
//! and says the line's word.

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use worknode::key::Key;
use worknode::membership::{JoinLine, Roll};

use super::Membership;
use super::files::{Files, Place};
use crate::tls::{self, Identity, Use};
use crate::wire::greeting::Spoken;
use crate::wire::joining::{JoinRefusal, JoinReply, JoinRequest, Proof, Welcome};
use crate::wire::limits::{JOIN_REPLY_BYTES_MAX, JOIN_REQUEST_BYTES_MAX};

/// All of it takes a few round trips.
const PATIENCE: Duration = Duration::from_secs(10);

/// Joins the cluster of a line, and writes the files of this node's membership.
///
/// # Errors
/// The member cannot be reached, is not the one that made the line, or refuses. Nothing was changed then.
pub(crate) async fn join(state: &Path, line: &JoinLine, place: Place) -> anyhow::Result<Roll> {
    let files = Files::of(state);
    files.check_absent()?;
    let key = files.joining_key()?;
    let identity = Identity::new(&key)?;
    let request = JoinRequest {
        proof: Proof::Word(line.word),
        node: place.node.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        spoken: Spoken::OURS,
    };
    let callee = Callee { address: line.address.clone(), key: line.host };
    let reply = ask(&identity, &callee, &request).await?;
    let Welcome { records, broker } = match reply {
        JoinReply::Welcome(welcome) => welcome,
        JoinReply::Refused(refusal) => {
            files.forget_joining_key();
            return Err(refusal.into());
        }
    };
    let roll = Roll::of(line.cluster, records)
        .context("the cluster's records do not belong to the join line")?;
    anyhow::ensure!(
        roll.member(&key.key()).is_some(),
        "{} said welcome, but its records do not admit this node: try again",
        line.address
    );
    files.create(&key, None, &roll, &Place { broker: Some(broker), ..place })?;
    files.forget_joining_key();
    Ok(roll)
}

const OPEN: &str = "check that its agent runs, and that no firewall blocks the port";

/// A member that admits.
pub(super) struct Callee {
    /// Host and port.
    pub(super) address: String,
    pub(super) key: Key,
}

/// Asks a member to admit the key of an identity.
///
/// # Errors
/// It does not answer, or another program does.
pub(super) async fn ask(
    identity: &Identity,
    callee: &Callee,
    request: &JoinRequest,
) -> anyhow::Result<JoinReply> {
    let asked = tokio::time::timeout(PATIENCE, ask_patiently(identity, callee, request));
    asked.await.with_context(|| {
        format!("{} does not answer within {} s: {OPEN}", callee.address, PATIENCE.as_secs())
    })?
}

async fn ask_patiently(
    identity: &Identity,
    callee: &Callee,
    request: &JoinRequest,
) -> anyhow::Result<JoinReply> {
    let stream = TcpStream::connect(&callee.address).await;
    let stream = stream.with_context(|| format!("failed to reach {}: {OPEN}", callee.address))?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(identity.caller(callee.key, Use::Join));
    let greeted = connector.connect(tls::nameless(), stream).await;
    let mut stream = greeted.with_context(|| {
        format!(
            "what answers at {} is not the node that made the join line, or runs another version of OS Walk: make a new \
             line with 'oswalk cluster invite'",
            callee.address
        )
    })?;
    send(&mut stream, request).await?;
    Ok(receive(&mut stream, JOIN_REPLY_BYTES_MAX).await?)
}

/// Answers the request of a node with this key. `own_address` is what the new member is to call.
///
/// # Errors
/// The connection breaks, or what arrives is no request.
pub(crate) async fn answer(
    membership: &Membership,
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    key: Key,
    own_address: &str,
) -> io::Result<Option<JoinRequest>> {
    let request: JoinRequest = receive(stream, JOIN_REQUEST_BYTES_MAX).await?;
    let ours = env!("CARGO_PKG_VERSION");
    let admitted = if Spoken::OURS.with(request.spoken).is_some() {
        match &request.proof {
            Proof::Word(word) => membership.admit(word, &request.node, key).await,
            Proof::Successor(succession) => {
                membership.succeed(succession, &request.node, key).await
            }
        }
    } else {
        Err(JoinRefusal::Version { theirs: ours.into(), ours: request.version.clone() })
    };
    let (reply, admitted) = match admitted {
        Ok(()) => {
            let records = membership.records();
            let broker = membership.broker_for_others(own_address);
            (JoinReply::Welcome(Welcome { records, broker }), Some(request))
        }
        Err(refusal) => {
            tracing::warn!(node = %request.node, why = %refusal, "refused to admit a node");
            (JoinReply::Refused(refusal), None)
        }
    };
    send(stream, &reply).await?;
    stream.shutdown().await?;
    Ok(admitted)
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let bytes = postcard::to_allocvec(value).map_err(io::Error::other)?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes(), &bytes[..]].concat()).await?;
    stream.flush().await
}

async fn receive<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    bytes_max: usize,
) -> io::Result<T> {
    let length = stream.read_u32_le().await? as usize;
    if length > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    postcard::from_bytes(&bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
