//! The private server: started, killed, started again, stopped.

#![expect(clippy::print_stdout, reason = "the measured times are of interest")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use broker::{Broker, Event, Finished, Matchmaker, Submitted};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Cell, cell, info, walk};

fn murder(pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the server runs");
}

#[tokio::test]
async fn a_killed_server_comes_back_with_all_it_acknowledged() {
    let cell = cell().await;
    let mut origin = cell.node("origin", 0).await;
    let _r = cell.node("r", 1).await;
    let grant = origin.granted(walk(1, 1)).await;
    for number in 2..=500 {
        origin.submit(walk(1, number)).await;
    }
    let pid = cell.server.pid().expect("it runs");
    let killed = Instant::now();
    murder(pid);
    // A call made meanwhile waits for the new server.
    let done = origin.broker.finish(grant.walk, &grant.node, grant.attempt).await;
    println!("the first call was answered {:?} after the kill", killed.elapsed());
    let Ok(Finished::Done { next: Some(next) }) = done else { panic!("{done:?}") };
    assert_eq!(next.walk, walk(1, 2));
    assert_eq!(origin.event().await, Event::Lost);
    assert_eq!(origin.event().await, Event::Back);
    assert_ne!(cell.server.pid(), Some(pid));
    assert_eq!(origin.submit(walk(1, 500)).await, Submitted::Queued(498));
    // The nodes were silent because nobody could hear them.
    origin.broker.heartbeat().await.expect("beats, and reaps");
    assert_eq!(origin.nodes().await.len(), 2);
}

#[tokio::test]
async fn a_dropped_server_ends_and_its_socket_is_private() {
    let cell = cell().await;
    let socket = cell.dir.path().join("redis/redis.sock");
    let mode = std::fs::metadata(&socket).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let pid = cell.server.pid().expect("it runs");
    drop(cell.server);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn calls_fail_soon_when_the_broker_stays_away() {
    let cell = cell().await;
    let origin = cell.node("origin", 0).await;
    drop(cell.server);
    let started = Instant::now();
    let failed = origin.broker.heartbeat().await;
    assert!(failed.is_err());
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    assert!(!origin.broker.is_up());
}

#[tokio::test]
async fn a_server_that_cannot_run_says_why() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let deep = dir.path().join("x".repeat(120));
    let failed = broker::PrivateServer::start(&deep).await.expect_err("the path is too long");
    assert!(failed.to_string().contains("shorter state directory"), "{failed}");
    let taken = dir.path().join("data");
    std::fs::create_dir_all(taken.join("appendonlydir/appendonly.aof.manifest")).expect("mkdir");
    let failed = broker::PrivateServer::start(&taken).await.expect_err("its log is damaged");
    assert!(failed.to_string().contains("last line of its log"), "{failed}");
}

/// What a node does through another agent's connection.
#[derive(Debug)]
struct Passed(broker::Guest);

impl broker::Dial for Passed {
    fn dial(&self) -> broker::Dialed {
        let guest = self.0.clone();
        Box::pin(async move { Ok(Box::new(guest.connect().await?) as Box<dyn broker::Stream>) })
    }

    fn shown(&self) -> String {
        "n1".to_owned()
    }

    fn host(&self) -> (String, u16) {
        ("n1".to_owned(), 7700)
    }
}

/// A node that is let in finds its place in the cluster, and has no power over the server.
#[tokio::test]
async fn guests_call_functions_and_administer_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().expect("a directory");
    let server = broker::PrivateServer::start(&dir.path().join("redis")).await.expect("it starts");
    let dial = std::sync::Arc::new(Passed(server.guest()));
    let name = "n2".parse().expect("a sound name");
    let (guest, _events) = Broker::connect_through(dial, "w", &name).await.expect("let in");
    let info = info("n2", 2);
    guest.register(&info).await.expect("registered");
    assert_eq!(guest.list().await.expect("listed").0.len(), 1);
    for command in [
        "CONFIG SET dir /tmp",
        "CONFIG GET *",
        "SAVE",
        "BGSAVE",
        "FLUSHALL",
        "FLUSHDB",
        "SHUTDOWN",
        "DEBUG SLEEP 1",
        "MODULE LOAD /tmp/x.so",
        "REPLICAOF 127.0.0.1 1",
        "SLAVEOF 127.0.0.1 1",
        "ACL LIST",
        "ACL SETUSER guest on nopass +@all",
        "AUTH default x",
        "HELLO 3 AUTH default x",
        "KEYS *",
        "MONITOR",
        "CLIENT KILL TYPE normal",
        "CLIENT LIST",
        "SCRIPT FLUSH",
        "EVAL return(1) 0",
        "FUNCTION FLUSH",
        "FUNCTION DELETE x",
        "MIGRATE 127.0.0.1 1 k 0 10",
        "BLPOP k 0",
        "WAIT 1 0",
        "SWAPDB 0 1",
        "SORT k",
        "RESTORE k 0 x",
        "CLUSTER RESET",
        "FAILOVER",
        "LATENCY RESET",
        "SLOWLOG RESET",
        "PSYNC ? -1",
        "SYNC",
    ] {
        let mut stream = server.guest().connect().await.expect("let in");
        stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("sent");
        let mut answer = [0; 256];
        let length = stream.read(&mut answer).await.expect("answered");
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with('-'), "{command}: {answer}");
    }
}
