//! The kernel's statistics of a TCP connection.
#![expect(unsafe_code, reason = "TCP_INFO has no safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Offset of `tcpi_delivery_rate` in Linux's `struct tcp_info`. The C library's structure is shorter.
const RATE_AT: usize = 160;
const INFO_BYTES: usize = 168;

/// Offset of `tcpi_last_ack_recv`.
const LAST_ACK_AT: usize = 56;

/// Offset of `tcpi_min_rtt`.
const ROUND_TRIP_AT: usize = 148;

/// Offsets of `tcpi_unacked`, `tcpi_last_data_recv`, `tcpi_bytes_acked` and `tcpi_notsent_bytes`.
const UNACKNOWLEDGED_AT: usize = 24;
const LAST_DATA_AT: usize = 52;
const ACKNOWLEDGED_AT: usize = 120;
const UNSENT_AT: usize = 144;

/// Data that came within this time is part of a stream of data. A quarter of the time between two looks.
const HEARD_WITHIN_MS: u32 = 250;

/// What the kernels of both sides are moving.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    /// Bytes that the peer's kernel has acknowledged.
    pub(crate) acknowledged: u64,
    /// Whether bytes wait to be acknowledged.
    pub(crate) waits: bool,
    /// Whether bytes are arriving.
    pub(crate) hears: bool,
}

impl Moved {
    /// Tells whether data is under way, in comparison with an earlier state. Without one, waiting data counts.
    pub(crate) fn since(self, before: Option<Self>) -> bool {
        let progressed = before.is_none_or(|before| before.acknowledged != self.acknowledged);
        self.hears || self.waits && progressed
    }
}

/// Returns what the kernels are moving.
///
/// # Errors
/// It is no TCP connection.
pub(crate) fn moved(socket: &impl AsFd) -> io::Result<Moved> {
    let info = info(socket)?;
    let word = |at: usize| u32::from_ne_bytes(*info[at..].first_chunk().expect("inside"));
    Ok(Moved {
        acknowledged: u64::from_ne_bytes(*info[ACKNOWLEDGED_AT..].first_chunk().expect("inside")),
        waits: word(UNACKNOWLEDGED_AT) > 0 || word(UNSENT_AT) > 0,
        hears: word(LAST_DATA_AT) < HEARD_WITHIN_MS,
    })
}

/// Returns the time since the last acknowledgement from the peer's kernel, in whole milliseconds.
///
/// # Errors
/// It is no TCP connection.
pub(crate) fn acknowledged_since(socket: &impl AsFd) -> io::Result<Duration> {
    let since = u32::from_ne_bytes(*info(socket)?[LAST_ACK_AT..].first_chunk().expect("inside"));
    Ok(Duration::from_millis(since.into()))
}

/// Returns the shortest round trip so far between the kernels.
///
/// # Errors
/// It is no TCP connection.
pub(crate) fn round_trip(socket: &impl AsFd) -> io::Result<Duration> {
    let us = u32::from_ne_bytes(*info(socket)?[ROUND_TRIP_AT..].first_chunk().expect("inside"));
    Ok(Duration::from_micros(us.into()))
}

/// Returns the kernel's last estimate of the delivery rate in bytes per second; 0 if it has none yet.
///
/// # Errors
/// It is no TCP connection.
pub(crate) fn delivery_rate(socket: &impl AsFd) -> io::Result<u64> {
    Ok(u64::from_ne_bytes(*info(socket)?[RATE_AT..].first_chunk().expect("inside")))
}

fn info(socket: &impl AsFd) -> io::Result<[u8; INFO_BYTES]> {
    let mut info = [0_u8; INFO_BYTES];
    let mut bytes = libc::socklen_t::try_from(INFO_BYTES).map_err(io::Error::other)?;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel fills at most as many bytes as `bytes` says.
    let result = unsafe {
        let info = info.as_mut_ptr().cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, info, &raw mut bytes)
    };
    match result {
        0 => Ok(info),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    #[test]
    fn loopback_is_fast() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut near = TcpStream::connect(address).expect("it listens");
        let (mut far, _) = listener.accept().expect("somebody called");
        assert_eq!(delivery_rate(&near).expect("a connection"), 0);
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            far.read_to_end(&mut bytes).map(|_| bytes.len()).expect("readable")
        });
        near.write_all(&vec![7; 4 << 20]).expect("somebody reads");
        near.shutdown(std::net::Shutdown::Write).expect("open");
        assert_eq!(reader.join().expect("it ended"), 4 << 20);
        // The last acknowledgement may come after the bytes have been read.
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut now = moved(&near).expect("a connection");
        while (now.acknowledged < 4 << 20 || now.waits) && Instant::now() < deadline {
            std::thread::yield_now();
            now = moved(&near).expect("a connection");
        }
        assert!(now.acknowledged >= 4 << 20 && !now.waits);
        assert!(acknowledged_since(&near).expect("a connection") < Duration::from_secs(60));
        assert!(round_trip(&near).expect("a connection") < Duration::from_secs(1));
        let rate = delivery_rate(&near).expect("a connection");
        assert!((1 << 20..1 << 40).contains(&rate), "{rate} bytes/s");
        let file = std::fs::File::open("/dev/null").expect("there");
        assert!(delivery_rate(&file).is_err());
    }
}
