//! The reading half of a connection, from which a limited number of bytes is read until the peer is authenticated.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::tcp::OwnedReadHalf;

use crate::wire::limits::GREETING_BYTES_MAX;

/// A guarded reading half.
#[derive(Debug)]
pub(crate) struct Guarded<S> {
    stream: S,
    /// Bytes that may still be read, while the connection is guarded.
    left: Option<usize>,
}

impl<S> Guarded<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, left: Some(GREETING_BYTES_MAX) }
    }

    /// Removes the limit after the peer has authenticated.
    pub(crate) fn open(&mut self) {
        self.left = None;
    }
}

impl AsFd for Guarded<OwnedReadHalf> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_ref().as_fd()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(left) = self.left else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        if left == 0 {
            let said = "it sent more than a greeting before it had proved who it is";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, said)));
        }
        let mut some = [0; GREETING_BYTES_MAX];
        let room = left.min(buffer.remaining());
        let mut part = ReadBuf::new(&mut some[..room]);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        self.left = Some(left - part.filled().len());
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn only_a_greeting_is_read_before_authentication() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            let mut near = Guarded::new(near);
            far.write_all(&[7; GREETING_BYTES_MAX + 500]).await.expect("there is room");
            let mut bytes = [0; GREETING_BYTES_MAX];
            near.read_exact(&mut bytes).await.expect("a greeting");
            let error = near.read(&mut bytes).await.expect_err("more than that");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            near.open();
            near.read_exact(&mut bytes[..500]).await.expect("the rest has waited");
        });
    }
}
