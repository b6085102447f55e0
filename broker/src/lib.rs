//! The matchmaker: who is alive, who has a slot, whose turn it is.
//!
//! [`Broker`] is a typed client; the decisions themselves are made inside Redis by the functions of
//! `functions.lua`, one call each, so that any number of agents see one order of events. Redis is
//! soft state: an agent that finds it empty registers again and submits its waiting walks again.

mod client;
mod courier;
mod error;
mod keeper;
mod measured;
mod model;
mod note;
mod office;
mod pulse;
mod server;
mod url;
mod wire;

pub use client::Broker;
pub use error::{BrokerError, ServerError};
pub use model::{
    Event, Finished, Grant, LEASE, NODES_MAX, NodeInfo, NodeState, PastNode, Registered, Retried,
    Submit, Submitted, Trouble,
};
pub use server::PrivateServer;
pub use wire::library;
