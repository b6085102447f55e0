//! Finds out whether a program that waits for a lock is to go on otherwise, since it has got a signal.
//!
//! The kernel says so by a request that fuser does not pass on, and waits for the answer of the lock all the same. To answer
//! `EINTR` is right only if the kernel has noted a signal for that very thread: otherwise the program would see an error of the
//! kernel's own.

use std::fs;

/// What `/proc/TID/status` says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    group: u32,
    threads: u32,
    pending: u64,
    shared: u64,
    blocked: u64,
}

impl Status {
    fn parse(text: &str) -> Option<Self> {
        let mut it = Self::default();
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            let mask = || u64::from_str_radix(value, 16).ok();
            match name {
                "Tgid" => it.group = value.parse().ok()?,
                "Threads" => it.threads = value.parse().ok()?,
                "SigPnd" => it.pending = mask()?,
                "ShdPnd" => it.shared = mask()?,
                "SigBlk" => it.blocked = mask()?,
                _ => {}
            }
        }
        (it.group > 0).then_some(it)
    }

    /// A signal of the process goes to its first thread if that does not block it. One that ends the process is noted for each.
    fn is_interrupted(&self, thread: u32) -> bool {
        let is_first = self.group == thread || self.threads == 1;
        self.pending & !self.blocked != 0 || is_first && self.shared & !self.blocked != 0
    }
}

/// Tells whether a thread has got a signal, or is gone.
pub(super) fn is_interrupted(thread: u32) -> bool {
    // The kernel cannot name it here: then it waits until it has the lock.
    if thread == 0 {
        return false;
    }
    match fs::read_to_string(format!("/proc/{thread}/status")) {
        Ok(text) => Status::parse(&text).is_some_and(|status| status.is_interrupted(thread)),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pending: &str, shared: &str, blocked: &str, threads: u32) -> Status {
        let text = format!(
            "Name:\tx\nTgid:\t7\nThreads:\t{threads}\nSigPnd:\t{pending}\nShdPnd:\t{shared}\nSigBlk:\t{blocked}\n"
        );
        Status::parse(&text).unwrap()
    }

    #[test]
    fn a_thread_is_interrupted_by_what_is_surely_its_own() {
        assert!(!status("0", "0", "0", 1).is_interrupted(7));
        assert!(status("0", "2", "0", 1).is_interrupted(7));
        assert!(!status("0", "2", "2", 1).is_interrupted(7), "it blocks the signal");
        assert!(!status("0", "2", "0", 2).is_interrupted(8), "another thread gets it");
        assert!(status("100", "0", "0", 2).is_interrupted(8), "the process is killed");
    }
}
