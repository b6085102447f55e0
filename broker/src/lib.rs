//! The matchmaker: which nodes are alive, which walk gets which slot, and whose turn it is.
//!
//! [`Matchmaker`] is the interface for agents. [`Broker`] implements it for clusters: Redis makes the decisions by the
//! functions in `functions/`, so that all agents see one order of events. [`Memory`] makes the same decisions for nodes
//! in one process, and [`Faulty`] injects faults; both are for tests.
//!
//! A matchmaker's state is soft: an agent that is no longer known registers again and submits its
//! waiting walks again.

mod matchmaker;
mod model;

mod limits;
mod pulse;

mod dial;
mod functions;
mod redis;

mod faulty;
mod memory;

mod error;

pub use dial::{Dial, Dialed, Stream};
pub use error::{BrokerError, ServerError};
pub use faulty::{Fault, Faulty, Odds};
pub use functions::library;
pub use limits::{LEASE, NODES_MAX};
pub use matchmaker::Matchmaker;
pub use memory::{Memory, MemoryCell};
pub use model::{
    Event, Finished, Grant, NodeInfo, NodeState, PastNode, Registered, Retried, Submit, Submitted,
    Takes, Trouble,
};
pub use redis::{Broker, Guest, PrivateServer};
