//! Measures the cost of the shims: `cargo bench -p oswalk-preload`. Rounds of all variants alternate,
//! and the smallest mean counts, because other work on the machine can only add time.

// The tests' helpers build the shims and C programs. There is no library for them: that of this package is a cdylib.
#[path = "../tests/common/mod.rs"]
mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Command;

use common::{Recipe, Session, programs, shims};
use worknode::door::{Header, Kind};

const ROUNDS: usize = 7;

fn main() {
    let session = Session::new(&Recipe { stub: shims().stub.clone(), ..Recipe::default() });
    let listener = UnixListener::bind(&session.door).expect("the door opens");
    std::thread::spawn(move || answer(&listener));

    let native = |program: &str, times| {
        let mut command = Command::new(programs().path("spawner"));
        command.env_clear().envs(ordinary()).arg(times).arg(programs().path(program));
        command
    };
    let ours = |program: &str, times| {
        let mut command = session.command(&programs().path("spawner"));
        command.envs(ordinary()).arg(times).arg(programs().path(program));
        command
    };
    let hidden = Session::new(&Recipe { volume: Some("/elsewhere/cluster"), ..Recipe::default() });
    let opens = |session: Option<&Session>, path: &str| {
        let opener = programs().path("opener");
        let mut command = session.map_or_else(|| Command::new(&opener), |it| it.command(&opener));
        command.arg("1000").arg(path);
        command
    };
    let mut variants = [
        ("static program, native", native("nothing", "1000")),
        ("static program, stays", ours("nothing", "1000")),
        ("dynamic program, native", native("stayer-quiet", "300")),
        ("dynamic program, stays", ours("stayer-quiet", "300")),
        ("walk answered at once", ours("nothing-walker", "300")),
        ("open elsewhere, native", opens(None, "/etc/passwd")),
        ("open elsewhere, no volume", opens(Some(&session), "/etc/passwd")),
        ("open elsewhere, volume hidden", opens(Some(&hidden), "/etc/passwd")),
        ("… and of the same first byte", opens(Some(&hidden), "/etc//passwd")),
    ];
    let mut best = [f64::MAX; 9];
    for _ in 0..ROUNDS {
        for (best, (name, command)) in best.iter_mut().zip(&mut variants) {
            let output = command.output().expect("the spawner runs");
            assert!(output.status.success(), "{name}: {output:?}");
            let text = String::from_utf8(output.stdout).expect("a number");
            *best = best.min(text.trim().parse().expect("a number"));
        }
    }
    let mut stdout = std::io::stdout();
    for ((name, _), micros) in variants.iter().zip(best) {
        writeln!(stdout, "{name:32} {micros:8.2} µs").expect("stdout is open");
    }
}

/// Returns an environment of ordinary size.
fn ordinary() -> impl Iterator<Item = (String, &'static str)> {
    (0..40).map(|index| (format!("VARIABLE_{index}"), "a value of the usual length, more or less"))
}

/// Answers every hello with an exit.
fn answer(listener: &UnixListener) {
    let mut payload = vec![0; 1 << 20];
    for door in listener.incoming() {
        let mut door = door.expect("a stub");
        let mut header = [0; 8];
        door.read_exact(&mut header).expect("a header");
        let header = Header::decode(header).expect("a frame");
        let bytes = usize::try_from(header.payload_bytes).expect("a size");
        door.read_exact(&mut payload[..bytes]).expect("a hello");
        let exit = Header { kind: Kind::Exit, fd: 0, payload_bytes: 4 }.encode();
        door.write_all(&[&exit[..], &[0; 4]].concat()).expect("the stub listens");
    }
}
