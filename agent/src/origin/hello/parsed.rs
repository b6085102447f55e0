//! A stub's hello, decoded.

use worknode::door::{FdEntry, HelloHead, VERSION};
use worknode::id::SessionId;
use worknode::spec::Bytes;

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
}
