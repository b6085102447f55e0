//! `oswalkd`: one per machine, origin and runner in one.
//!
//! Reading order: [`config`], [`agent`] (what starts, what is shared), [`door`] (who comes in),
//! [`session`], `origin` (a walk's life here), `cluster` (the broker), [`link`] (to other agents),
//! `runner` (a walk's life there), `mirrors`, `exporter`, `commits`, `vital` (what must not end before the agent), and [`sys`] (the kernel).

mod agent;
mod budget;
mod callers;
mod cluster;
mod commits;
mod compile;
mod config;
mod devices;
mod door;
mod exporter;
mod leaves;
mod link;
mod log;
mod look;
mod mirrors;
mod origin;
mod own;
mod pages;
mod random;
mod reached_at;
mod runner;
mod session;
mod state;
mod sys;
mod transfer;
mod vital;

use std::process::ExitCode;

use clap::Parser;

/// Reads the command line and runs the agent.
#[must_use]
pub fn main() -> ExitCode {
    let config = config::Config::parse();
    log::start();
    match agent::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
