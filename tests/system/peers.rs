//! Callers without the secret that reach an agent's port do it no harm.

use std::fs;
use std::process::Command;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::{Lab, Up};
use crate::nodes::all_join;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("peers::callers_that_do_not_greet", callers_that_do_not_greet),
    ("peers::what_a_caller_says_is_one_short_line_of_the_log", forged_lines),
];

const LIMIT: std::time::Duration = seconds(20);
const NODE: &str = "10.77.0.11:7700";

/// Opens many connections to `$ARGV[0]`, prints how many, and holds them until its input ends.
const CALLS: &str = r"use IO::Socket::INET; for (1 .. 600) { my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 2);
push @s, $s if $s } print scalar(@s), qq(\n); <STDIN>";

/// Upgrades a connection to `$ARGV[0]`, and sends its input as a hello.
const SAYS: &str = r"use IO::Socket::INET; local $/; my $said = <STDIN>;
my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Timeout => 2) or die;
print $s qq(GET /oswalk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n);
sysread $s, my $reply, 1000; print $s pack('CCQ>N', 0x82, 0xff, length $said, 0), $said; sysread $s, $reply, 1000";

fn caller(up: &Up, program: &str) -> Result<Command, String> {
    let mut command = up.inside("broker", "perl")?;
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

fn forged_lines(lab: &Lab) -> Result<(), String> {
    let (up, _alone) = lab.alone()?;
    let log = up.state("n1").join("oswalkd.log");
    let read = || fs::read_to_string(&log).unwrap_or_default();
    let before = read().len();
    for padding in [0, 150, 100_000] {
        let version =
            format!("9\x1b[31m\n INFO oswalk_agent::agent: FORGED\n{}", "A".repeat(padding));
        // In postcard: protocol, version.
        let mut hello = vec![99];
        let mut length = version.len();
        while length > 127 {
            hello.push(u8::try_from(length & 127).unwrap_or(0) | 128);
            length >>= 7;
        }
        hello.push(u8::try_from(length).unwrap_or(0));
        hello.extend(version.as_bytes());
        hello.extend(b"\x01x\x00\x00\x00");
        hello.extend([0; 32]);
        let mut run = caller(up, SAYS)?;
        let input = up.dir.join("hello");
        fs::write(&input, hello).map_err(|error| error.to_string())?;
        run.stdin(fs::File::open(&input).map_err(|error| error.to_string())?);
        Run::of(run, LIMIT)?;
    }
    wait_until("the node has refused them", || {
        read()[before..].matches("refused a link").count() >= 3
    })?;
    let said = read()[before..].to_owned();
    let forged = said.lines().any(|line| line.starts_with(" INFO oswalk_agent::agent: FORGED"));
    if forged || said.contains('\x1b') || said.len() > 10_000 {
        return Err(format!("the log has {said:?}"));
    }
    Ok(())
}
