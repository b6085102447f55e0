//! The door: the unix socket on which stubs and `oswalk` come in.

use std::cell::Cell;
use std::os::fd::AsRawFd;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use worknode::door::{HEADER_BYTES, HELLO_BYTES_MAX, Header, Kind};
use worknode::page;
use worknode::request::{Reply, Request, SessionOptions};

use crate::agent::Agent;
use crate::origin;
use crate::session::Session;

/// Who is on the other side of a door's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// A connection, read frame by frame.
#[derive(Debug)]
pub(crate) struct Reader {
    half: OwnedReadHalf,
}

/// A connection's other direction.
#[derive(Debug)]
pub(crate) struct Writer {
    half: OwnedWriteHalf,
}

impl Reader {
    /// Returns the next frame; nothing at the end, or if it is no frame.
    ///
    /// Not cancel-safe: to be used by one task that does nothing else.
    pub(crate) async fn next(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut head = [0; HEADER_BYTES];
        self.half.read_exact(&mut head).await.ok()?;
        let header = Header::decode(head)?;
        let length = header.payload_bytes as usize;
        if length > HELLO_BYTES_MAX {
            return None;
        }
        let mut payload = vec![0; length];
        self.half.read_exact(&mut payload).await.ok()?;
        Some((header, payload))
    }
}

impl Writer {
    /// Sends a frame; nothing happens if the other side is gone.
    pub(crate) async fn send(&mut self, kind: Kind, fd: u16, payload: &[u8]) -> bool {
        let payload_bytes = u32::try_from(payload.len()).expect("frames are far below 4 GiB");
        let mut frame = Header { kind, fd, payload_bytes }.encode().to_vec();
        frame.extend(payload);
        self.half.write_all(&frame).await.is_ok()
    }
}

/// Lets everybody in who comes.
pub(crate) async fn serve(agent: Rc<Agent>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(welcome(Rc::clone(&agent), stream));
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free again soon.
                tracing::error!(%error, "failed to accept at the door");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

async fn welcome(agent: Rc<Agent>, stream: UnixStream) {
    let Ok(credentials) = stream.peer_cred() else { return };
    let peer = Peer {
        pid: credentials.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0),
        uid: credentials.uid(),
        gid: credentials.gid(),
    };
    let groups = crate::sys::peer::groups(stream.as_raw_fd());
    let (reader, writer) = stream.into_split();
    let (mut reader, mut writer) = (Reader { half: reader }, Writer { half: writer });
    let Some((header, payload)) = reader.next().await else { return };
    match header.kind {
        Kind::Hello => origin::walk(agent, peer, groups, reader, writer, &payload).await,
        Kind::Request => talk(&agent, peer, &mut reader, &mut writer, payload).await,
        _ => {
            writer.send(Kind::Failed, 0, b"the first frame must be a hello or a request").await;
        }
    }
}

/// Answers the requests of one connection, and ends its session with it.
async fn talk(
    agent: &Rc<Agent>,
    peer: Peer,
    reader: &mut Reader,
    writer: &mut Writer,
    first: Vec<u8>,
) {
    let opened = Cell::new(None);
    let mut next = Some(first);
    while let Some(payload) = next {
        let answer = match serde_json::from_slice::<Request>(&payload) {
            Ok(request) => answer(agent, peer, &opened, request).await,
            Err(error) => Err(anyhow::anyhow!("the request cannot be read: {error}")),
        };
        let sent = match answer {
            Ok(reply) => {
                let json = serde_json::to_vec(&reply).expect("replies have string keys only");
                writer.send(Kind::Request, 0, &json).await
            }
            Err(error) => writer.send(Kind::Failed, 0, format!("{error:#}").as_bytes()).await,
        };
        next = if sent { reader.next().await.map(|(_, payload)| payload) } else { None };
    }
    if let Some(session) = opened.take() {
        agent.end_session(session);
    }
}

async fn answer(
    agent: &Rc<Agent>,
    peer: Peer,
    opened: &Cell<Option<worknode::id::SessionId>>,
    request: Request,
) -> anyhow::Result<Reply> {
    match request {
        Request::OpenSession(options) => {
            anyhow::ensure!(opened.get().is_none(), "this connection has a session already");
            if !agent.cluster.has_runner_for(options.on.as_ref(), &[]) {
                // Somebody may have come since the last heartbeat.
                agent.cluster.refresh().await;
            }
            let session = open_session(agent, peer, &options)?;
            opened.set(Some(session.id));
            let page = session.page_path().as_os_str().as_encoded_bytes().to_vec();
            Ok(Reply::Session { session: session.id, page })
        }
        Request::CloseSession => {
            let id =
                opened.take().ok_or_else(|| anyhow::anyhow!("there is no session to close"))?;
            let report = agent.session(id).map(|session| session.report(agent.usage()));
            let agent = Rc::clone(agent);
            // After the answer, for which somebody waits.
            tokio::task::spawn_local(async move { agent.end_session(id) });
            Ok(Reply::Report(report.unwrap_or_default()))
        }
        Request::Status => Ok(Reply::Status(agent.status().await)),
        Request::Shutdown => {
            anyhow::ensure!(
                peer.uid == 0 || peer.uid == nix::unistd::geteuid().as_raw(),
                "only the agent's own user may end it"
            );
            agent.shutdown.notify_one();
            Ok(Reply::Done)
        }
    }
}

fn open_session(
    agent: &Rc<Agent>,
    peer: Peer,
    options: &SessionOptions,
) -> anyhow::Result<Rc<Session>> {
    let ours = env!("CARGO_PKG_VERSION");
    anyhow::ensure!(
        options.version == ours,
        "oswalk {} cannot use agent {ours}: install one version of both",
        options.version
    );
    if let Some(node) = &options.on {
        let known = agent.cluster.nodes.borrow().iter().any(|state| &state.info.node == node);
        anyhow::ensure!(known, "there is no node '{node}': `oswalk status` lists the cluster");
    }
    let gate = if agent.cluster.has_runner_for(options.on.as_ref(), &[]) {
        page::GATE_OPEN
    } else {
        page::GATE_SHUT
    };
    // Who asks for no fallback would rather see the walk refused than find it at the origin.
    let gate = if options.no_fallback { page::GATE_OPEN } else { gate };
    let session =
        Session::open(&agent.sessions_dir, &agent.door_path, options, peer, gate, agent.usage())?;
    Ok(agent.add_session(session))
}
