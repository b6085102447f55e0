//! Tests of the whole system from outside: a program must behave the same natively and walked.
//!
//! All tests share one lab of an origin and three nodes, which is taken down at the end, even if this
//! process is killed. Tests that disturb the lab run alone.
#![allow(clippy::print_stderr, reason = "a test program talks to people")]

mod bad_input;
mod bounds;
mod case;
mod cases;
mod coherence;
mod commands;
mod conflicts;
mod coverage;
mod faults;
mod forged;
mod hidden;
mod holders;
mod hostile;
mod installation;
mod interrupts;
mod lab;
mod liars;
mod life;
mod locks;
mod members;
mod mounts;
mod nodes;
mod peers;
mod report;
mod rootless;
mod run;
mod sandboxes;
mod sessions;
mod shells;
mod silent;
mod slots;
mod spread;
mod terminals;
mod tokens;
mod unmounted;
mod upgrade;
mod users;
mod volume;
mod volumes;
mod worlds;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use lab::Lab;

/// Tests that run at once; more than the processors, since walks mostly wait.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let lab = Arc::new(Lab::new());
    let cases = cases::all().into_iter().map(|(theme, case)| {
        let lab = Arc::clone(&lab);
        let name = format!("same::{theme}::{}", case.name);
        Trial::test(name, move || Ok(case.check(&lab)?))
    });
    let others = [
        bad_input::ALL,
        bounds::ALL,
        interrupts::ALL,
        forged::ALL,
        hidden::ALL,
        holders::ALL,
        hostile::ALL,
        installation::ALL,
        mounts::ALL,
        members::ALL,
        peers::ALL,
        liars::ALL,
        life::ALL,
        locks::ALL,
        upgrade::ALL,
        nodes::ALL,
        volumes::ALL,
        rootless::ALL,
        sandboxes::ALL,
        sessions::ALL,
        shells::ALL,
        silent::ALL,
        slots::ALL,
        spread::ALL,
        terminals::ALL,
        tokens::ALL,
        users::ALL,
        volume::ALL,
        coherence::ALL,
        commands::ALL,
        conflicts::ALL,
        coverage::ALL,
        faults::ALL,
        unmounted::ALL,
        worlds::ALL,
    ]
    .concat();
    let trial = |(name, test): Test| {
        let lab = Arc::clone(&lab);
        Trial::test(name, move || Ok(test(&lab)?))
    };
    let long = coverage::LONG.iter().map(|&test| trial(test).with_ignored_flag(true));
    let all = cases.chain(others.into_iter().map(trial)).chain(long).collect();
    let conclusion = libtest_mimic::run(&arguments, all);
    lab.down(conclusion.has_failed());
    conclusion.exit_code()
}

/// A test other than a case: its name and its function.
type Test = (&'static str, fn(&Lab) -> Result<(), String>);
