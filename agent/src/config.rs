//! The agent's options.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Parser;
use worknode::id::NodeId;
use worknode::request::{STORE_BYTES_MIN, UPPER_BYTES_MIN};

/// The agent of OS Walk: executes the walks of other machines, and sends its own
#[derive(Debug, Clone, Parser)]
#[command(name = "oswalkd", version)]
pub(crate) struct Config {
    /// Directory for the agent's socket, packets and logs
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// Name of this node; the host name if absent
    #[arg(long)]
    pub name: Option<NodeId>,
    /// Where links from other agents arrive
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// What other agents are told to call, if it is not the listening address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub advertise: Option<SocketAddr>,
    /// Walks executed at once; the number of processors if absent
    #[arg(long, value_name = "COUNT")]
    pub slots: Option<u32>,
    /// The broker; a private one is started if absent
    #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
    pub broker: Option<String>,
    /// File with the secret that all agents of the cluster share
    #[arg(long, value_name = "FILE")]
    pub secret: Option<PathBuf>,
    /// Most bytes of packets kept on disk
    #[arg(long, value_name = "BYTES", default_value_t = 20 * 1024 * 1024 * 1024,
        value_parser = clap::value_parser!(u64).range(STORE_BYTES_MIN..))]
    pub store_bytes: u64,
    /// Most memory for the changed files of one walk, and for those that all walks of this machine have sent back; if
    /// absent, a quarter of the machine's, divided by the slots, or 512 MiB where that is less
    #[arg(long, value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(UPPER_BYTES_MIN..))]
    pub upper_bytes: Option<u64>,
}
