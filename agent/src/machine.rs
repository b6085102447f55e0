//! The properties of this machine, and whether it is fit to run walks.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::LazyLock;

use anyhow::Context;
use broker::Trouble;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use worknode::id::NodeId;
use worknode::said::Said;

use crate::reached_at::ReachedAt;

/// Free space in the state directory below which a node counts as full: one walk may read as much.
const ROOM_BYTES_MIN: u64 = 32 * 1024 * 1024;
const ROOM_FILES_MIN: u64 = 64;
/// Assumed memory if `/proc/meminfo` is unreadable.
const MEMORY_KIB: u64 = 4 * 1024 * 1024;

/// Returns the number of processors that this process may use. Cached, because finding out reads a dozen files.
pub(crate) fn processors() -> u32 {
    static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        u32::try_from(count).unwrap_or(1)
    });
    *PROCESSORS
}

/// Returns [`load`] in hundredths.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a load is a small positive number"
)]
pub(crate) fn load_percent() -> u32 {
    (load() * 100.0).round() as u32
}

/// Returns the mean number of processes that ran or waited for a processor in the last minute.
pub(crate) fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or_default()
}

/// Returns the processor's model name, which decides whether `-march=native` means the same on another node.
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

/// Returns a user's name, if `/etc/passwd` has it. Other sources of names may not answer.
pub(crate) fn user_name(uid: u32) -> Option<String> {
    let text = std::fs::read_to_string("/etc/passwd").ok()?;
    let number = uid.to_string();
    let user = text.lines().find(|line| line.split(':').nth(2) == Some(&number))?;
    user.split(':').next().map(str::to_owned)
}

/// Returns the default name of this node.
pub(crate) fn default_name() -> anyhow::Result<NodeId> {
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    name.parse().map_err(|error| anyhow::anyhow!("{error}; give --name"))
}

/// Returns what keeps this node, with its state directory `state`, from taking walks.
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

/// Tells whether there is room for packets. Assumes so if that cannot be found out.
fn has_room(state: &Path) -> bool {
    nix::sys::statvfs::statvfs(state).map_or(true, |stats| {
        let bytes = stats.blocks_available() * stats.fragment_size();
        // Some file systems do not limit the number of files.
        let has_files = stats.files() == 0 || stats.files_available() >= ROOM_FILES_MIN;
        bytes >= ROOM_BYTES_MIN && has_files
    })
}

/// Raises the soft limit of descriptors to the hard limit: each link, stub and walk needs some, and the usual
/// 1,024 are too few.
pub(crate) fn raise_descriptors() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "failed to raise the limit of descriptors");
    }
}

/// Returns how many descriptors this process may have.
pub(crate) fn descriptors() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft).unwrap_or(usize::MAX)
}

/// Checks that FUSE can be used.
///
/// # Errors
/// It cannot be used. The error names the remedy.
pub(crate) fn check_fuse() -> anyhow::Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop).context(
        "failed to open /dev/fuse: load the fuse module (`modprobe fuse`), or let the container use the device",
    )
}
