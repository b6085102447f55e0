//! `oswalk-relay`: a TCP relay that adds delay, so that the nodes of a lab on one machine are apart.
//!
//! Each byte is delayed in each direction. Order and half-close are preserved. `--mbit` limits the
//! throughput of each direction, for all connections together. The relay models a long or thin cable,
//! not a bad one: nothing is lost or reordered. TCP's handshake is not delayed. Only `scripts/lab up`
//! with `--rtt` or `--mbit` starts it.
#![expect(clippy::print_stderr, reason = "a program of the lab: its messages go to a log file")]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Bytes of one read: large enough for full speed, small enough to have one time stamp.
const CHUNK_BYTES: usize = 64 * 1024;

/// Most bytes delayed in one direction: 2.5 Gbit/s at 200 ms. Beyond this, the sender is slowed down.
const BUFFERED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Bytes of one read where throughput is limited: 2.6 ms at 50 Mbit/s.
const THIN_CHUNK_BYTES: usize = 16 * 1024;

/// Size of the kernel's socket buffers where throughput is limited. Larger ones would hide the limit
/// from the sender.
const THIN_BUFFER_BYTES: usize = 64 * 1024;

const USAGE: &str =
    "usage: oswalk-relay --listen IP:PORT --to IP:PORT --delay-ms N [--mbit MBIT_PER_SECOND]";

fn main() -> ExitCode {
    match Options::parse(std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("oswalk-relay: {message}");
            ExitCode::from(2)
        }
    }
}

/// The command line.
#[derive(Debug)]
struct Options {
    listen: SocketAddr,
    to: SocketAddr,
    cable: Cable,
}

/// The modelled cable.
#[derive(Debug, Clone, Default)]
struct Cable {
    /// Delay of each byte, in each direction.
    delay: Duration,
    /// Throughput of each direction, if it is limited.
    pace: Option<[Arc<Pace>; 2]>,
}

/// The limited throughput of one direction, shared by all connections.
#[derive(Debug)]
struct Pace {
    bytes_per_second: f64,
    /// When the cable has sent everything so far.
    free_at: Mutex<Instant>,
}

impl Pace {
    fn new(bytes_per_second: f64) -> Arc<Self> {
        Arc::new(Self { bytes_per_second, free_at: Mutex::new(Instant::now()) })
    }

    /// Waits until the cable has sent this many bytes.
    fn take(&self, bytes: usize) {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        #[expect(clippy::cast_precision_loss, reason = "a chunk is small")]
        let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        *free_at = Instant::now().max(*free_at) + takes;
        let until = *free_at;
        drop(free_at);
        thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

impl Cable {
    /// Returns the bytes of one read, and the most bytes delayed in one direction: twice the
    /// bandwidth-delay product.
    fn sizes(&self) -> (usize, usize) {
        let Some([pace, _]) = &self.pace else { return (CHUNK_BYTES, BUFFERED_BYTES_MAX) };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it is bounded"
        )]
        let on_its_way = (pace.bytes_per_second * self.delay.as_secs_f64()) as usize;
        (THIN_CHUNK_BYTES, (2 * on_its_way + 2 * THIN_CHUNK_BYTES).min(BUFFERED_BYTES_MAX))
    }
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut listen, mut to, mut delay, mut pace) = (None, None, None, None);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value; {USAGE}"))?;
            let bad = |error: &dyn std::fmt::Display| format!("{name} {value}: {error}");
            match name.as_str() {
                "--listen" => listen = Some(value.parse().map_err(|e| bad(&e))?),
                "--to" => to = Some(value.parse().map_err(|e| bad(&e))?),
                "--delay-ms" => {
                    let ms: f64 = value.parse().map_err(|e| bad(&e))?;
                    delay = Some(Duration::try_from_secs_f64(ms / 1e3).map_err(|e| bad(&e))?);
                }
                "--mbit" => {
                    let mbit: f64 = value.parse().map_err(|e| bad(&e))?;
                    if !(0.01..=100_000.0).contains(&mbit) {
                        return Err(bad(&"a number from 0.01 to 100000 is wanted"));
                    }
                    pace = Some([(); 2].map(|()| Pace::new(mbit * 1e6 / 8.0)));
                }
                _ => return Err(format!("unknown option {name}; {USAGE}")),
            }
        }
        match (listen, to, delay) {
            (Some(listen), Some(to), Some(delay)) => {
                Ok(Self { listen, to, cable: Cable { delay, pace } })
            }
            _ => Err(USAGE.to_owned()),
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let listener = TcpListener::bind(options.listen)
        .map_err(|e| format!("failed to listen on {}: {e}", options.listen))?;
    serve(&listener, options.to, &options.cable);
    Ok(())
}

fn serve(listener: &TcpListener, to: SocketAddr, cable: &Cable) {
    loop {
        match listener.accept() {
            Ok((client, _)) => {
                let cable = cable.clone();
                thread::spawn(move || relay(client, to, &cable));
            }
            Err(error) => {
                eprintln!("oswalk-relay: failed to accept: {error}");
                thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

/// Relays one connection. If the target is away, the client's connection ends.
fn relay(client: TcpStream, to: SocketAddr, cable: &Cable) {
    if let Err(error) = TcpStream::connect(to).and_then(|target| join(client, target, cable)) {
        eprintln!("oswalk-relay: {to}: {error}");
    }
}

fn join(client: TcpStream, target: TcpStream, cable: &Cable) -> io::Result<()> {
    for socket in [&client, &target] {
        socket.set_nodelay(true)?;
        if cable.pace.is_some() {
            rustix::net::sockopt::set_socket_recv_buffer_size(socket, THIN_BUFFER_BYTES)?;
            rustix::net::sockopt::set_socket_send_buffer_size(socket, THIN_BUFFER_BYTES)?;
        }
    }
    let back = (target.try_clone()?, client.try_clone()?);
    let (there, again) = (cable.clone(), cable.clone());
    let backward = thread::spawn(move || carry(back.0, back.1, again, 1));
    carry(client, target, there, 0);
    let _ = backward.join();
    Ok(())
}

/// Carries one direction until its end: one thread reads, this one writes.
fn carry(from: TcpStream, to: TcpStream, cable: Cable, way: usize) {
    let (chunk_bytes, buffered_bytes_max) = cable.sizes();
    let queue = Arc::new(Queue::new(buffered_bytes_max));
    let filled = Arc::clone(&queue);
    let pace = cable.pace.map(|ways| Arc::clone(&ways[way]));
    let reader =
        thread::spawn(move || fill(from, &filled, cable.delay, pace.as_deref(), chunk_bytes));
    drain(to, &queue);
    let _ = reader.join();
}

/// Reads into the queue: limits the throughput first, then adds the delay.
fn fill(
    mut from: TcpStream,
    queue: &Queue,
    delay: Duration,
    pace: Option<&Pace>,
    chunk_bytes: usize,
) {
    let mut chunk = vec![0; chunk_bytes];
    loop {
        // An error ends the direction like an end of file: bytes that were read still arrive.
        let count = from.read(&mut chunk).unwrap_or(0);
        if let Some(pace) = pace {
            pace.take(count);
        }
        let taken = queue.push(Instant::now() + delay, chunk[..count].to_vec());
        if count == 0 || !taken {
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

fn drain(mut to: TcpStream, queue: &Queue) {
    loop {
        let (due, chunk) = queue.pop();
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if chunk.is_empty() {
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
        if to.write_all(&chunk).is_err() {
            queue.close();
            // The peer is gone: end the other direction and the blocked reader, too.
            let _ = to.shutdown(Shutdown::Both);
            return;
        }
    }
}

/// Chunks with their due times; an empty chunk marks the end.
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    bytes: usize,
    closed: bool,
}

impl Queue {
    fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), bytes_max }
    }

    /// Waits for room; returns false if the queue is closed.
    fn push(&self, due: Instant, chunk: Vec<u8>) -> bool {
        let mut state = self.lock();
        while state.bytes >= self.bytes_max && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.bytes += chunk.len();
        state.chunks.push_back((due, chunk));
        self.changed.notify_all();
        !state.closed
    }

    fn pop(&self) -> (Instant, Vec<u8>) {
        let mut state = self.lock();
        loop {
            if let Some((due, chunk)) = state.chunks.pop_front() {
                state.bytes -= chunk.len();
                self.changed.notify_all();
                return (due, chunk);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects through a relay to a server that returns everything after the client's half-close.
    fn relayed(cable: Cable) -> TcpStream {
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let to = server.local_addr().expect("an address");
        thread::spawn(move || {
            let (mut peer, _) = server.accept().expect("the relay's connection");
            let mut all = Vec::new();
            peer.read_to_end(&mut all).expect("the client's half-close");
            peer.write_all(&all).expect("an open way back");
        });
        let front = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = front.local_addr().expect("an address");
        thread::spawn(move || serve(&front, to, &cable));
        TcpStream::connect(address).expect("the relay listens")
    }

    /// Sends bytes and a half-close; returns the time until all bytes were back.
    fn there_and_back(sent: &[u8], cable: Cable) -> Duration {
        let mut client = relayed(cable);
        let start = Instant::now();
        let mut writer = client.try_clone().expect("a second handle");
        let bytes = sent.to_vec();
        thread::spawn(move || {
            writer.write_all(&bytes).expect("the relay reads");
            writer.shutdown(Shutdown::Write).expect("half-close");
        });
        let mut got = Vec::new();
        client.read_to_end(&mut got).expect("the answer");
        assert!(got == sent, "{} bytes of {} came back", got.len(), sent.len());
        start.elapsed()
    }

    #[test]
    fn half_close_and_order_survive_and_each_way_costs_the_delay() {
        let sent: Vec<u8> = (0u32..1 << 18).flat_map(u32::to_le_bytes).collect();
        let cable = Cable { delay: Duration::from_millis(40), pace: None };
        let took = there_and_back(&sent, cable);
        assert!(took >= Duration::from_millis(80), "{took:?} is shorter than two delays");
        assert!(took < Duration::from_secs(5), "{took:?} is far longer than two delays");
    }

    #[test]
    fn a_thin_cable_takes_its_time_each_way() {
        let pace = Some([(); 2].map(|()| Pace::new(1e6)));
        let took = there_and_back(&vec![7; 200_000], Cable { delay: Duration::ZERO, pace });
        assert!(took >= Duration::from_millis(400), "{took:?} for 200 kB at 1 MB/s, each way");
    }

    #[test]
    fn an_absent_target_ends_the_connection() {
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let front = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = front.local_addr().expect("an address");
        thread::spawn(move || serve(&front, gone, &Cable::default()));
        let mut client = TcpStream::connect(address).expect("the relay listens");
        assert_eq!(client.read(&mut [0; 1]).expect("an end of file"), 0);
    }

    #[test]
    fn a_missing_or_bad_option_is_named() {
        let parse = |line: &str| {
            Options::parse(line.split_whitespace().map(str::to_owned)).map(|_| ()).unwrap_err()
        };
        assert!(parse("--listen nonsense").contains("--listen nonsense"));
        assert!(parse("--delay-ms -1").contains("--delay-ms -1"));
        assert!(parse("--mbit 0").contains("--mbit 0"));
        assert!(parse("--to 127.0.0.1:1").contains("usage"));
        assert!(parse("--what 1").contains("--what"));
    }
}
