//! The process attributes of a sandbox's first process that its programs inherit and that a program of the
//! same user could change.
#![expect(unsafe_code, reason = "reads kernel structures")]

use std::io;

/// The calling process.
const THIS: libc::id_t = 0;
/// Number of resource limits.
const RESOURCES: u32 = 16;
/// `IOPRIO_WHO_PROCESS`.
const IO_OF_PROCESS: libc::c_int = 1;

/// The inherited attributes of the calling process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Standing {
    nice: libc::c_int,
    policy: libc::c_int,
    io: libc::c_long,
    /// Its CPU affinity.
    processors: nix::sched::CpuSet,
    /// Soft and hard limits.
    limits: Vec<(u64, u64)>,
}

impl Standing {
    /// Reads the current attributes.
    pub(super) fn now() -> io::Result<Self> {
        let limit = |resource| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the kernel fills the structure.
            unsafe { libc::getrlimit(resource, &raw mut limit) };
            (limit.rlim_cur, limit.rlim_max)
        };
        Ok(Self {
            // SAFETY: the call takes plain numbers.
            nice: unsafe { libc::getpriority(libc::PRIO_PROCESS, THIS) },
            // SAFETY: the call takes a plain number.
            policy: unsafe { libc::sched_getscheduler(0) },
            // SAFETY: the call takes plain numbers.
            io: unsafe { libc::syscall(libc::SYS_ioprio_get, IO_OF_PROCESS, 0) },
            processors: nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))?,
            limits: (0..RESOURCES).map(limit).collect(),
        })
    }
}
