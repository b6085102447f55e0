//! Answers callers. TLS proves a caller's key and says what it calls for: a link, the broker, or to join the cluster.

use std::rc::Rc;
use std::time::Instant;

use anyhow::Context;
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;
use tokio_rustls::{TlsAcceptor, TlsStream};
use worknode::key::Key;

use super::Links;
use crate::link::handshake::{self, Peer};
use crate::link::socket::{self, Connection, Socket};
use crate::membership::{Membership, join};
use crate::tls::{self, Use};
use crate::wire::greeting::Purpose;

/// Most connections of one member to the broker. An agent has a few; those that a broken network left behind soon end.
const RELAYS_PER_MEMBER_MAX: usize = 16;

/// A caller that was answered.
pub(super) enum Answered {
    /// A member that wants a link.
    Link(Box<Socket>, Peer),
    /// A member whose bytes are relayed to the broker.
    Broker(Box<TlsStream<Connection>>, UnixStream, Key),
    /// There is nothing left to do.
    Done,
}

impl Links {
    /// Does the handshake with a caller.
    pub(super) async fn answer(self: &Rc<Self>, stream: TcpStream) -> anyhow::Result<Answered> {
        let membership = self.membership.as_ref().context("this node belongs to no cluster")?;
        let acceptor = TlsAcceptor::from(membership.contacts.identity().answerer());
        let stream = acceptor.accept(socket::prepare(stream)?).await?;
        let session = stream.get_ref().1;
        let key = tls::proved(session.peer_certificates()).context("it has no key")?;
        let purpose = session.alpn_protocol().and_then(Use::of);
        let mut stream = TlsStream::Server(stream);
        match purpose.context("it does not say what it calls for")? {
            Use::Link => self.greet_caller(membership, stream, key).await,
            Use::Broker => {
                let node = membership.node(&key).context("it is not a member")?;
                let guest = self.guest.as_ref().context("this node does not run the broker")?;
                let redis = guest.connect().await.context("the broker does not answer")?;
                // It may have been removed in the meantime.
                anyhow::ensure!(membership.node(&key).is_some(), "it is not a member");
                tracing::debug!(%node, "relaying a connection to the broker");
                socket::lift_connection(&mut stream);
                Ok(Answered::Broker(Box::new(stream), redis, key))
            }
            Use::Join => {
                let address = self.cluster.address().to_string();
                let admitted = join::answer(membership, &mut stream, key, &address).await?;
                if let Some(request) = admitted {
                    tracing::info!(node = %request.node, "a node has joined the cluster");
                    self.note_members();
                }
                Ok(Answered::Done)
            }
        }
    }

    async fn greet_caller(
        self: &Rc<Self>,
        membership: &Membership,
        stream: TlsStream<Connection>,
        key: Key,
    ) -> anyhow::Result<Answered> {
        let config = Some(socket::config());
        let mut socket = tokio_tungstenite::accept_async_with_config(stream, config).await?;
        let answered = Instant::now();
        let caller = handshake::answer(&mut socket, &self.own, (membership, key)).await?;
        // The caller takes the end of the connection for a broken link, and its walks go elsewhere.
        anyhow::ensure!(
            caller.purpose != Purpose::Link
                || !self.cluster.members.is_quarantined(&caller.peer.node),
            "{} is quarantined",
            caller.peer.node
        );
        self.transfers.note_distance(&caller.peer.node, answered.elapsed());
        socket::lift(&mut socket);
        if handshake::settle(&mut socket, membership, &caller).await? {
            self.note_members();
        }
        // That it can call us does not imply that we can call it.
        Ok(match caller.purpose {
            Purpose::Greet => Answered::Done,
            Purpose::Link => Answered::Link(Box::new(socket), caller.peer),
            Purpose::Drain | Purpose::Resume => {
                let done = self.obey(membership, key, caller.purpose == Purpose::Drain).await;
                handshake::answer_order(&mut socket, &done).await?;
                Answered::Done
            }
        })
    }

    /// Does what a caller called for.
    pub(super) fn serve(self: &Rc<Self>, answered: Answered) {
        match answered {
            Answered::Link(socket, peer) => drop(self.start(*socket, peer, false)),
            Answered::Broker(mut stream, mut redis, key) => {
                let relay = async move {
                    // Either side may end it.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut redis).await;
                };
                let relay = tokio::task::spawn_local(relay).abort_handle();
                self.keep_relay(key, relay);
            }
            Answered::Done => {}
        }
    }

    /// Keeps a member's relay, and ends its oldest one if it has too many.
    fn keep_relay(&self, key: Key, relay: AbortHandle) {
        let mut relays = self.relays.borrow_mut();
        relays.retain(|(_, relay)| !relay.is_finished());
        let of_member = |(by, _): &(Key, AbortHandle)| *by == key;
        if relays.iter().filter(|it| of_member(it)).count() >= RELAYS_PER_MEMBER_MAX
            && let Some(oldest) = relays.iter().position(of_member)
        {
            relays.remove(oldest).1.abort();
        }
        relays.push((key, relay));
    }
}
