//! Connections to the broker that somebody else makes, for example through another agent.

use std::fmt::Debug;
use std::io;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// A connection that is being made.
pub type Dialed = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;

/// Makes connections to a broker.
pub trait Dial: Debug + Send + Sync {
    /// Makes one. It is already authenticated.
    fn dial(&self) -> Dialed;

    /// Returns where it leads, for display.
    fn shown(&self) -> String;

    /// Returns the host and port that it leads to.
    fn host(&self) -> (String, u16);
}
