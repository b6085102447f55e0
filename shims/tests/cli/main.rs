//! Runs `oswalk` as a process, with a fake agent behind the door.

mod machine;

mod command;
mod signals;
mod words;

mod messages;
mod report;

mod agent;
mod up;
