//! The door: the unix socket to which stubs and `oswalk` connect.

mod connection;

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use tokio::io::unix::AsyncFd;
use worknode::door::{HELLO_BYTES_MAX, Kind};
use worknode::id::NodeId;
use worknode::principal::Principal;

use crate::admission::{Act, Refusal, admit};
use crate::sys::peer::{self, Peer};
use crate::sys::watch;
pub(crate) use connection::{Reader, Writer};

/// Most connections of one user. Each stands for a running or queued walk and the stub that waits for it.
const CONNECTIONS_PER_USER_MAX: usize = 8192;
/// Pause after a failure to accept, most likely for lack of descriptors, some of which will soon be free.
const PAUSE: Duration = Duration::from_millis(20);

/// A connection with its peer.
pub(crate) struct Visitor {
    /// The process; 0 if it is in a pid namespace that cannot be seen from here.
    pub(crate) pid: u32,
    pub(crate) who: Principal,
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
}

/// A connection with its first frame.
pub(crate) enum Visit {
    /// A stub with its hello.
    Hello(Visitor, Vec<u8>),
    /// `oswalk` with its request.
    Request(Visitor, Vec<u8>),
}

/// Binds the door at a path.
pub(crate) fn open(path: &Path) -> anyhow::Result<AsyncFd<UnixListener>> {
    use std::os::unix::fs::PermissionsExt;
    let failed = || format!("failed to open the door {}", path.display());
    let _ = std::fs::remove_file(path);
    let door = UnixListener::bind(path).with_context(failed)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(failed)?;
    door.set_nonblocking(true).with_context(failed)?;
    watch::readable(door).with_context(failed)
}

/// Accepts connections to this node, and passes them to `receive`.
pub(crate) async fn serve<F, T>(listener: AsyncFd<UnixListener>, node: NodeId, receive: F)
where
    F: Fn(Visit) -> T + Clone + 'static,
    T: Future<Output = ()> + 'static,
{
    let guests = Rc::new(Guests::default());
    loop {
        match connection::accept(&listener).await {
            Ok(stream) => {
                let (guests, receive) = (Rc::clone(&guests), receive.clone());
                tokio::task::spawn_local(welcome(guests, stream, node.clone(), receive));
            }
            Err(error) => {
                tracing::error!(%error, "failed to accept a connection at the door");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn welcome<T>(
    guests: Rc<Guests>,
    stream: UnixStream,
    node: NodeId,
    receive: impl Fn(Visit) -> T,
) where
    T: Future<Output = ()>,
{
    let Ok(Peer { pid, uid, gid }) = Peer::of(&stream) else { return };
    let who = Principal { node, uid, gid, groups: peer::groups(&stream) };
    // A refused stub executes its program here.
    let _guest = match guests.enter(&who) {
        Ok(guest) => guest,
        Err(refusal) => return tracing::warn!(%refusal, "a connection was refused"),
    };
    let Ok((mut reader, mut writer)) = connection::split(stream) else { return };
    let Some((header, payload)) = reader.next(HELLO_BYTES_MAX).await else { return };
    match header.kind {
        Kind::Hello => {
            receive(Visit::Hello(Visitor { pid, who, reader, writer }, payload)).await;
        }
        Kind::Request => {
            receive(Visit::Request(Visitor { pid, who, reader, writer }, payload)).await;
        }
        _ => {
            writer.send(Kind::Failed, 0, b"the first frame must be a hello or a request").await;
        }
    }
}

/// Counts connections by user.
#[derive(Debug, Default)]
struct Guests {
    by_user: RefCell<HashMap<u32, usize>>,
}

/// A counted connection of a user, until it is dropped.
struct Guest {
    guests: Rc<Guests>,
    uid: u32,
}

impl Guests {
    /// Counts another connection.
    ///
    /// # Errors
    /// The user has too many.
    fn enter(self: &Rc<Self>, who: &Principal) -> Result<Guest, Refusal> {
        let (uid, max) = (who.uid, CONNECTIONS_PER_USER_MAX);
        let connections = self.by_user.borrow().get(&uid).copied().unwrap_or_default();
        admit(who, Act::Enter { connections, max })?;
        self.by_user.borrow_mut().insert(uid, connections + 1);
        Ok(Guest { guests: Rc::clone(self), uid })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_user_cannot_block_others() {
        let guests = Rc::new(Guests::default());
        let user = |uid| {
            let node = "laptop".parse().expect("a sound name");
            Principal { node, uid, gid: uid, groups: Vec::new() }
        };
        let enter = |uid| guests.enter(&user(uid)).ok();
        let mut inside: Vec<_> = (0..10_000).map_while(|_| enter(1000)).collect();
        assert_eq!(inside.len(), CONNECTIONS_PER_USER_MAX);
        assert!(enter(1001).is_some());
        inside.pop();
        assert!(enter(1000).is_some());
        inside.clear();
        assert!(guests.by_user.borrow().is_empty(), "closed connections are forgotten");
    }
}
