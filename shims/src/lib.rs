//! The command line of OS Walk: runs commands in sessions, and starts and examines the agent.
//!
//! It talks to the agent of its machine only through the agent's door.

mod cli;
mod decide;
mod doctor;
mod door;
mod down;
mod error;
mod exec;
#[cfg(test)]
mod messages;
mod places;
mod policy_file;
mod process;
mod program;
mod report_file;
mod say;
mod starts;
mod status;
mod tally;
mod up;

pub use cli::main;
