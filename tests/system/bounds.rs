//! One user cannot keep an agent busy for the others.

use std::time::Duration;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::Lab;
use crate::report::Report;
use crate::run::{Run, seconds};
use crate::users::{ANN, BEN, home, of_user};

pub(crate) const ALL: &[Test] = &[
    ("bounds::half_a_hello_takes_memory_of_its_user", half_hellos),
    ("bounds::a_page_is_kept_short", pages),
];

const LIMIT: Duration = seconds(60);

/// Sends all but the last byte of 64 hellos to the door `argv[1]`, waits until `argv[3]` of them are refused, writes into `argv[2]`
/// how many, and holds the others until its input ends.
const HALF_HELLOS: &str = "import select, socket, sys
held, refused, size = [], 0, 8 << 20
for _ in range(64):
    door = socket.socket(socket.AF_UNIX)
    door.settimeout(20)
    door.connect(sys.argv[1])
    try:
        door.sendall(b'\\1\\0\\0\\0' + size.to_bytes(4, 'little') + b'x' * (size - 1))
        held.append(door)
    except OSError:
        refused += 1
while refused < int(sys.argv[3]):
    ended = select.select(held, [], [], 20)[0]
    if not ended: break
    refused += len(ended)
    held = [door for door in held if door not in ended]
open(sys.argv[2], 'w').write(f'{refused}\\n')
sys.stdin.read()";
/// A user has room for 32 hellos at most.
const REFUSED: u32 = 32;

/// Extends the page of its session, and waits until it is short again; then does so with the descriptor that is
/// left, which cannot be opened again.
const EXTENDS: &str = "page=$OSWALK_PAGE; exec 9<>$page; truncate -s 1G $page || exit 1
until [ ! -e $page ]; do :; done; truncate -s 1G /proc/self/fd/9 2>/dev/null && exit 2
python3 -c 'import os; os.ftruncate(9, 1 << 30)' || exit 3
until [ $(stat -L -c %s /proc/self/fd/9) -lt 1000000 ]; do :; done; echo short";

fn half_hellos(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let (ann, ben) = (home(up, "bounds-ann", ANN)?, home(up, "bounds-ben", BEN)?);
    let failed = |error: std::io::Error| error.to_string();
    let door = std::fs::read_link(up.state("origin").join("door")).map_err(failed)?;
    let (door, said) = (door.display().to_string(), ben.join("refused"));
    let (path, most) = (said.display().to_string(), REFUSED.to_string());
    let words = ["python3", "-c", HALF_HELLOS, &door, &path, &most];
    let mut command = of_user(up, BEN, &ben, &words)?;
    let (input, held) = std::io::pipe().map_err(failed)?;
    command.stdin(input);
    let attack = Run::start(command, None)?;
    let refused = || std::fs::read_to_string(&said).ok()?.strip_suffix('\n')?.parse::<u32>().ok();
    wait_until("the hellos are half sent", || refused().is_some())?;
    std::fs::write(ann.join("a.c"), "int a;\n").map_err(failed)?;
    let report = ann.join("report.json");
    let report_name = report.display().to_string();
    let words = ["oswalk", "exec", "--on", "n1", "--report", &report_name, "--"];
    let words = [&words[..], &["gcc", "-c", "a.c"]].concat();
    let built = Run::of(of_user(up, ANN, &ann, &words)?, LIMIT);
    drop(held);
    let attack = attack.wait(LIMIT)?;
    let (built, refused) = (built?, refused().unwrap_or_default());
    if !built.succeeded() || !Report::read(&report)?.walked("gcc") {
        return Err(format!("another user's compiler has not walked: {built}"));
    }
    if refused >= REFUSED { Ok(()) } else { Err(format!("{refused} were refused: {attack}")) }
}

fn pages(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let ben = home(up, "bounds-page", BEN)?;
    let words = ["oswalk", "exec", "--", "sh", "-c", EXTENDS];
    let run = Run::of(of_user(up, BEN, &ben, &words)?, LIMIT)?;
    if run.succeeded() && run.out() == "short\n" { Ok(()) } else { Err(run.to_string()) }
}
