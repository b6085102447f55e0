//! The command line of OS Walk: runs commands in sessions, and starts and examines the agent.
//!
//! It talks to the agent of its machine only through the agent's door. [`policy_file`] is public for the tests of
//! decoders in `tests/fuzz`.

mod cli;
mod cluster;
mod config;
mod decide;
mod doctor;
mod door;
mod down;
mod error;
#[cfg(test)]
mod examples;
mod exec;
mod explain;
mod fs;
mod history;
mod home;
mod log;
mod manual;
#[cfg(test)]
mod messages;
mod moment;
mod mount;
mod places;
pub mod policy_file;
mod process;
mod program;
mod report_file;
mod say;
mod service;
mod session;
mod share;
mod shell;
mod shell_init;
mod spread;
mod starts;
mod status;
mod tally;
mod token;
mod up;
mod versions;
mod watch;
mod work;

pub use cli::main;
