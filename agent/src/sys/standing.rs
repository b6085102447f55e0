//! The process attributes of a sandbox's first process that its programs inherit and that a program of the
//! same user could change; priority and limits of other processes.
#![expect(unsafe_code, reason = "scheduling policy and I/O priority have no safe wrapper")]

use std::io;

use rustix::process::{Pid, Resource, Rlimit, getpriority_process, getrlimit};

/// `IOPRIO_WHO_PROCESS`.
const IO_OF_PROCESS: libc::c_int = 1;

/// The resource limits in the kernel's order, which is also that of a spec.
pub(super) const RESOURCES: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// The inherited attributes of the calling process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    nice: i32,
    policy: libc::c_int,
    io: libc::c_long,
    /// Its CPU affinity.
    processors: nix::sched::CpuSet,
    pub(super) limits: [Rlimit; RESOURCES.len()],
}

impl Standing {
    /// Reads the current attributes.
    pub(super) fn now() -> io::Result<Self> {
        Ok(Self {
            nice: getpriority_process(None)?,
            // SAFETY: the call takes a plain number.
            policy: unsafe { libc::sched_getscheduler(0) },
            // SAFETY: the call takes plain numbers.
            io: unsafe { libc::syscall(libc::SYS_ioprio_get, IO_OF_PROCESS, 0) },
            processors: nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?,
            limits: RESOURCES.map(getrlimit),
        })
    }
}

/// Returns the nice value of a process.
///
/// # Errors
/// It is gone.
pub(crate) fn nice_of(pid: u32) -> io::Result<i32> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
    Ok(getpriority_process(Some(pid))?)
}

/// Returns the hard limits of a process, in the kernel's order. `prlimit` would need privileges that root may lack in a container.
///
/// # Errors
/// It is gone.
pub(crate) fn hard_limits_of(pid: u32) -> io::Result<[u64; RESOURCES.len()]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits"))?;
    hard_limits(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Reads the kernel's table of limits: a name, a soft and a hard limit, each in a column.
fn hard_limits(table: &str) -> Option<[u64; RESOURCES.len()]> {
    const HARD: std::ops::Range<usize> = 47..67;
    let limit = |line: &str| match line.get(HARD)?.trim() {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    };
    let limits: Option<Vec<_>> = table.lines().skip(1).map(limit).collect();
    limits?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_seen_as_it_sees_itself() {
        let own = std::process::id();
        let limits = RESOURCES.map(|resource| getrlimit(resource).maximum.unwrap_or(u64::MAX));
        assert_eq!(hard_limits_of(own).expect("it is there"), limits);
        assert_eq!(nice_of(own).expect("it is there"), getpriority_process(None).expect("own"));
        assert_eq!(hard_limits("Limit\nMax cpu time  1  2\n"), None);
        assert!(hard_limits_of(0x7fff_ffff).is_err() && nice_of(0x7fff_ffff).is_err());
    }

    #[test]
    fn resources_are_in_the_kernels_order() {
        for (number, resource) in (0..).zip(RESOURCES) {
            assert_eq!(resource as u32, number);
        }
    }
}
