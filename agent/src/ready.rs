//! Tells systemd that the agent is ready, or is about to end: `sd_notify` of units of `Type=notify`.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// A state of the agent that systemd is told.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Now {
    Ready,
    Stopping,
}

/// Tells systemd, if it has started this process and waits for that. Nothing depends on its being heard.
pub(crate) fn tell(now: Now) {
    let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty());
    if let Some(Err(error)) = socket.map(|socket| send(&socket, now)) {
        tracing::warn!(%error, "failed to tell systemd of the agent's state");
    }
}

fn send(socket: &OsString, now: Now) -> io::Result<()> {
    let text = match now {
        Now::Ready => "READY=1",
        Now::Stopping => "STOPPING=1",
    };
    UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address(socket)?).map(drop)
}

/// Returns the address of a socket that is named by a path, or by `@` and an abstract name.
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(socket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(socket: &UnixDatagram) -> String {
        let mut text = [0; 64];
        let bytes = socket.recv(&mut text).expect("it was sent before");
        String::from_utf8_lossy(&text[..bytes]).into_owned()
    }

    #[test]
    fn systemd_hears_it_at_a_path_and_at_an_abstract_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify").into_os_string();
        let abstract_name = OsString::from(format!("@oswalk-test-{}", std::process::id()));
        for name in [path, abstract_name] {
            let socket = UnixDatagram::bind_addr(&address(&name).expect("short")).expect("binds");
            send(&name, Now::Ready).expect("somebody listens");
            send(&name, Now::Stopping).expect("somebody listens");
            assert_eq!([heard(&socket), heard(&socket)], ["READY=1", "STOPPING=1"]);
        }
        assert!(send(&"/no/such/socket".into(), Now::Ready).is_err());
    }
}
