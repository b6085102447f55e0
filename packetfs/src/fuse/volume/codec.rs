//! Encodes answers for the kernel, and decodes what its requests say.

use std::time::SystemTime;

use fuser::{Errno, FileAttr, FopenFlags, ReplyEmpty, ReplyWrite, Request, TimeOrNow};
use worknode::history::Nanos;

use crate::fuse::reply::file_attr_at;
use crate::volume::{Caller, Found};

pub(super) fn answer(reply: ReplyEmpty, done: Result<(), Errno>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

pub(super) fn answer_count(reply: ReplyWrite, count: Result<u64, Errno>) {
    match count {
        Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
        Err(error) => reply.error(error),
    }
}

/// Says whether what the kernel has cached of a file stays, and whether it caches what it reads.
pub(super) fn cached(keep: bool, caches: bool) -> FopenFlags {
    let kept = if keep { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    kept | if caches { FopenFlags::empty() } else { FopenFlags::FOPEN_DIRECT_IO }
}

pub(super) fn attr_of(found: &Found) -> FileAttr {
    file_attr_at(found.attr.ino, &found.attr, found.accessed)
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid() }
}

pub(super) fn nanos(time: TimeOrNow) -> Nanos {
    let time = match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    };
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => {
            // The library takes the fraction of a time before 1970 for negative too.
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).unwrap_or(i64::MAX);
            seconds.saturating_mul(-1_000_000_000).saturating_add(before.subsec_nanos().into())
        }
    }
}
