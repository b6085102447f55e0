//! `oswalk-seen`: the time from the close of a file in one directory until an open in another one sees it, both of one
//! volume on two nodes. Prints one line: what was done, how often, p50, p99 and the longest, in milliseconds.
//!
//! The directory of a node in another mount namespace is `/proc/TASK/root/…`.
#![expect(clippy::print_stdout, reason = "a program of the scripts: the figures are its output")]
#![expect(clippy::print_stderr, reason = "a program of the scripts: what failed is a message")]

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: oswalk-seen WRITER-DIR READER-DIR COUNT";
/// Time between two looks: a tenth of what is measured.
const LOOK: Duration = Duration::from_micros(200);
/// Time between two writes, so that each is measured by itself.
const REST: Duration = Duration::from_millis(5);
/// After this nobody sees it any more.
const SEEN_MAX: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let measured = match arguments.as_slice() {
        [from, to, count] => count.parse().map_err(|_| USAGE.to_owned()).and_then(|count| {
            measure(Path::new(from), Path::new(to), count).map_err(|error| error.to_string())
        }),
        _ => Err(USAGE.to_owned()),
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("oswalk-seen: {message}");
            ExitCode::FAILURE
        }
    }
}

fn measure(from: &Path, to: &Path, count: usize) -> io::Result<()> {
    say("new file", (0..count).map(|number| seen(from, to, &format!("new-{number}"), number)))?;
    say("same file", (0..count).map(|number| seen(from, to, "same", number)))
}

/// Writes a file here, and waits until it is there.
fn seen(from: &Path, to: &Path, name: &str, number: usize) -> io::Result<Duration> {
    let content = format!("{number} {name}\n");
    fs::write(from.join(name), &content)?;
    let closed = Instant::now();
    while fs::read(to.join(name)).ok().as_deref() != Some(content.as_bytes()) {
        if closed.elapsed() > SEEN_MAX {
            return Err(io::Error::other(format!("{name} was not seen in {SEEN_MAX:?}")));
        }
        std::thread::sleep(LOOK);
    }
    let seen = closed.elapsed();
    std::thread::sleep(REST);
    Ok(seen)
}

fn say(what: &str, times: impl Iterator<Item = io::Result<Duration>>) -> io::Result<()> {
    let mut times = times.collect::<io::Result<Vec<_>>>()?;
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).or(times.last());
    let ms = |part| at(part).map_or(0.0, |time| time.as_secs_f64() * 1000.0);
    let count = times.len();
    println!("{what}: {count} times, p50 {:.2} p99 {:.2} max {:.2} ms", ms(50), ms(99), ms(100));
    Ok(())
}
