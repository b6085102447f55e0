//! The matchmaker in Redis: [`Broker`], the client of the functions in `functions/`.

mod client;

mod answer;
mod batcher;
mod caller;
mod nodes;
mod note;
mod word;

mod keeper;
mod measured;
pub(crate) mod wire;

mod server;
mod url;

pub use client::Broker;
pub use server::{Guest, PrivateServer};
