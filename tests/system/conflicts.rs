//! Conflicts: several processes change one file at the same time, and no change is lost silently.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use crate::Test;
use crate::interrupts::{processes, wait_until};
use crate::lab::Lab;
use crate::report::Report;
use crate::run::{Run, seconds};

pub(crate) const ALL: &[Test] = &[
    ("conflicts::a_program_that_was_silent_runs_again_at_the_origin", silent),
    ("conflicts::a_program_that_has_spoken_runs_again_on_a_node", spoken),
    ("conflicts::what_others_put_into_a_removed_directory_stays", filled),
    ("conflicts::where_there_was_nothing_one_wins", races),
    ("conflicts::a_torn_read_that_cannot_be_repeated_is_told", torn),
];

/// Rounds of each race, unless `OSWALK_TEST_ROUNDS` is set.
const ROUNDS: u64 = 2;
/// Processes that take part in a race.
const RACERS: u64 = 6;
/// Races that exactly one process wins: name and command. The files they need are created in each round.
const LOCKS: &[(&str, &str)] = &[
    ("mkdir", "mkdir lock"),
    ("ln -s", "ln -s $i lock"),
    ("ln", "ln payload lock"),
    ("mv", "mv payload lock"),
    ("mv of a directory", "perl -e 'exit !rename qq(dir), qq(moved)'"),
    ("rmdir", "rmdir dir"),
    ("O_EXCL", "perl -MFcntl -e 'exit !sysopen F, qq(lock), O_CREAT|O_EXCL|O_WRONLY'"),
    ("mkfifo", "mkfifo lock"),
    ("link(2)", "perl -e 'exit !link qq(payload), qq(lock)'"),
];
/// Races in which all processes append a line to a new file.
const LOGS: &[(&str, &str)] = &[
    ("a new log", "perl -e 'open F, q(>>), q(log); print F qq($ARGV[0]\\n)' $i"),
    (
        "a new log in a new directory",
        "perl -e 'mkdir q(d); open F, q(>>), q(d/log); print F qq($ARGV[0]\\n)' $i",
    ),
    (
        "two steps that find it later",
        "perl -e 'srand $ENV{SEED} + $ARGV[0]; select undef, undef, undef, rand 0.05; open F, q(>>), q(log); print F qq($ARGV[0]\\n)' $i",
    ),
    ("DEPENDENCIES_OUTPUT", "DEPENDENCIES_OUTPUT=log gcc -c s$i.c"),
];

/// Races in which all processes increment a counter, each under a lock.
const COUNTERS: &[(&str, &str)] = &[
    (
        "a counter under flock",
        "perl -MFcntl=:flock -e 'open F, q(+<), q(count) or die; flock F, LOCK_EX or die; $_ = <F>; seek F, 0, 0; print F $_ + 1, qq(\\n)'",
    ),
    (
        "a counter under fcntl",
        "perl -MFcntl -e 'open F, q(+<), q(count) or die; $l = pack q(s s x![q] q q l x![q]), F_WRLCK, 0, 0, 0, 0; fcntl F, F_SETLKW, $l or die; $_ = <F>; seek F, 0, 0; print F $_ + 1, qq(\\n)'",
    ),
];

/// Races walks for names that do not exist, in many rounds. The outcome is the native one: one process
/// gets the lock, and no line is lost.
fn races(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let rounds = std::env::var("OSWALK_TEST_ROUNDS").ok().and_then(|it| it.parse().ok());
    let dir = up.fresh("conflict-races")?;
    let start = format!(
        "rm -rf lock log d dir moved payload won; mkdir dir; echo x >payload; echo 0 >count\n\
         for i in $(seq {RACERS}); do echo \"int f$i;\" >s$i.c; done\n"
    );
    let race = |command: &str, result: &str| {
        format!(
            "{start}for i in $(seq {RACERS}); do {{ {command}; }} 2>err.$i & done; wait\n{result}\n"
        )
    };
    let locks = LOCKS.iter().map(|(name, command)| {
        race(&format!("{command} && echo $i >>won"), &format!("echo \"{name}: $(wc -l <won)\""))
    });
    let logs = LOGS.iter().map(|(name, command)| {
        race(command, &format!("echo \"{name}: $(cat log d/log 2>err | grep -c .)\""))
    });
    let counters = COUNTERS.iter().map(|(name, command)| {
        race(
            &format!("{command} || echo $i >>log"),
            &format!("echo \"{name}: $(cat count log 2>err)\""),
        )
    });
    let script: String = locks.chain(logs).chain(counters).collect();
    let locks = LOCKS.iter().map(|(name, _)| format!("{name}: 1\n"));
    let logs = LOGS.iter().map(|(name, _)| format!("{name}: {RACERS}\n"));
    let counters = COUNTERS.iter().map(|(name, _)| format!("{name}: {RACERS}\n"));
    let wanted: String = locks.chain(logs).chain(counters).collect();
    for round in 0..rounds.unwrap_or(ROUNDS) {
        let seed = std::process::id().wrapping_add(u32::try_from(round).unwrap_or(0));
        let report = dir.join("report.json");
        let mut command = up.exec(&report);
        // Compile steps walk in every round, the other programs in every second one.
        if round % 2 == 0 {
            command.arg("--walk-all");
        }
        command.args(["--", "bash", "-c", &script]);
        command.env("SEED", seed.to_string()).current_dir(&dir);
        let run = Run::start(command, None)?.wait(seconds(120))?;
        if run.out() != wanted {
            return Err(format!("round {round}, SEED={seed}: {run}"));
        }
        if Report::read(&report)?.walks.is_empty() {
            return Err(format!("nothing walked in round {round}"));
        }
    }
    Ok(())
}

/// Renames itself to its second argument, prints `up` if told to, waits for longer than output is held
/// back, and overwrites the file with its content in capitals.
const SHOUT: &str = "$0 = qq($ARGV[1]-runs); $| = 1; print qq(up\\n) if $ARGV[0]; \
    select undef, undef, undef, 1.6; open F, '+<', 'f'; local $/; $_ = <F>; seek F, 0, 0; print F uc";

/// Removes a directory and its contents, renames itself to its argument, and runs on for a while.
const EMPTY: &str = "unlink q(d/e/f); rmdir q(d/e); my $gone = rmdir q(d); $0 = qq($ARGV[0]-runs); \
    select undef, undef, undef, 1.6; exit !$gone";

/// As natively, a directory is not removed if somebody has created a file in it.
fn filled(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("conflict-filled")?;
    let failed = |error: std::io::Error| error.to_string();
    fs::create_dir_all(dir.join("d/e")).map_err(failed)?;
    fs::write(dir.join("d/e/f"), "").map_err(failed)?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    command.args(["--walk", "perl", "--", "sh", "-c", "perl -e \"$1\" emptied; echo $?", "sh"]);
    command.arg(EMPTY).current_dir(&dir);
    let walk = Run::start(command, None)?;
    wait_until("the walk has removed it", || !processes("emptied-runs").is_empty())?;
    fs::write(dir.join("d/e/theirs"), "").map_err(failed)?;
    let run = walk.wait(seconds(60))?;
    let report = Report::read(&report)?;
    if !dir.join("d/e/theirs").exists() {
        return Err(format!("a file that somebody else created is lost: {run}"));
    }
    if run.out() != "1\n" || !report.stayed("perl", "conflict") {
        return Err(format!("{run}: walks {:?}, stays {:?}", report.walks, report.stays));
    }
    Ok(())
}

fn silent(lab: &Lab) -> Result<(), String> {
    let report = disturb(lab, "silent", "0")?;
    if report.stayed("perl", "conflict") {
        Ok(())
    } else {
        Err(format!("{:?}, {:?}", report.walks, report.stays))
    }
}

fn spoken(lab: &Lab) -> Result<(), String> {
    let report = disturb(lab, "spoken", "1")?;
    if report.walked("perl") {
        Ok(())
    } else {
        Err(format!("{:?}, {:?}", report.walks, report.stays))
    }
}

/// Reads its input, looks at files, renames itself to its argument, and reads the files after another line of input.
const READER: &str = "$_ = <STDIN>; -s $_ for 0 .. 19; $0 = qq($ARGV[0]-runs); \
    $_ = <STDIN>; local $/; for (0 .. 19) { open F, '<', $_; my $x = <F>; close F }";

/// A program that has read its input cannot be repeated. If it read a file while that changed, the report
/// and a message say so.
fn torn(lab: &Lab) -> Result<(), String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh("conflict-torn")?;
    let write = |round: usize| {
        let bytes = "x".repeat(1 + round % 1000);
        (0..20).try_for_each(|file| fs::write(dir.join(file.to_string()), &bytes))
    };
    let failed = |error: std::io::Error| error.to_string();
    write(0).map_err(failed)?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    let script = "mkfifo go; { echo in; cat go; } | perl -e \"$1\" torn; :";
    command.args(["--walk", "perl", "--", "sh", "-c", script, "sh", READER]).current_dir(&dir);
    let walk = Run::start(command, None)?;
    wait_until("the walk runs", || !processes("torn-runs").is_empty())?;
    let over = AtomicBool::new(false);
    let (changed_tx, changed_rx) = mpsc::channel();
    let run = std::thread::scope(|scope| {
        let write = &write;
        let over = &over;
        scope.spawn(move || {
            for round in 1.. {
                if over.load(Ordering::Relaxed) || write(round).is_err() {
                    break;
                }
                let _ = changed_tx.send(());
            }
        });
        // All files have been changed once before the first is read.
        let go = changed_rx.recv().map_err(|error| error.to_string());
        let go = go.and_then(|()| fs::write(dir.join("go"), "now\n").map_err(failed));
        let run = go.and_then(|()| walk.wait(seconds(30)));
        over.store(true, Ordering::Relaxed);
        run
    })?;
    let json = fs::read_to_string(&report).map_err(failed)?;
    let json: String = json.split_whitespace().collect();
    if run.err().contains("perl has read a file while") && json.contains("\"torn\":true") {
        Ok(())
    } else {
        Err(format!("{json}: {run}"))
    }
}

/// Changes a file that a walk is about to change.
fn disturb(lab: &Lab, name: &str, speaks: &str) -> Result<Report, String> {
    let (up, _shared) = lab.shared()?;
    let dir = up.fresh(&format!("conflict-{name}"))?;
    let file = dir.join("f");
    let failed = |error: std::io::Error| error.to_string();
    fs::write(&file, "first\n").map_err(failed)?;
    let report = dir.join("report.json");
    let mut command = up.exec(&report);
    command.args(["--walk", "perl", "--", "sh", "-c", "perl -e \"$1\" $2 $3; :", "sh"]);
    command.args([SHOUT, speaks, name]);
    command.current_dir(&dir);
    let walk = Run::start(command, None)?;
    let runs = format!("{name}-runs");
    wait_until("the walk runs", || !processes(&runs).is_empty())?;
    fs::write(&file, "second\n").map_err(failed)?;
    let run = walk.wait(seconds(30))?;
    let content = fs::read_to_string(&file).map_err(failed)?;
    let said = if speaks == "1" { "up\n" } else { "" };
    if content != "SECOND\n" || run.out() != said || !run.succeeded() {
        return Err(format!("the file is {content:?}: {run}"));
    }
    Report::read(&report)
}
