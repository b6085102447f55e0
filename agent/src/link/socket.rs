//! The connection of a link, and its options.

use std::io;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::Join;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio_rustls::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::guarded::Guarded;
use crate::wire::limits::MESSAGE_BYTES_MAX;

/// TCP user timeout. Keepalive probes start after a second of silence and repeat every second. Data sent just
/// before the timeout restarts it once, so a link is dropped after at most twice this time.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(2);
const KEEPALIVE_SECONDS: u32 = 1;
/// Target size of a sent message: one frame of the largest payload, or many small ones.
pub(super) const MESSAGE_BYTES_TARGET: usize = 128 * 1024;

/// The connection of a link.
pub(crate) type Socket = WebSocketStream<TlsStream<Connection>>;
/// A connection before or after the handshake.
pub(crate) type Connection = Join<Guarded<OwnedReadHalf>, OwnedWriteHalf>;

/// Sets the options of a connection (no delay for coalescing, keepalive, user timeout), and limits what is read before the
/// handshake.
pub(crate) fn prepare(stream: TcpStream) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let patience = u32::try_from(UNACKNOWLEDGED_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?;
    setsockopt(&stream, sockopt::TcpUserTimeout, &patience)?;
    let (reading, writing) = stream.into_split();
    Ok(tokio::io::join(Guarded::new(reading), writing))
}

/// Returns the connection below a link.
pub(crate) fn connection(socket: &Socket) -> &Connection {
    socket.get_ref().get_ref().0
}

/// Lifts the limit of what is read: the peer is a member.
pub(crate) fn lift(socket: &mut Socket) {
    lift_connection(socket.get_mut());
}

/// Does the same for a connection that carries no WebSocket.
pub(crate) fn lift_connection(stream: &mut TlsStream<Connection>) {
    stream.get_mut().0.reader_mut().open();
}

/// Returns the WebSocket's limits. The defaults buffer far more than a link needs, and read buffers are zeroed before each
/// read.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(32 * 1024)
        .write_buffer_size(MESSAGE_BYTES_TARGET)
        .max_write_buffer_size(16 * 1024 * 1024)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}
