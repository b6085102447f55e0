//! `oswalkd`, the agent: one per machine, origin and runner in one.
//!
//! Reading order: `config`; `root`, which starts all parts and passes each its dependencies; `door` (connections of stubs
//! and `oswalk`) and `api` (requests of `oswalk`); `sessions`; `origin`, a walk at its origin; `cluster` (the broker);
//! `links` to other agents, and `wire`, their messages; `runner`, a walk on its runner; `mirrors`, `exporter`, `commits`; `vital`, whose ends end the
//! agent; and `sys`, the kernel.

mod admission;
mod api;
mod budget;
mod clock;
mod cluster;
mod commits;
mod compile;
mod config;
mod devices;
mod door;
mod exporter;
mod holders;
mod installed;
mod leaves;
mod link;
mod links;
mod log;
mod look;
mod machine;
mod membership;
mod mirror;
mod mirrors;
mod numbers;
mod origin;
mod own;
mod own_volume;
mod pages;
mod random;
mod reached_at;
mod ready;
mod root;
mod runner;
mod served;
mod session;
mod sessions;
mod state;
mod sys;
pub mod tls;
mod transfer;
mod turns;
mod vital;
mod volume;
pub mod wire;

mod mesh;
#[cfg(test)]
mod messages;

use std::process::ExitCode;

use clap::Parser;

/// Reads the command line and runs the agent.
#[must_use]
pub fn main() -> ExitCode {
    let config = config::Config::parse();
    log::start();
    let done = match &config.command {
        None => root::run(&config),
        Some(command) => membership::command::run(&config.state, command),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
