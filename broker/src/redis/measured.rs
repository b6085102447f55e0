//! Limits the size of replies from Redis. Replies are measured before they are parsed and stored; one that is larger
//! than any honest reply ends the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Largest reply or message. A list of 1,024 nodes takes a tenth of it.
const REPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most pending parts of one reply. A list of 1,024 nodes has 10 per node.
const PARTS_MAX: usize = 16 * 1024;
/// Longest first line of a part: its type, and a length, a number or an error message.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Finds the end of each reply in a stream of RESP3.
#[derive(Debug)]
pub(crate) struct Measure {
    /// Bytes of the current reply so far.
    bytes: usize,
    /// Pending parts, including the current one.
    parts: usize,
    place: Place,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Line,
    /// Within a text: the remaining bytes, including the line end.
    Text(usize),
}

impl Default for Measure {
    fn default() -> Self {
        Self { bytes: 0, parts: 1, place: Place::Line, line: Vec::new() }
    }
}

impl Measure {
    /// Measures received bytes. Returns false if the reply is too large or malformed.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let taken = match self.place {
                Place::Text(left) => left.min(bytes.len()),
                Place::Line => {
                    bytes.iter().position(|&b| b == b'\n').map_or(bytes.len(), |at| at + 1)
                }
            };
            let (piece, rest) = bytes.split_at(taken);
            bytes = rest;
            self.bytes += taken;
            if self.bytes > REPLY_BYTES_MAX {
                return false;
            }
            match self.place {
                Place::Text(left) if left > taken => self.place = Place::Text(left - taken),
                Place::Text(_) => self.end_part(),
                Place::Line => {
                    self.line.extend_from_slice(piece);
                    let is_whole = self.line.ends_with(b"\n");
                    if self.line.len() > LINE_BYTES_MAX || (is_whole && self.begin().is_none()) {
                        return false;
                    }
                }
            }
        }
        true
    }

    /// Begins the part whose first line was read. Returns `None` if it is too large or malformed.
    fn begin(&mut self) -> Option<()> {
        let line = std::mem::take(&mut self.line);
        let (&kind, rest) = line.strip_suffix(b"\r\n")?.split_first()?;
        let length = || -> Option<usize> {
            match rest {
                // Null.
                b"-1" => Some(0),
                rest => std::str::from_utf8(rest).ok()?.parse().ok(),
            }
        };
        let more = match kind {
            b'$' | b'!' | b'=' if rest != b"-1" => {
                let bytes = length().filter(|&bytes| bytes <= REPLY_BYTES_MAX)?;
                self.place = Place::Text(bytes + 2);
                return Some(());
            }
            b'*' | b'~' | b'>' => length()?,
            b'%' => length()?.checked_mul(2)?,
            // Attributes: pairs that precede the part they describe.
            b'|' => length()?.checked_mul(2)?.checked_add(1)?,
            _ => 0,
        };
        self.parts = self.parts.checked_add(more).filter(|&parts| parts <= PARTS_MAX)?;
        self.end_part();
        Some(())
    }

    fn end_part(&mut self) {
        self.parts -= 1;
        self.place = Place::Line;
        if self.parts == 0 {
            *self = Self::default();
        }
    }
}

/// The reading half of a connection, which ends when a reply is too large.
#[derive(Debug)]
pub(crate) struct Measured<S> {
    stream: S,
    measure: Measure,
}

impl<S> Measured<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, measure: Measure::default() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Measured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let arrived = &buffer.filled()[before..];
        if self.measure.take(arrived) {
            return Poll::Ready(Ok(()));
        }
        buffer.set_filled(before);
        let said = "the broker sent a reply that is too large or malformed";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, said)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_each_reply_is_found() {
        let replies = [
            "$5\r\na\r\nbc\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "_\r\n",
            ":7\r\n",
            "+OK\r\n",
            "-ERR no\r\n",
            "#t\r\n",
            "*2\r\n*2\r\n$1\r\na\r\n:1\r\n$0\r\n\r\n",
            "*0\r\n",
            "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:1\r\n",
            "|1\r\n+ttl\r\n:3\r\n*1\r\n+x\r\n",
            ">3\r\n+message\r\n$1\r\nc\r\n$2\r\nno\r\n",
            ",1.5\r\n",
            "~1\r\n:1\r\n",
        ];
        let all = replies.concat();
        for piece in [1, 2, 3, 7, all.len()] {
            let mut measure = Measure::default();
            assert!(all.as_bytes().chunks(piece).all(|piece| measure.take(piece)));
            assert!(measure.bytes == 0 && measure.parts == 1 && measure.line.is_empty());
        }
        for reply in replies {
            let mut measure = Measure::default();
            for byte in &reply.as_bytes()[..reply.len() - 1] {
                assert!(measure.take(&[*byte]) && measure.bytes > 0, "{reply:?} is not over yet");
            }
        }
    }

    #[test]
    fn replies_that_are_too_large_are_refused() {
        let long_text = format!("${}\r\n", REPLY_BYTES_MAX + 1);
        let many = format!("*{}\r\n", PARTS_MAX + 1);
        let nested = "*1000\r\n".repeat(20);
        let endless =
            format!("*9000\r\n{}", format!("$1000\r\n{}\r\n", "x".repeat(1000)).repeat(9000));
        for reply in [
            &long_text,
            &many,
            &nested,
            &endless,
            "$?\r\n",
            "*?\r\n",
            "$99999999999999999999\r\n",
            "%18446744073709551615\r\n",
            "\r\n",
            &"x".repeat(LINE_BYTES_MAX + 1),
        ] {
            let mut measure = Measure::default();
            assert!(
                !reply.as_bytes().chunks(4096).all(|piece| measure.take(piece)),
                "{:.20}",
                reply
            );
        }
    }
}
