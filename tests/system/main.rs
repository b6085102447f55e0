//! The system from outside: what a program does natively and walked must be the same.
//!
//! One lab of an origin and three nodes serves all tests; it is taken down at the end, however that
//! comes. Tests that hurt the lab take it for themselves.
#![deny(unsafe_code)]
#![allow(clippy::print_stderr, reason = "a test program talks to people")]

mod bad_input;
mod case;
mod cases;
mod coherence;
mod commands;
mod conflicts;
mod coverage;
mod faults;
mod hidden;
mod interrupts;
mod lab;
mod liars;
mod members;
mod mounts;
mod nodes;
mod outcome;
mod peers;
mod report;
mod run;
mod sandboxes;
mod sessions;
mod slots;
mod terminals;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use lab::Lab;

/// Tests at once: a walk waits more than it computes.
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
        interrupts::ALL,
        hidden::ALL,
        mounts::ALL,
        members::ALL,
        peers::ALL,
        liars::ALL,
        nodes::ALL,
        sandboxes::ALL,
        sessions::ALL,
        slots::ALL,
        terminals::ALL,
        coherence::ALL,
        commands::ALL,
        conflicts::ALL,
        coverage::ALL,
        faults::ALL,
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

/// A test that is more than a case.
type Test = (&'static str, fn(&Lab) -> Result<(), String>);
