//! Packets that runners give to each other: the origin sends each about once, and no walk fails or reads a wrong byte because
//! of the runner that holds it.

use std::fs;
use std::path::Path;

use packetfs::packet::Digest;
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::interrupts::{wait_longer, wait_until};
use crate::lab::{Lab, NODES, Up};
use crate::liars::{Liar, Lie};
use crate::members::is;
use crate::nodes::all_join;
use crate::report::Report;
use crate::run::{Run, Started, seconds};

pub(crate) const ALL: &[Test] = &[
    ("holders::the_origin_sends_a_packet_about_once", sends_once),
    ("holders::one_that_is_stopped_or_dies_in_the_middle", holder_dies),
    ("holders::one_that_lies", holder_lies),
];

const LIMIT: std::time::Duration = seconds(20);
const FILE_BYTES: usize = 4 << 20;
/// Limit for seeing that packets come from others: on a busy machine, they may be late.
const SEEN_MAX: std::time::Duration = seconds(60);

/// Creates a file that nobody knows, and that cannot be compressed.
fn make(path: &Path, bytes: usize) -> Result<(), String> {
    let seed = path.as_os_str().as_encoded_bytes();
    let blocks = (0..bytes as u64 / 32).flat_map(|block| {
        Digest::of(&[seed, &block.to_le_bytes(), &std::process::id().to_le_bytes()].concat()).0
    });
    fs::write(path, blocks.collect::<Vec<u8>>()).map_err(|error| error.to_string())
}

/// Starts a walk on a node that reads a file.
fn begin(up: &Up, node: &str, path: &Path) -> Result<Started, String> {
    let mut command = up.exec(&path.with_extension(node));
    let script = format!("sha256sum {}; :", path.display());
    command.args(["--on", node, "--walk", "sha256sum", "--", "sh", "-c", &script]);
    Run::start(command, None)
}

/// Checks what it has read, and that it was there.
fn check(up: &Up, node: &str, path: &Path, run: &Run) -> Result<(), String> {
    let mut native = up.command("sha256sum");
    native.arg(path);
    let native = Run::of(native, LIMIT)?;
    let walks = Report::read(&path.with_extension(node))?;
    if run.succeeded() && run.stdout == native.stdout && walks.runners() == [node] {
        return Ok(());
    }
    Err(format!("on {node} ({:?}): {run}, natively {native}", walks.runners()))
}

fn read(up: &Up, node: &str, path: &Path) -> Result<(), String> {
    let run = begin(up, node, path)?.wait(LIMIT)?;
    check(up, node, path, &run)
}

fn pid(up: &Up, node: &str) -> Result<Pid, String> {
    let text = fs::read_to_string(up.state(node).join("pid")).map_err(|error| error.to_string())?;
    text.trim().parse().ok().and_then(Pid::from_raw).ok_or_else(|| "no pid".to_owned())
}

/// Returns the bytes that a node has sent.
pub(crate) fn sent(up: &Up, node: &str) -> Result<u64, String> {
    let path = format!("/proc/{}/net/dev", pid(up, node)?.as_raw_nonzero());
    let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let card = text.lines().find_map(|line| line.trim().strip_prefix("eth0:"));
    let bytes = card.and_then(|card| card.split_whitespace().nth(8)?.parse().ok());
    bytes.ok_or_else(|| format!("no bytes of eth0 in {text}"))
}

fn sends_once(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    all_join(up, &NODES)?;
    let dir = up.fresh("holders-once")?;
    // The bytes that the origin has sent for each file.
    let mut all: Vec<u64> = Vec::new();
    let mut round = || -> Result<u64, String> {
        let file = dir.join(format!("file{}", all.len()));
        make(&file, FILE_BYTES)?;
        let before = sent(up, "origin")?;
        NODES.iter().try_for_each(|node| read(up, node, &file))?;
        all.push(sent(up, "origin")? - before);
        Ok(all[all.len() - 1])
    };
    let mut failed = Ok(());
    let is_once = || match round() {
        Ok(bytes) => bytes < FILE_BYTES as u64 * 3 / 2,
        Err(error) => {
            failed = Err(error);
            true
        }
    };
    let seen = wait_longer(SEEN_MAX, "the origin sends a file once", is_once);
    failed?;
    seen.map_err(|error| format!("{error}: it has sent {all:?} bytes for {FILE_BYTES} each"))
}

fn holder_dies(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    all_join(up, &NODES)?;
    let dir = up.fresh("holders-die")?;
    let [known, stopped, killed] = ["known", "stopped", "killed"].map(|name| dir.join(name));
    for file in [&known, &stopped, &killed] {
        make(file, FILE_BYTES)?;
        read(up, "n1", file)?;
    }
    // They are linked now.
    read(up, "n2", &known)?;
    let signal = |signal| {
        kill_process(pid(up, "n1")?, signal).map_err(|error| format!("{signal:?}: {error}"))
    };
    signal(Signal::STOP)?;
    let read_meanwhile = read(up, "n2", &stopped);
    signal(Signal::CONT)?;
    read_meanwhile?;
    let reading = begin(up, "n3", &killed)?;
    up.lab(&["kill", "n1"])?;
    let read = reading.wait(LIMIT).and_then(|run| check(up, "n3", &killed, &run));
    up.lab(&["heal", "n1"])?;
    all_join(up, &["n1"])?;
    read
}

fn holder_lies(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    all_join(up, &NODES)?;
    let (liar, _odd) = Liar::join(up, "holders-liar")?;
    wait_until("it is alive", || is(up, "odd", "alive"))?;
    let dir = up.fresh("holders-lies")?;
    let known = dir.join("known");
    make(&known, FILE_BYTES)?;
    read(up, "odd", &known)?;
    // It may have called n2 for the program. Now n2 calls it, and so reaches the proxy.
    up.restart("n2")?;
    let log = up.state("n2").join("oswalkd.log");
    let has_noticed = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("that it gave does not match its digest")
    };
    let mut number = 0;
    let mut round = || -> Result<(), String> {
        // The link to it is made in peace, since it does not lie well enough for a greeting.
        for (name, lie) in [("honest", None), ("lie", Some(Lie::default()))] {
            let file = dir.join(format!("{name}{number}"));
            make(&file, FILE_BYTES)?;
            read(up, "odd", &file)?;
            liar.say(lie);
            let read = read(up, "n2", &file);
            liar.say(None);
            read?;
        }
        number += 1;
        Ok(())
    };
    let mut failed = Ok(());
    let noticed = wait_longer(SEEN_MAX, "n2 notices that a holder lies", || {
        failed = round();
        failed.is_err() || has_noticed()
    });
    failed?;
    noticed?;
    let trusted = up.cluster(&up.state("n2"), &["trust", "odd"])?;
    if trusted.succeeded() { Ok(()) } else { Err(trusted.to_string()) }
}
