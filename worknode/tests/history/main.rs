//! The laws of the history: whatever several nodes do, and in whatever order they learn of it, they see one tree and
//! lose nothing.
//!
//! `examples` are the worked examples of docs/packetfs.md; `laws` are properties of random histories, made by `world`;
//! `posix` compares one node's history with a plain tree in memory after each step, with
//! the parents that `plan` names and those that a live file system remembers (`live`); `oracles` compares parts with other
//! implementations.

mod examples;
mod laws;
mod live;
mod oracles;
mod posix;
mod random;
mod world;
