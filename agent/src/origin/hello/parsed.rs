//! A stub's hello, decoded.

use packetfs::path::PATH_BYTES_MAX;
use worknode::door::{FdEntry, HelloHead, VERSION};
use worknode::id::SessionId;
use worknode::spec::Bytes;

/// Most descriptors of a process. Only those up to 255 are carried; a process with others stays, and one with more than
/// this is not looked at.
const FDS_MAX: u32 = 1024;

/// Most words and variables of a process that walks. Each may be looked up, for a few microseconds.
const WORDS_MAX: usize = 65_536;
/// Most words and variables that are looked at between other work, and most comparisons of a byte of the environment with a
/// byte of a pattern: a few milliseconds each.
const WORDS_AT_ONCE_MAX: usize = 1024;
const COMPARISONS_AT_ONCE_MAX: usize = 4 * 1024 * 1024;
/// Bytes of patterns with which each variable is compared in any case.
const OWN_PATTERN_BYTES: usize = 64;

/// How much work a hello is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Usual,
    /// It is looked at apart from the work for others.
    Large,
    /// It is not looked at.
    TooLarge,
}

/// A stub's hello.
#[derive(Debug, Clone)]
pub(in crate::origin) struct Hello {
    pub(in crate::origin) session: SessionId,
    pub(super) head: HelloHead,
    pub(super) fds: Vec<FdEntry>,
    pub(super) path: Bytes,
    pub(super) cwd: Bytes,
    pub(super) argv: Bytes,
    pub(super) env: Bytes,
}

impl Hello {
    /// Decodes a hello. Returns `None` if it is damaged or of another version.
    pub(in crate::origin) fn parse(payload: &[u8]) -> Option<Self> {
        let (head, mut rest) = HelloHead::decode(payload)?;
        if head.version != VERSION {
            return None;
        }
        let are_paths =
            [head.path_bytes, head.cwd_bytes].iter().all(|&bytes| bytes as usize <= PATH_BYTES_MAX);
        if head.fds > FDS_MAX || !are_paths {
            return None;
        }
        let mut fds = Vec::new();
        for _ in 0..head.fds {
            let (entry, after) = FdEntry::decode(rest)?;
            fds.push(entry);
            rest = after;
        }
        let mut take = |bytes: u32| {
            let (part, after) = rest.split_at_checked(bytes as usize)?;
            rest = after;
            Some(part.to_vec())
        };
        let path = take(head.path_bytes)?;
        let cwd = take(head.cwd_bytes)?;
        let argv = take(head.argv_bytes)?;
        let env = take(head.env_bytes)?;
        Some(Self { session: SessionId(head.session), head, fds, path, cwd, argv, env })
    }

    /// Tells how much work it is to compare its variables with so many bytes of patterns, and to look up all that it names.
    pub(super) fn size(&self, pattern_bytes: usize) -> Size {
        let words = count_strings(&self.argv) + count_strings(&self.env);
        let comparisons = self.env.len().saturating_mul(pattern_bytes + OWN_PATTERN_BYTES);
        match () {
            () if words > WORDS_MAX => Size::TooLarge,
            () if words > WORDS_AT_ONCE_MAX || comparisons > COMPARISONS_AT_ONCE_MAX => Size::Large,
            () => Size::Usual,
        }
    }
}

/// Counts the strings of a block that end with a zero byte.
fn count_strings(block: &[u8]) -> usize {
    memchr::memchr_iter(0, block).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(words: usize, env_bytes: usize) -> Hello {
        let (argv, env) = (vec![0; words], vec![b'x'; env_bytes]);
        let head = HelloHead::new(1);
        Hello { session: SessionId(1), head, fds: vec![], path: vec![], cwd: vec![], argv, env }
    }

    #[test]
    fn what_is_much_work_is_done_apart_or_not_at_all() {
        assert_eq!(hello(500, 8 * 1024).size(200), Size::Usual);
        assert_eq!(hello(2000, 0).size(0), Size::Large);
        assert_eq!(hello(10, 128 * 1024).size(0), Size::Large);
        assert_eq!(hello(10, 8 * 1024).size(4096), Size::Large);
        assert_eq!(hello(8 * 1024 * 1024, 0).size(0), Size::TooLarge);
    }

    #[test]
    fn a_path_is_no_longer_than_any_other() {
        let parsed = |bytes: usize| {
            let path_bytes = bytes.try_into().expect("it is short");
            let head = HelloHead { path_bytes, ..HelloHead::new(1) };
            Hello::parse(&[&head.encode()[..], &vec![b'/'; bytes]].concat())
        };
        assert!(parsed(PATH_BYTES_MAX).is_some() && parsed(PATH_BYTES_MAX + 1).is_none());
    }
}
