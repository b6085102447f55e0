//! What can go wrong between an agent and the broker. The URLs here never contain a password.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use worknode::id::NodeId;
use worknode::said::Said;

use crate::redis::wire::WireError;

/// How a password is written in a URL.
const ESCAPES: &str =
    "in a password, write %40 for @, %2F for /, %23 for #, %3F for ?, %3A for : and %25 for %";

/// A failed call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// The URL is invalid.
    #[error(
        "'{url}' is not a broker URL: write redis://[:password@]host:port/ or redis+unix:///path; {ESCAPES}"
    )]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        #[source]
        source: WireError,
    },
    /// A Redis in protected mode, which serves only its own machine.
    #[error(
        "the broker at {url} closes the connection, most likely because its Redis is in protected mode: set a \
         password (requirepass in redis.conf, and in the broker URL)"
    )]
    Protected {
        /// The URL.
        url: String,
        /// What the attempt met.
        #[source]
        source: WireError,
    },
    /// A character in the password would end it.
    #[error(
        "the password in the broker URL ({url}) contains a character that is not escaped: {ESCAPES}"
    )]
    Unescaped {
        /// The URL.
        url: String,
    },
    /// No connection.
    #[error(
        "failed to reach the broker at {url}: check that Redis runs there and that no firewall blocks its port"
    )]
    Unreachable {
        /// The URL.
        url: String,
        /// What the attempt met.
        #[source]
        source: WireError,
    },
    /// The connection broke and was not restored in time.
    #[error("the broker at {url} does not answer; its agent keeps trying")]
    Away {
        /// The URL.
        url: String,
    },
    /// Wrong or missing password.
    #[error(
        "the broker at {url} refuses the password: put the right one into the broker URL; {ESCAPES}"
    )]
    Denied {
        /// The URL.
        url: String,
    },
    /// The server has no functions.
    #[error("the broker at {url} is too old: install Redis 7.0 or Valkey 7.2 or newer there")]
    TooOld {
        /// The URL.
        url: String,
    },
    /// Two agents with one name.
    #[error(
        "node name '{node}' is taken: it was heard {:.1} s ago at {address}; if that agent is gone, wait a few \
         seconds, otherwise start this one with another --name",
        heard_ago.as_secs_f64()
    )]
    NameTaken {
        /// The name.
        node: NodeId,
        /// Where the other agent listens.
        address: Said,
        /// How long ago the broker heard it.
        heard_ago: Duration,
    },
    /// The server refuses to work.
    #[error("the broker at {url} refuses the call '{function}'")]
    Refused {
        /// The URL.
        url: String,
        /// The call.
        function: &'static str,
        /// What the server said.
        #[source]
        source: WireError,
    },
    /// An answer that this version does not understand.
    #[error(
        "the broker at {url} gave an unknown answer to '{function}': install the same version of OS Walk on all nodes"
    )]
    Garbled {
        /// The URL.
        url: String,
        /// The call.
        function: &'static str,
    },
}

/// A private server that could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No server is installed.
    #[error(
        "found neither redis-server nor valkey-server in PATH: install the package redis-server"
    )]
    NotInstalled,
    /// The socket's path is longer than the kernel allows.
    #[error("socket path {path} is longer than {max} bytes: use a shorter state directory")]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// The limit.
        max: usize,
    },
    /// The directory or the process could not be made.
    #[error("failed to start {binary} in {dir}")]
    Start {
        /// The server's binary.
        binary: PathBuf,
        /// Its directory.
        dir: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// It started but does not answer.
    #[error("{binary} does not answer on {socket}; the last line of its log: {log_line}")]
    Silent {
        /// The server's binary.
        binary: PathBuf,
        /// Its socket.
        socket: PathBuf,
        /// The last line of its log.
        log_line: Said,
    },
}
