//! The command line of OS Walk: starts sessions, and the agent they need.
//!
//! It talks to the agent of its own machine through the agent's door and knows nothing else of it.
#![deny(unsafe_code)]

mod cli;
mod decide;
mod doctor;
mod door;
mod down;
mod error;
mod exec;
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
