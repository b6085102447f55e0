//! What this machine is, and whether it can do its part.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::Context;
use broker::Trouble;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use worknode::id::NodeId;
use worknode::said::Said;

use crate::reached_at::ReachedAt;

/// A node with less room in its state directory is full: what one walk reads may be as much.
const ROOM_BYTES_MIN: u64 = 32 * 1024 * 1024;
const ROOM_FILES_MIN: u64 = 64;
/// Where `/proc/meminfo` cannot be read.
const MEMORY_KIB: u64 = 4 * 1024 * 1024;

/// Returns the processors that this process may use. Asked once: it takes a dozen files to find out.
pub(crate) fn processors() -> u32 {
    static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(count).unwrap_or(1)
    });
    *PROCESSORS
}

/// Returns the processor's name, which decides whether `-march=native` means the same elsewhere.
pub(crate) fn processor() -> Said {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    model.map_or_else(|| std::env::consts::ARCH.into(), |(_, name)| name.trim().into())
}

/// Returns the machine's memory.
pub(crate) fn memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok());
    kib.unwrap_or(MEMORY_KIB) * 1024
}

/// Returns the node's name in the absence of a given one.
pub(crate) fn default_name() -> anyhow::Result<NodeId> {
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    name.parse().map_err(|error| anyhow::anyhow!("{error}; give --name"))
}

/// Returns what keeps this node from taking walks, with its state in a directory.
pub(crate) fn trouble(
    reached_at: &ReachedAt,
    address: SocketAddr,
    state: &Path,
) -> Option<Trouble> {
    if !reached_at.is_there(address) {
        return Some(Trouble::Address);
    }
    (!has_room(state)).then_some(Trouble::Full)
}

/// Tells whether packets can be written. On errors they are tried.
fn has_room(state: &Path) -> bool {
    nix::sys::statvfs::statvfs(state).map_or(true, |stats| {
        let bytes = stats.blocks_available() * stats.fragment_size();
        // Some file systems have no number of files to run out of.
        let has_files = stats.files() == 0 || stats.files_available() >= ROOM_FILES_MIN;
        bytes >= ROOM_BYTES_MIN && has_files
    })
}

/// Allows this process as many descriptors as it may have: each link, stub and walk needs some, and the usual
/// 1,024 are soon gone.
pub(crate) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of descriptors");
    }
}

/// Checks that FUSE can be used.
///
/// # Errors
/// It cannot; the remedy is named.
pub(crate) fn check_fuse() -> anyhow::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop).context(
        "failed to open /dev/fuse: load the fuse module (`modprobe fuse`), or let the container use the device",
    )
}
