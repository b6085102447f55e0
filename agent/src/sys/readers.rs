//! Detects whether a process of this pid namespace waits for terminal input, from the system calls that
//! `/proc` reports.

use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// `/dev/tty`: the opener's controlling terminal.
const OWN_TERMINAL: u64 = libc::makedev(5, 0);
/// Most descriptors of one `poll` that are examined.
const POLLED_MAX: u64 = 256;
/// Bytes of a `struct pollfd`: `i32` descriptor, `i16` events, `i16` results.
const POLLED_BYTES: usize = 8;

/// Tells whether another process waits for input of the terminal with this device number.
pub(super) fn someone_reads(terminal: u64) -> bool {
    let me = std::process::id();
    numbers("/proc")
        .filter(|&pid| pid != me)
        .any(|pid| numbers(&format!("/proc/{pid}/task")).any(|thread| reads(pid, thread, terminal)))
}

fn numbers(dir: &str) -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn reads(pid: u32, thread: u32, terminal: u64) -> bool {
    let Ok(call) = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/syscall")) else {
        return false;
    };
    let mut words = call.split_whitespace();
    let Some(number) = words.next().and_then(|number| number.parse::<i64>().ok()) else {
        return false;
    };
    let arguments: Vec<u64> =
        words.filter_map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
    let [first, second, ..] = arguments[..] else { return false };
    let is_terminal = |fd: u64| {
        let metadata = std::fs::metadata(format!("/proc/{pid}/fd/{fd}"));
        metadata.is_ok_and(|metadata| [terminal, OWN_TERMINAL].contains(&metadata.rdev()))
    };
    match number {
        libc::SYS_read | libc::SYS_readv => is_terminal(first),
        libc::SYS_poll | libc::SYS_ppoll => {
            let bytes = memory(pid, first, second.min(POLLED_MAX) * POLLED_BYTES as u64);
            bytes.chunks_exact(POLLED_BYTES).any(|polled| {
                let fd = u32::from_ne_bytes([polled[0], polled[1], polled[2], polled[3]]);
                let events = i16::from_ne_bytes([polled[4], polled[5]]);
                events & libc::POLLIN != 0 && is_terminal(u64::from(fd))
            })
        }
        libc::SYS_select | libc::SYS_pselect6 => {
            let bits = memory(pid, second, first.min(POLLED_MAX).div_ceil(8));
            (0..first.min(POLLED_MAX)).any(|fd| {
                let byte = bits.get(usize::try_from(fd / 8).unwrap_or(usize::MAX));
                byte.is_some_and(|byte| byte & (1 << (fd % 8)) != 0) && is_terminal(fd)
            })
        }
        // The descriptors of an epoll set are unknown. A program that uses one is assumed to wait for its terminal.
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait | libc::SYS_epoll_pwait2 => is_terminal(0),
        _ => false,
    }
}

fn memory(pid: u32, address: u64, bytes: u64) -> Vec<u8> {
    let mut read = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let memory = File::open(format!("/proc/{pid}/mem"));
    match memory.and_then(|memory| memory.read_exact_at(&mut read, address)) {
        Ok(()) => read,
        Err(_) => Vec::new(),
    }
}
