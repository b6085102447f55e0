//! `oswalkd`, the agent: one per machine, origin and runner in one.
//!
//! Reading order: `config`; `root`, which starts all parts and passes each its dependencies; `door` (connections of stubs
//! and `oswalk`) and `api` (requests of `oswalk`); `sessions`; `origin`, a walk at its origin; `cluster` (the broker);
//! `links` to other agents, and `wire`, their messages; `runner`, a walk on its runner; `mirrors`, `exporter`, `commits`; `vital`, whose ends end the
//! agent; and `sys`, the kernel.

mod admission;
mod api;
mod budget;
mod cluster;
mod commits;
mod compile;
mod config;
mod devices;
mod door;
mod exporter;
mod leaves;
mod link;
mod links;
mod log;
mod look;
mod machine;
mod mirror;
mod mirrors;
mod origin;
mod own;
mod pages;
mod random;
mod reached_at;
mod root;
mod runner;
mod secret;
mod served;
mod session;
mod sessions;
mod state;
mod sys;
mod transfer;
mod vital;
pub mod wire;

#[cfg(test)]
mod messages;

use std::process::ExitCode;

use clap::Parser;

/// Reads the command line and runs the agent.
#[must_use]
pub fn main() -> ExitCode {
    let config = config::Config::parse();
    log::start();
    match root::run(&config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
