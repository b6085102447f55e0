//! The door: the unix socket to which stubs, `oswalk` and programs that cannot see a mounted volume connect.

mod connection;
mod guests;
pub(crate) mod shares;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::unix::AsyncFd;
use worknode::door::{self, HELLO_BYTES_MAX, Kind, ROOT_BYTES_MAX};
use worknode::id::NodeId;
use worknode::principal::Principal;

use crate::sys::peer::{self, Peer};
use crate::sys::watch;
pub(crate) use connection::{Caller, Reader, Writer};
pub(crate) use guests::Guest;
use guests::Guests;
use shares::Shares;

/// Longest time for the first frame, which is sent at once.
const FIRST_FRAME_MAX: Duration = Duration::from_secs(30);
/// Pause after a failure to accept, most likely for lack of descriptors, some of which will soon be free.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection with its peer.
pub(crate) struct Visitor {
    /// The process; 0 if it is in a pid namespace that cannot be seen from here.
    pub(crate) pid: u32,
    pub(crate) who: Principal,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// The place of the connection among those of its user, which it takes until this is dropped.
    pub(crate) guest: Rc<Guest>,
}

/// A connection with its first frame.
pub(crate) enum Visit {
    /// A stub with its hello.
    Hello(Visitor, Vec<u8>),
    /// `oswalk` with its request.
    Request(Visitor, Vec<u8>),
    /// A program that cannot see the mount at a path.
    Root(Visitor, Vec<u8>),
}

/// The door's socket, and a link in the state directory that leads to it.
pub(crate) struct Door {
    listener: AsyncFd<UnixListener>,
    path: PathBuf,
    link: PathBuf,
}

impl Door {
    /// Binds the door in a directory that users can reach. Root's agent can act for every user, and serves all of them; others
    /// serve their own.
    pub(crate) fn open(dir: &Path, state: &Path) -> anyhow::Result<Self> {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let (path, link) = (dir.join(door::NAME), state.join(door::NAME));
        let failed = || format!("failed to open the door {}", path.display());
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).with_context(failed)?;
        let mode = if nix::unistd::geteuid().is_root() { 0o666 } else { 0o600 };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).with_context(failed)?;
        let _ = std::fs::remove_file(&link);
        symlink(&path, &link).with_context(failed)?;
        listener.set_nonblocking(true).with_context(failed)?;
        let listener = watch::readable(listener).with_context(failed)?;
        Ok(Self { listener, path, link })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the names, so that others see at once that nobody answers any more.
    pub(crate) fn close(&self) {
        let _ = std::fs::remove_file(&self.link);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Accepts connections to this node, and passes them to `receive`.
pub(crate) async fn serve<F, T>(door: Rc<Door>, node: NodeId, shares: Shares, receive: F)
where
    F: Fn(Visit) -> T + Clone + 'static,
    T: Future<Output = ()> + 'static,
{
    let guests = Rc::new(Guests::new(shares));
    loop {
        match connection::accept(&door.listener).await {
            Ok(stream) => {
                if let Some(arrival) = enter(&guests, stream, &node) {
                    tokio::task::spawn_local(welcome(arrival, receive.clone()));
                }
                // Others have their turn, however many connect.
                tokio::task::yield_now().await;
            }
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection at the door");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A counted connection, and its peer.
struct Arrival {
    stream: UnixStream,
    guest: Rc<Guest>,
    pid: u32,
    who: Principal,
}

/// Counts a connection before the next is accepted, so that nobody holds more descriptors than their share. A refused stub
/// executes its program here, and so does one whose hello takes too much memory.
fn enter(guests: &Rc<Guests>, stream: UnixStream, node: &NodeId) -> Option<Arrival> {
    let Peer { pid, uid, gid } = Peer::of(&stream).ok()?;
    let who = Principal { node: node.clone(), uid, gid, groups: peer::groups(&stream) };
    let guest = Rc::new(guests.enter(&who)?);
    Some(Arrival { stream, guest, pid, who })
}

async fn welcome<T>(arrival: Arrival, receive: impl Fn(Visit) -> T)
where
    T: Future<Output = ()>,
{
    let Arrival { stream, guest, pid, who } = arrival;
    let Ok((mut reader, mut writer)) = connection::split(stream, guest.room()) else { return };
    let first = tokio::time::timeout(FIRST_FRAME_MAX, reader.next(HELLO_BYTES_MAX)).await;
    let Ok(Some((header, payload))) = first else { return };
    match header.kind {
        Kind::Hello => {
            receive(Visit::Hello(Visitor { pid, who, reader, writer, guest }, payload)).await;
        }
        Kind::Request => {
            receive(Visit::Request(Visitor { pid, who, reader, writer, guest }, payload)).await;
        }
        Kind::Root if payload.len() <= ROOT_BYTES_MAX => {
            receive(Visit::Root(Visitor { pid, who, reader, writer, guest }, payload)).await;
        }
        _ => {
            writer.send(Kind::Failed, 0, b"the first frame must be a hello or a request").await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn connections_beyond_the_share_are_closed_at_once() {
        let guests = Rc::new(Guests::new(Shares::of(64, 1 << 30)));
        let node = "laptop".parse().expect("a sound name");
        let mut refused = 0;
        let inside: Vec<_> = std::iter::repeat_with(|| {
            let (ours, mut theirs) = UnixStream::pair().expect("a pair");
            let arrival = enter(&guests, ours, &node);
            if arrival.is_none() {
                refused += usize::from(theirs.read(&mut [0]).is_ok_and(|bytes| bytes == 0));
            }
            arrival
        })
        .take(100)
        .flatten()
        .collect();
        assert_eq!((inside.len(), refused), (4, 96));
    }
}
