//! Locks of programs on files of a volume, across nodes. Pure: [`table`] has the locks of a file, [`client`] what a node's own
//! programs have and want, [`master`] what is decided for all, [`node`] who decides, [`message`] what nodes say to each other, [`seen`]
//! which events the holder of a lock must see, [`shares`] what each user may have, [`limits`] all bounds.
//!
//! Among nodes that are linked, the one with the lowest name of its volume (author) is the *master*: all others ask it for each
//! lock. A node alone is its own master.

pub mod client;
pub mod limits;
pub mod master;
pub mod message;
pub mod node;
pub mod seen;
mod shares;
pub mod table;

#[cfg(test)]
mod tests;

pub use client::{Told, Want};
pub use message::{Answer, Ask, Envelope, Refusal, Word};
pub use node::{Action, Node, Ticket};
pub use seen::Seen;
pub use table::{Held, Mode, Owner, Space, Table};
