//! The door: the unix socket on which stubs and `oswalk` come in.

mod connection;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::unix::AsyncFd;
use worknode::door::{HELLO_BYTES_MAX, Kind};
use worknode::id::{NodeId, SessionId};
use worknode::notice;
use worknode::page;
use worknode::report::Report;
use worknode::request::{HIDE_BYTES_MAX, HIDE_MAX, Reply, Request, SessionOptions, Status};

use crate::agent::Agent;
use crate::origin;
use crate::session::Session;
use crate::sys::view::View;
use crate::sys::watch;
pub(crate) use connection::{Reader, Writer};

/// Who is on the other side of a door's connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

// What `oswalk` has looked at is not refused here.
const _: () = assert!(
    HIDE_MAX == packetfs::export::PATTERNS_MAX
        && HIDE_BYTES_MAX == packetfs::export::PATTERN_BYTES_MAX
);

/// Connections of one user: each is a walk that runs or waits, and a process of the user that waits for it.
const CONNECTIONS_PER_USER_MAX: usize = 8192;

/// Counts who is in, by user.
#[derive(Debug, Default)]
struct Guests {
    by_user: RefCell<HashMap<u32, usize>>,
}

/// A connection of a user, until it is dropped.
struct Guest {
    guests: Rc<Guests>,
    uid: u32,
}

impl Guests {
    /// Counts one more; nothing if the user has too many.
    fn enter(self: &Rc<Self>, uid: u32) -> Option<Guest> {
        let mut by_user = self.by_user.borrow_mut();
        let count = by_user.entry(uid).or_default();
        (*count < CONNECTIONS_PER_USER_MAX).then(|| {
            *count += 1;
            Guest { guests: Rc::clone(self), uid }
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut by_user = self.guests.by_user.borrow_mut();
        match by_user.get_mut(&self.uid) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(by_user.remove(&self.uid)),
        }
    }
}

/// Lets everybody in who comes.
pub(crate) async fn serve(agent: Rc<Agent>, listener: AsyncFd<UnixListener>) {
    let guests = Rc::new(Guests::default());
    loop {
        match connection::accept(&listener).await {
            Ok(stream) => {
                let (agent, guests) = (Rc::clone(&agent), Rc::clone(&guests));
                tokio::task::spawn_local(welcome(agent, guests, stream));
            }
            Err(error) => {
                // Out of descriptors, most likely: some will be free again soon.
                tracing::error!(%error, "failed to accept at the door");
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    }
}

async fn welcome(agent: Rc<Agent>, guests: Rc<Guests>, stream: UnixStream) {
    let Ok(credentials) = getsockopt(&stream, sockopt::PeerCredentials) else { return };
    let peer = Peer {
        pid: u32::try_from(credentials.pid()).unwrap_or(0),
        uid: credentials.uid(),
        gid: credentials.gid(),
    };
    // A stub that is not let in executes its program here.
    let Some(_guest) = guests.enter(peer.uid) else {
        return tracing::warn!(uid = peer.uid, "too many connections of one user at the door");
    };
    let groups = crate::sys::peer::groups(stream.as_raw_fd());
    let Ok((mut reader, mut writer)) = connection::split(stream) else { return };
    let Some((header, payload)) = reader.next(HELLO_BYTES_MAX).await else { return };
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
        next = if sent {
            reader.next(HELLO_BYTES_MAX).await.map(|(_, payload)| payload)
        } else {
            None
        };
    }
    if let Some(session) = opened.take() {
        agent.end_session(session);
    }
}

async fn answer(
    agent: &Rc<Agent>,
    peer: Peer,
    opened: &Cell<Option<SessionId>>,
    request: Request,
) -> anyhow::Result<Reply> {
    match request {
        Request::OpenSession(mut options) => {
            anyhow::ensure!(opened.get().is_none(), "this connection has a session already");
            let shut = why_nothing_walks(agent, options.on.as_ref()).await;
            // A process of another pid namespace cannot be seen from here.
            let process = options.becomes.then(|| watch::process(peer.pid).ok()).flatten();
            options.becomes = process.is_some();
            let notice = shut.clone().or_else(|| other_mounts(agent, peer));
            let session = open_session(agent, peer, &options, shut.is_none(), notice.clone())?;
            match process {
                Some(process) => end_with(agent, session.id, process),
                None => opened.set(Some(session.id)),
            }
            let page = session.page_path().as_os_str().as_encoded_bytes().to_vec();
            Ok(Reply::Session { session: session.id, page, becomes: options.becomes, notice })
        }
        Request::CloseSession => {
            let id = opened.get().ok_or_else(|| anyhow::anyhow!("there is no session to close"))?;
            let Some(session) = agent.session(id) else {
                let lost = Some("the agent has ended the session before its command".to_owned());
                return Ok(Reply::Report(Report { lost, ..Report::default() }));
            };
            let walked_in_vain = session.walked_in_vain();
            let on = session.on.as_ref();
            let notice = if walked_in_vain { why_nothing_walks(agent, on).await } else { None };
            // It ends with the connection, when nobody waits any more.
            Ok(Reply::Report(session.report(agent.usage(), notice)))
        }
        Request::Status => {
            let other_mounts = other_mounts(agent, peer).is_some();
            Ok(Reply::Status(Status { other_mounts, ..agent.status().await }))
        }
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

/// Returns why nothing walks as things stand; nothing if there is somebody to walk to.
async fn why_nothing_walks(agent: &Rc<Agent>, on: Option<&NodeId>) -> Option<String> {
    let cluster = &agent.cluster;
    if cluster.broker.is_up() {
        if cluster.has_runner_for(on, &[]) {
            return None;
        }
        // Somebody may have come since the last heartbeat.
        agent.status().await;
    }
    cluster.notice(on)
}

/// Returns that whoever opens a session has other mounts than the agent: what starts there stays.
fn other_mounts(agent: &Agent, peer: Peer) -> Option<String> {
    let has_others = View::of(peer.pid).ok().as_ref() != Some(&agent.view);
    has_others.then(|| notice::other_mounts("this shell", std::process::id()))
}

/// Has a session end when a process does.
fn end_with(agent: &Rc<Agent>, session: SessionId, process: AsyncFd<OwnedFd>) {
    let agent = Rc::clone(agent);
    tokio::task::spawn_local(async move {
        // An error means that the process is gone, too.
        let _ = process.readable().await;
        agent.end_session(session);
    });
}

fn open_session(
    agent: &Rc<Agent>,
    peer: Peer,
    options: &SessionOptions,
    is_open: bool,
    notice: Option<String>,
) -> anyhow::Result<Rc<Session>> {
    let ours = env!("CARGO_PKG_VERSION");
    anyhow::ensure!(
        options.version == ours,
        "oswalk {} cannot use agent {ours}: install one version of both",
        options.version
    );
    if let Some(node) = &options.on {
        let known = agent.cluster.status().iter().any(|status| status.node == *node);
        anyhow::ensure!(known, "{}", notice::no_node(node));
    }
    if agent.hidden.hide(&options.hide)? {
        agent.exporter.retell();
    }
    let gate = if is_open { page::GATE_OPEN } else { page::GATE_SHUT };
    // Who asks for no fallback would rather see the walk refused than find it at the origin.
    let gate = if options.no_fallback { page::GATE_OPEN } else { gate };
    let (dir, door) = (&agent.pages_dir, &agent.door_path);
    let is_leaf = options.command.is_some_and(|file| agent.leaves.contains(peer.uid, file));
    let session = Session::open(dir, door, options, peer, gate, notice, is_leaf, agent.usage())?;
    Ok(agent.add_session(session))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_leaves_the_door_to_others() {
        let guests = Rc::new(Guests::default());
        let mut inside: Vec<_> = (0..10_000).map_while(|_| guests.enter(1000)).collect();
        assert_eq!(inside.len(), CONNECTIONS_PER_USER_MAX);
        assert!(guests.enter(1001).is_some());
        inside.pop();
        assert!(guests.enter(1000).is_some());
        inside.clear();
        assert!(guests.by_user.borrow().is_empty(), "who has left is forgotten");
    }
}
