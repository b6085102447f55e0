//! Locks of programs on one file, on all nodes that have the volume.

use std::time::Duration;

use rustix::process::Signal;

use crate::Test;
use crate::interrupts::wait_until;
use crate::lab::Lab;
use crate::run::seconds;
use crate::volumes::{Mounted, NODES};

pub(crate) const ALL: &[Test] = &[
    ("locks::one_node_excludes_all_others", exclude),
    ("locks::whoever_has_a_lock_sees_what_was_written_under_it", count),
    ("locks::the_locks_of_a_lost_node_are_free_after_a_while", lose),
];

/// Times that each node counts on.
const COUNTED: usize = 100;
/// Longest time until a node that was cut off has lost its locks: until its link counts as dead, and 3 s.
const FREE_AFTER: Duration = Duration::from_secs(12);

/// Has a lock until there is a file `free`.
const HOLDS: &str =
    "flock locks/lock sh -c ': > locks/held; while ! test -e locks/free; do sleep 0.02; done'";
/// Tries a lock of `fcntl` on a range of bytes: exits with 0 if it gets it.
const RANGE: &str = "import errno, fcntl, sys
mode, start, end = sys.argv[1:4]
file = open('locks/range', 'r+')
try: fcntl.lockf(file, fcntl.LOCK_NB | (fcntl.LOCK_SH if mode == 'sh' else fcntl.LOCK_EX), int(end) - int(start), int(start))
except OSError as error: sys.exit(1 if error.errno == errno.EAGAIN else 2)
if len(sys.argv) > 4:
    open('locks/ranged', 'w').close()
    sys.stdin.read()
";
/// Counts on under a lock of `fcntl`, in a file that stays open.
const COUNTS: &str = "import fcntl, os, sys
file = os.open('locks/fcntl', os.O_RDWR)
for _ in range(int(sys.argv[1])):
    fcntl.lockf(file, fcntl.LOCK_EX)
    count = int(os.pread(file, 20, 0))
    os.pwrite(file, b'%d\\n' % (count + 1), 0)
    fcntl.lockf(file, fcntl.LOCK_UN)
";

/// Does so under a lock of `flock` in a file that is opened each time, as three programs at once.
const CLOSES: &str = "import fcntl, os, sys
for program in range(3):
    if os.fork() > 0: continue
    for _ in range(int(sys.argv[1])):
        file = os.open('locks/closed', os.O_RDWR)
        fcntl.flock(file, fcntl.LOCK_EX)
        count = int(os.pread(file, 20, 0))
        os.pwrite(file, b'%d\\n' % (count + 1), 0)
        os.close(file)
    os._exit(0)
ends = [os.wait()[1] for program in range(3)]
sys.exit(any(ends))
";

fn exclude(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "locks exclude")?;
    volume.done("origin", "mkdir locks && : > locks/lock && : > locks/range")?;
    volume.all("test -e locks/lock && test -e locks/range")?;
    let holder = volume.start("n1", HOLDS)?;
    volume.all("test -e locks/held")?;
    for node in NODES {
        let tried = volume.script(node, "flock -n locks/lock true")?;
        if tried.succeeded() {
            return Err(format!("{node} got a lock that n1 has"));
        }
        // TERM ends it while it waits.
        let waited = volume.script(node, "timeout 0.5 flock locks/lock true")?;
        if waited.succeeded() || waited.took > seconds(5) {
            return Err(format!("{node} waited for a lock that n1 has: {waited}"));
        }
    }
    let waiter = volume.start("n2", "flock locks/lock echo mine")?;
    volume.done("origin", ": > locks/free")?;
    for (run, says) in [(holder, ""), (waiter, "mine\n")] {
        let ended = run.wait(seconds(20))?;
        if !ended.succeeded() || ended.out() != says {
            return Err(format!("after the lock was given back: {ended}"));
        }
    }
    let range = |args: &str| format!("python3 -c \"{RANGE}\" {args}");
    let holder = volume.start("n1", &format!("sleep 600 | {}", range("ex 10 20 held")))?;
    volume.all("test -e locks/ranged")?;
    for node in ["origin", "n2"] {
        for (args, code) in [("ex 0 10", 0), ("ex 19 30", 1), ("sh 0 11", 1), ("sh 20 99", 0)] {
            let tried = volume.script(node, &range(args))?;
            if tried.status.code() != Some(code) {
                return Err(format!("on {node}: {args} instead of {code}: {tried}"));
            }
        }
    }
    // It dies, and with it its lock.
    holder.signal(Signal::KILL);
    wait_until("the range is free", || {
        volume.script("n2", &range("ex 10 20")).is_ok_and(|run| run.succeeded())
    })?;
    volume.done("origin", "rm -r locks").map(drop)
}

fn count(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "locks count")?;
    volume.done(
        "origin",
        "mkdir locks && echo 0 > locks/flock && echo 0 > locks/fcntl && echo 0 > locks/closed && : > locks/lock && \
         sqlite3 locks/base 'create table counts (count); insert into counts values (0)'",
    )?;
    volume.all(
        "test -s locks/flock && test -s locks/fcntl && test -s locks/closed && test -s locks/base",
    )?;
    let flock = "flock locks/lock sh -c 'read n < locks/flock; echo $((n + 1)) > locks/flock'";
    let flock = format!("for i in $(seq {COUNTED}); do {flock} || exit 1; done");
    let fcntl = format!("python3 -c \"{COUNTS}\" {COUNTED}");
    let closes = format!("python3 -c \"{CLOSES}\" {COUNTED}");
    let base = "sqlite3 -cmd '.timeout 30000' locks/base 'update counts set count = count + 1'";
    let base = format!("for i in $(seq {}); do {base} || exit 1; done", COUNTED / 5);
    for (script, shows, total) in [
        (flock, "cat locks/flock", COUNTED * NODES.len()),
        (fcntl, "cat locks/fcntl", COUNTED * NODES.len()),
        (closes, "cat locks/closed", 3 * COUNTED * NODES.len()),
        (base, "sqlite3 locks/base 'select count from counts'", COUNTED / 5 * NODES.len()),
    ] {
        let runs: Result<Vec<_>, _> =
            NODES.iter().map(|node| volume.start(node, &script)).collect();
        for run in runs? {
            let ended = run.wait(seconds(120))?;
            if !ended.succeeded() {
                return Err(format!("{script}: {ended}"));
            }
        }
        let seen = volume.same(shows)?;
        if seen.trim() != total.to_string() {
            return Err(format!("{shows}: {seen} instead of {total}"));
        }
    }
    let conflicts = volume.done("origin", "oswalk fs conflicts")?;
    if conflicts.contains("locks/") {
        return Err(format!("what was written under locks is in conflict: {conflicts}"));
    }
    volume.done("origin", "rm -r locks").map(drop)
}

fn lose(lab: &Lab) -> Result<(), String> {
    let (up, _peace) = lab.alone()?;
    let volume = Mounted::new(up, "locks lose")?;
    volume.done("origin", "mkdir locks && : > locks/lock")?;
    volume.all("test -e locks/lock")?;
    let holder = volume.start("n1", HOLDS)?;
    volume.all("test -e locks/held")?;
    let waiter = volume.start("origin", "flock locks/lock true")?;
    up.lab(&["cut", "n1"])?;
    let got = waiter.wait(FREE_AFTER)?;
    if !got.succeeded() {
        return Err(format!("after n1 was lost: {got}"));
    }
    // Alone, a node keeps what it has, and decides by itself.
    let tried = volume.script("n1", "flock -n locks/lock true")?;
    if tried.succeeded() {
        return Err("n1 got a lock twice".into());
    }
    volume.done("n1", "flock -n locks/held true && : > locks/free")?;
    holder.wait(seconds(20))?;
    up.lab(&["heal", "n1"])?;
    volume.all("test -e locks/free")?;
    volume.done("origin", "rm -r locks").map(drop)
}
