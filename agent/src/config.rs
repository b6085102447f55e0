//! The agent's options.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use worknode::id::NodeId;
use worknode::membership::ClusterName;
use worknode::request::{Retention, STORE_BYTES_MIN, UPPER_BYTES_MIN};

/// The agent of OS Walk: executes the walks of other machines, and sends its own
#[derive(Debug, Clone, Parser)]
#[command(name = "oswalkd", version)]
pub(crate) struct Config {
    /// Directory for the agent's socket, packets and logs
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Name of this node if it belongs to no cluster; the host name if absent
    #[arg(long)]
    pub name: Option<NodeId>,
    #[command(flatten)]
    pub bounds: Bounds,
}

/// What the agent may use of its machine. What is absent is as it was when the node joined its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args, Serialize, Deserialize)]
pub(crate) struct Bounds {
    /// Walks executed at once; the number of processors if absent
    #[arg(long, value_name = "COUNT")]
    pub slots: Option<u32>,
    /// Most bytes of packets kept on disk; 20 GiB if absent
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(STORE_BYTES_MIN..))]
    pub store_bytes: Option<u64>,
    /// How long the past of the volume is kept: all of it, full hours, days; 24h,7d,90d if absent
    #[arg(long, value_name = "ALL,HOURLY,DAILY")]
    pub keep: Option<Retention>,
    /// Most memory for the changed files of one walk, and for those that all walks of this machine have sent back; if
    /// absent, a quarter of the machine's, divided by the slots, or 512 MiB where that is less
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(UPPER_BYTES_MIN..))]
    pub upper_bytes: Option<u64>,
}

impl Bounds {
    /// Returns these bounds, and where one is absent that of others.
    pub(crate) fn or(&self, others: &Self) -> Self {
        Self {
            slots: self.slots.or(others.slots),
            store_bytes: self.store_bytes.or(others.store_bytes),
            keep: self.keep.or(others.keep),
            upper_bytes: self.upper_bytes.or(others.upper_bytes),
        }
    }
}

/// What the program does instead of being the agent.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Command {
    /// Found a cluster with this node as its first member
    Found {
        /// Name of the cluster
        #[arg(long, value_name = "NAME")]
        cluster: ClusterName,
        /// A broker of the cluster's own; the agent runs one if absent
        #[arg(long, value_name = "URL", env = "OSWALK_BROKER", hide_env_values = true)]
        broker: Option<String>,
        #[command(flatten)]
        place: PlaceOptions,
    },
    /// Join the cluster of the join line that is read from standard input
    Join {
        #[command(flatten)]
        place: PlaceOptions,
    },
}

/// This node's place in the cluster.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlaceOptions {
    /// Name of this node; the host name if absent
    #[arg(long)]
    pub node: Option<NodeId>,
    /// Where calls of other agents arrive
    #[arg(long, value_name = "ADDRESS:PORT", default_value = DEFAULT_LISTEN)]
    pub listen: SocketAddr,
    /// What other agents are told to call, if it is not the listening address
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub advertise: Option<SocketAddr>,
    #[command(flatten)]
    pub bounds: Bounds,
}

/// All addresses of this machine.
const DEFAULT_LISTEN: &str = "0.0.0.0:7700";
