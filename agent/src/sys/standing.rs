//! The process attributes of a sandbox's first process that its programs inherit and that a program of the
//! same user could change.
#![expect(unsafe_code, reason = "scheduling policy and I/O priority have no safe wrapper")]

use std::io;

use rustix::process::{Resource, Rlimit, getpriority_process, getrlimit};

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
    limits: [Rlimit; RESOURCES.len()],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_in_the_kernels_order() {
        for (number, resource) in (0..).zip(RESOURCES) {
            assert_eq!(resource as u32, number);
        }
    }
}
