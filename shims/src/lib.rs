//! The command line of OS Walk: runs commands in sessions, and starts and examines the agent.
//!
//! It talks to the agent of its machine only through the agent's door. [`policy_file`] is public for the tests of
//! decoders in `tests/fuzz`.

mod cli;
mod decide;
mod doctor;
mod door;
mod down;
mod error;
#[cfg(test)]
mod examples;
mod exec;
#[cfg(test)]
mod messages;
mod places;
pub mod policy_file;
mod process;
mod program;
mod report_file;
mod say;
mod starts;
mod status;
mod tally;
mod up;

pub use cli::main;
