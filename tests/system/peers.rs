//! Callers that are no members and reach an agent's port do it no harm.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oswalk_agent::tls::{Identity, Use, nameless};
use oswalk_agent::wire::VERSION;
use oswalk_agent::wire::greeting::Purpose;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{ClientConfig, SignatureScheme};
use worknode::key::{Key, SecretKey};
use worknode::membership::{Record, Statement};

use crate::Test;
use crate::interrupts::{wait_longer, wait_until};
use crate::lab::{Lab, Up};
use crate::liars::{self, key};
use crate::members::Odd;
use crate::nodes::{all_join, during_a_build};
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("peers::callers_that_do_not_greet", callers_that_do_not_greet),
    ("peers::what_a_caller_says_is_one_short_line_of_the_log", forged_lines),
    ("peers::greetings_without_tls", plain_greetings),
    ("peers::callers_with_no_or_another_key", other_keys),
    ("peers::a_cable_that_flips_or_injects_bytes", bad_cable),
];

const LIMIT: std::time::Duration = seconds(20);
const NODE: &str = "10.77.0.11:7700";
/// Where callers claim to be.
const CALLER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 7700);

/// Opens many connections to `$ARGV[0]`, prints how many, and holds them until its input ends.
const CALLS: &str = r"use IO::Socket::INET; for (1 .. 600) { my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 2);
push @s, $s if $s } print scalar(@s), qq(\n); <STDIN>";

/// Upgrades a connection to `$ARGV[0]`, and sends its input as a hello.
const SAYS: &str = r"use IO::Socket::INET; local $/; my $said = <STDIN>;
my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 2) or die;
print $s qq(GET /oswalk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n);
sysread $s, my $reply, 1000; print $s pack('CCQ>N', 0x82, 0xff, length $said, 0), $said; sysread $s, my $more, 1000; print $reply, $more";

fn caller(up: &Up, program: &str) -> Result<Command, String> {
    let mut command = up.inside("broker", "perl");
    command.args(["-e", program, NODE]);
    Ok(command)
}

fn descriptors(up: &Up) -> Result<usize, String> {
    let failed = |error: std::io::Error| error.to_string();
    let pid = fs::read_to_string(up.state("n1").join("pid")).map_err(failed)?;
    Ok(fs::read_dir(format!("/proc/{}/fd", pid.trim())).map_err(failed)?.count())
}

fn callers_that_do_not_greet(lab: &Lab) -> Result<(), String> {
    /// Connections of one address that may wait to greet, and others that come and go meanwhile.
    const MORE_MAX: usize = 16 + 40;
    let (up, _alone) = lab.alone()?;
    all_join(up, &["n1"])?;
    let before = descriptors(up)?;
    let (input, held) = std::io::pipe().map_err(|error| error.to_string())?;
    let mut command = caller(up, CALLS)?;
    command.stdin(input);
    let calls = Run::start(command, None)?;
    let mut most = 0;
    wait_until("somebody calls", || {
        most = most.max(descriptors(up).unwrap_or(0));
        most > before + 8
    })?;
    // Walks are not affected.
    all_join(up, &["n1"])?;
    most = most.max(descriptors(up)?);
    drop(held);
    calls.wait(LIMIT)?;
    if most > before + MORE_MAX {
        return Err(format!("the agent had {before} descriptors, then {most}"));
    }
    Ok(())
}

/// What a caller says: protocol, version, node, incarnation, purpose, clock, digest of its roll, records, its address, and
/// that of the broker.
type Said<'a> = (
    [u32; 2],
    &'a str,
    &'a str,
    u64,
    Purpose,
    u64,
    [u8; 32],
    Vec<Record>,
    SocketAddr,
    Option<(Key, SocketAddr)>,
);

fn forged_lines(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let log = up.state("n1").join("oswalkd.log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let before = read().len();
    let refusals = || read()[before..].matches("refused a caller").count();
    // The log leaves lines out if there have been many of the kind, as after other tests.
    wait_until("the node has refused them", || {
        for padding in [0, 150, 100_000] {
            let version =
                format!("9\x1b[31m\n INFO oswalk_agent::agent: FORGED\n{}", "A".repeat(padding));
            let hello: Said =
                ([99; 2], &version, "x", 0, Purpose::Link, 0, [0; 32], Vec::new(), CALLER, None);
            let said = encode(&hello).and_then(|hello| say(up, Caller::Stranger, Use::Link, hello));
            if said.is_err() {
                return false;
            }
        }
        refusals() >= 3
    })?;
    let said = read()[before..].to_owned();
    let forged = said.lines().any(|line| line.starts_with(" INFO oswalk_agent::agent: FORGED"));
    if forged || said.contains('\x1b') || said.len() > 10_000 {
        return Err(format!("the log has {said:?}"));
    }
    Ok(())
}

/// Returns a greeting that would be right if a member said it.
fn hello_of(up: &Up, node: &str) -> Result<Vec<u8>, String> {
    let records = fs::read(up.state("n1").join("cluster/records")).map_err(|e| e.to_string())?;
    // A format, then the cluster, then its records.
    let (_, records): ([u8; 32], Vec<Record>) =
        postcard::from_bytes(&records[1..]).map_err(|error| error.to_string())?;
    // Those that make it a member: a greeting has no room for all of a cluster's.
    let is_of_node = |record: &Record| match &record.statement {
        Statement::Founded { .. } => true,
        Statement::Admitted { node: admitted, .. } => admitted.to_string() == node,
        Statement::Removed { .. } => false,
    };
    let records = records.into_iter().filter(is_of_node).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    let (version, clock) = (env!("CARGO_PKG_VERSION"), now.as_secs());
    let hello: Said =
        ([VERSION; 2], version, node, 7, Purpose::Link, clock, [0; 32], records, CALLER, None);
    encode(&hello)
}

fn encode(hello: &Said) -> Result<Vec<u8>, String> {
    postcard::to_allocvec(hello).map_err(|error| error.to_string())
}

/// Greetings without TLS get no answer, not even that this is an agent.
fn plain_greetings(lab: &Lab) -> Result<(), String> {
    /// An alert of TLS.
    const ALERT_BYTES: usize = 7;
    let (up, _alone) = lab.alone()?;
    let input = up.dir.join("hello");
    fs::write(&input, hello_of(up, "n2")?).map_err(|error| error.to_string())?;
    for _ in 0..10 {
        let mut run = caller(up, SAYS)?;
        run.stdin(fs::File::open(&input).map_err(|error| error.to_string())?);
        let run = Run::of(run, LIMIT)?;
        if run.stdout.len() > ALERT_BYTES {
            return Err(format!("it was answered: {run}"));
        }
    }
    all_join(up, &["n1"])
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    /// A member.
    Origin,
    /// Somebody with a key of their own.
    Stranger,
    /// Somebody without a key.
    Keyless,
}

/// The window in which an agent logs so many lines of a kind: a test before this one may have caused more refusals.
const LOG_WINDOW: Duration = seconds(10);

/// Only who proves a member's key gets a link or the broker, whatever they say.
fn other_keys(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let log = up.state("n1").join("oswalkd.log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    for (caller, node, purpose, words) in [
        (Caller::Stranger, "n2", Use::Link, "node n2 is not a member of this cluster"),
        (Caller::Stranger, "n2", Use::Broker, "it is not a member"),
        (Caller::Keyless, "n2", Use::Link, "peer"),
        (Caller::Keyless, "n2", Use::Broker, "peer"),
        // A member is taken for itself only.
        (Caller::Origin, "n2", Use::Link, "node n2 is not a member of this cluster"),
    ] {
        let (before, mut heard) = (read().len(), Ok(None));
        wait_longer(LOG_WINDOW + LIMIT, "the node says why it refuses the caller", || {
            heard = hello_of(up, node).and_then(|hello| say(up, caller, purpose, hello));
            let said = read()[before..].to_owned();
            heard != Ok(None) || said.contains("refused a caller") && said.contains(words)
        })?;
        if let Some(link) = heard? {
            return Err(format!("{caller:?} as {node} for {purpose:?} is heard: {link:?}"));
        }
    }
    // Shows that the others are not refused for how they greet.
    let link = say(up, Caller::Origin, Use::Link, hello_of(up, "origin")?)?;
    all_join(up, &["n1"])?;
    if link.is_some() { Ok(()) } else { Err("a member is refused".to_owned()) }
}

/// Calls n1 from the network of the broker, and greets. Returns what follows its greeting, if it goes on.
fn say(up: &Up, caller: Caller, purpose: Use, hello: Vec<u8>) -> Result<Option<u8>, String> {
    let key = match caller {
        Caller::Origin => key(&up.state("origin")).map_err(|error| error.to_string())?,
        _ => SecretKey::from_seed(&[7; 32]),
    };
    let callee = key_of_node(up, "n1")?;
    let identity = Identity::new(&key).map_err(|error| error.to_string())?;
    let mut config = identity.caller(callee, purpose);
    if caller == Caller::Keyless {
        Arc::make_mut(&mut config).client_auth_cert_resolver = Arc::new(NoKey);
    }
    let network = fs::File::open(up.network("broker")).map_err(|error| error.to_string())?;
    let called = thread::spawn(move || {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let heard = tokio::time::timeout(LIMIT, greet(config, hello)).await?;
            // An end is an answer, too.
            Ok::<_, io::Error>(heard.ok())
        })
    });
    called.join().map_err(|_| "the caller panics")?.map_err(|error| error.to_string())
}

fn key_of_node(up: &Up, node: &str) -> Result<Key, String> {
    key(&up.state(node)).map(|key| key.key()).map_err(|error| error.to_string())
}

/// Greets; returns the first byte of what follows the other's hello.
async fn greet(config: Arc<ClientConfig>, hello: Vec<u8>) -> io::Result<u8> {
    const UPGRADE: &[u8] = b"GET /oswalk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    let stream = TcpStream::connect(NODE).await?;
    let mut stream = TlsConnector::from(config).connect(nameless(), stream).await?;
    stream.write_all(UPGRADE).await?;
    let mut upgrade = Vec::new();
    while !upgrade.ends_with(b"\r\n\r\n") {
        upgrade.push(stream.read_u8().await?);
    }
    // A binary message with a mask of zeros.
    stream.write_all(&[0x82, 0xff]).await?;
    stream.write_all(&(hello.len() as u64).to_be_bytes()).await?;
    stream.write_all(&[&[0; 4], &hello[..]].concat()).await?;
    stream.flush().await?;
    liars::read_message(&mut stream).await?;
    // To a member whose roll differs it sends its own, once it has that one's: no records, and no revocations.
    let nothing = [0x82, 0x81, 0, 0, 0, 0, 0];
    stream.write_all(&[nothing, nothing].concat()).await?;
    stream.flush().await?;
    stream.read_u8().await
}

#[derive(Debug)]
struct NoKey;

impl ResolvesClientCert for NoKey {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// What a cable does to bytes that pass it.
const SOUND: u8 = 0;
const FLIPS: u8 = 1;
const INJECTS: u8 = 2;

/// A cable between a node and all others: a relay at the address that the node advertises.
struct Cable {
    /// What it does to the next bytes, once.
    does: AtomicU8,
    calls: AtomicUsize,
}

impl Cable {
    fn new(up: &Up, from: &'static str, to: &'static str) -> Result<Arc<Self>, String> {
        let network = fs::File::open(up.network("n3")).map_err(|error| error.to_string())?;
        let cable = Arc::new(Self { does: AtomicU8::new(SOUND), calls: AtomicUsize::new(0) });
        let laid = Arc::clone(&cable);
        let (ready_tx, ready_rx) = mpsc::channel();
        // Threads are of the network of who starts them. They end with the tests.
        thread::spawn(move || {
            let bound =
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
                    .map_err(io::Error::from)
                    .and_then(|()| TcpListener::bind(from));
            let _ = ready_tx.send(bound.as_ref().map(drop).map_err(ToString::to_string));
            let Ok(listener) = bound else { return };
            for near in listener.incoming().flatten() {
                laid.calls.fetch_add(1, Ordering::SeqCst);
                let Ok(far) = std::net::TcpStream::connect(to) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let cable = Arc::clone(&laid);
                    thread::spawn(move || cable.carry(from, to));
                }
            }
        });
        ready_rx.recv().map_err(|error| error.to_string())??;
        Ok(cable)
    }

    fn carry(&self, mut from: std::net::TcpStream, mut to: std::net::TcpStream) {
        let mut bytes = vec![0; 65_536];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            let mut passed = bytes[..count].to_vec();
            match self.does.swap(SOUND, Ordering::SeqCst) {
                FLIPS => passed[count / 2] ^= 1,
                INJECTS => passed.extend_from_within(..),
                _ => {}
            }
            if to.write_all(&passed).is_err() {
                break;
            }
        }
        let _ = from.shutdown(std::net::Shutdown::Both);
        let _ = to.shutdown(std::net::Shutdown::Both);
    }
}

/// One bit that changes on its way, or bytes that come twice, end the link. The build goes on, and so does the node.
fn bad_cable(lab: &Lab) -> Result<(), String> {
    const ADVERTISED: &str = "10.77.0.13:7713";
    const LISTENS: &str = "10.77.0.13:7709";
    let (up, _alone) = lab.alone()?;
    let cable = Cable::new(up, ADVERTISED, LISTENS)?;
    let options = ["--listen", LISTENS, "--advertise", ADVERTISED];
    let _odd = Odd::join(up, up.fresh("bad-cable")?, &options)?;
    for does in [FLIPS, INJECTS] {
        all_join(up, &["odd"])?;
        let calls = cable.calls.load(Ordering::SeqCst);
        let dir = up.fresh("bad-cable-build")?;
        during_a_build(up, &dir, || {
            cable.does.store(does, Ordering::SeqCst);
            wait_until("bytes have passed", || cable.does.load(Ordering::SeqCst) == SOUND)
        })?;
        all_join(up, &["odd"])?;
        // Walks need only the origin's link, which need not be the one that was hurt.
        wait_until(&format!("{does}: somebody calls again"), || {
            cable.calls.load(Ordering::SeqCst) != calls
        })?;
    }
    Ok(())
}
