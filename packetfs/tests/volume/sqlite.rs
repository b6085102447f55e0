//! A database with a write-ahead log keeps each transaction that it has acknowledged, and is valid, whatever is killed.
//! `OSWALK_ROUNDS` sets the number of crashes of each kind.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread::JoinHandle;

use super::dice::{Dice, number};
use super::mounted::Mounted;
use super::power::Machine;

const ROUNDS: u64 = 4;
/// Most transactions before a crash.
const TRANSACTIONS_MAX: u64 = 150;
const DATABASE: &str = "database";

/// How the database is told to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Synchronous {
    /// Each transaction is durable.
    Full,
    /// A power cut may take the last transactions.
    Normal,
}

/// A program that commits numbered transactions.
struct Writer {
    program: Child,
    said: BufReader<ChildStdout>,
    feeder: JoinHandle<()>,
    acknowledged: u64,
}

impl Writer {
    fn start(dir: &Path, synchronous: Synchronous, first: u64) -> Self {
        let mut program = Command::new("stdbuf")
            .args(["-oL", "sqlite3", "-bail", DATABASE])
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("this test needs sqlite3 and stdbuf");
        let mut stdin = program.stdin.take().expect("stdin is piped");
        let said = BufReader::new(program.stdout.take().expect("stdout is piped"));
        let feeder = std::thread::spawn(move || {
            let begin = format!("PRAGMA synchronous={synchronous:?};\n");
            let lines = (first..).map(|n| {
                format!(
                    "BEGIN; INSERT INTO a VALUES({n}, randomblob(900));
                     INSERT INTO b VALUES({n}, randomblob(300)); COMMIT; SELECT 'done {n}';\n"
                )
            });
            for line in std::iter::once(begin).chain(lines) {
                // The program was killed.
                if stdin.write_all(line.as_bytes()).is_err() {
                    return;
                }
            }
        });
        Self { program, said, feeder, acknowledged: first - 1 }
    }

    /// Waits for transactions; there are fewer if the program has ended.
    fn wait(&mut self, count: u64) {
        let last = self.acknowledged + count;
        let mut line = String::new();
        while self.acknowledged < last {
            line.clear();
            if self.said.read_line(&mut line).expect("the program says text") == 0 {
                return;
            }
            if let Some(n) = line.strip_prefix("done ") {
                self.acknowledged = n.trim().parse().expect("a number");
            }
        }
    }

    /// Kills the program. Returns the last transaction that it has acknowledged.
    fn kill(mut self) -> u64 {
        // It may have ended by itself.
        let _ = self.program.kill();
        self.wait(u64::MAX - self.acknowledged);
        self.program.wait().expect("a child can be waited for");
        self.feeder.join().expect("it ends with the program");
        self.acknowledged
    }
}

/// Makes a durable database.
fn create(dir: &Path) {
    std::fs::create_dir_all(dir).expect("the disk has room");
    let tables = "PRAGMA journal_mode=wal; CREATE TABLE a(n INTEGER PRIMARY KEY, x);
                  CREATE TABLE b(n INTEGER PRIMARY KEY, x);";
    let done = Command::new("sqlite3").args([DATABASE, tables]).current_dir(dir).output();
    assert!(done.expect("this test needs sqlite3").status.success());
}

/// Checks the database, and returns the number of its last transaction.
fn check(dir: &Path, least: u64, what: &str) -> u64 {
    let query = "PRAGMA integrity_check; SELECT max(n) = count(*) FROM a;
                 SELECT count(*) FROM a LEFT JOIN b USING(n) WHERE b.n IS NULL; SELECT count(*) FROM b;";
    let output = Command::new("sqlite3").args([DATABASE, query]).current_dir(dir).output();
    let output = output.expect("this test needs sqlite3");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = said.lines().collect();
    let [integrity, "1" | "", "0", count] = lines[..] else {
        panic!("{what}: {said} {}", String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!(integrity, "ok", "{what}");
    let count = count.parse().expect("a number");
    assert!(count >= least, "{what}: {count} transactions of {least}");
    count
}

fn trial(
    mounted: &mut Mounted,
    root: &Path,
    crash: impl Fn(&mut Mounted, Writer, &mut Dice) -> u64,
    is_power: bool,
) {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    for synchronous in [Synchronous::Full, Synchronous::Normal] {
        let dir: PathBuf = root.join(format!("{synchronous:?}"));
        create(&dir);
        let mut last = 0;
        for round in 0..number("OSWALK_ROUNDS").unwrap_or(ROUNDS) {
            let mut writer = Writer::start(&dir, synchronous, last + 1);
            writer.wait(1 + dice.below(TRANSACTIONS_MAX));
            let acknowledged = crash(mounted, writer, &mut dice);
            let is_promised = !is_power || synchronous == Synchronous::Full;
            let least = if is_promised { acknowledged } else { 0 };
            last = check(&dir, least, &format!("{synchronous:?}, round {round}"));
        }
    }
    mounted.stop();
}

#[test]
fn a_database_survives_its_program() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path().join("mount");
    let mut mounted = Mounted::new(&scratch.path().join("store"), &root, true);
    trial(&mut mounted, &root, |_, writer, _| writer.kill(), false);
}

#[test]
fn a_database_survives_the_agent() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path().join("mount");
    let mut mounted = Mounted::new(&scratch.path().join("store"), &root, true);
    trial(
        &mut mounted,
        &root,
        |mounted, mut writer, dice| {
            mounted.kill();
            // The kernel may go on with its transactions, also while the next agent is there.
            writer.wait(dice.below(20));
            let is_late = dice.below(2) == 0;
            if is_late {
                mounted.start();
                writer.wait(dice.below(20));
            }
            let acknowledged = writer.kill();
            if !is_late {
                mounted.start();
            }
            acknowledged
        },
        false,
    );
}

#[test]
fn a_database_survives_power_cuts() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path().join("mount");
    let machine = std::cell::RefCell::new(Machine::new(scratch.path()));
    let mut mounted = Mounted::new(&machine.borrow().store(), &root, true);
    trial(
        &mut mounted,
        &root,
        |mounted, writer, dice| {
            let acknowledged = writer.acknowledged;
            machine.borrow().cut();
            mounted.kill();
            writer.kill();
            mounted.unmount();
            machine.borrow_mut().start(dice);
            mounted.boot += 1;
            mounted.start();
            acknowledged
        },
        true,
    );
}
