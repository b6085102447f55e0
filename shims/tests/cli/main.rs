//! Runs `oswalk` as a process, with a fake agent behind the door.

mod machine;

mod command;
mod signals;
mod words;

mod manual;
mod messages;
mod report;
mod shells;

mod agent;
mod cluster;
mod config;
mod token;
mod up;
mod watch;
