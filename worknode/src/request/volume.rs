//! Requests about the volume of the agent's machine, and their answers. Moments are milliseconds since 1970.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use super::spread::{VolumeConflict, VolumeCopies, VolumePrefetched, VolumeReplicas, VolumeWhere};

/// A request about the volume. While it is worked on, the agent sends [`super::Reply::Progress`] again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRequest {
    /// Return what was done at a path and below it, the latest first.
    Log {
        /// The path.
        place: VolumePlace,
        /// Most records.
        limit: u32,
    },
    /// Make a path what it was at a moment.
    Restore {
        /// The path.
        place: VolumePlace,
        /// The moment.
        at_ms: u64,
    },
    /// Keep all of the past of a path, or no longer.
    Pin {
        /// The path.
        place: VolumePlace,
        /// Whether it is to be kept.
        pinned: bool,
    },
    /// Return the volume in numbers.
    Stat,
    /// Check log, tables and contents.
    Check,
    /// Read every packet again.
    Scrub,
    /// Remove what retention does not keep.
    /// Remove what is not kept any more.
    Collect {
        /// What is kept this time, if that is less than usual.
        keep: Option<Retention>,
    },
    /// About shares.
    Share(ShareRequest),
    /// Write a tree into a new directory.
    Export {
        /// The absolute path of the directory, which must not exist.
        dir: Vec<u8>,
        /// The path in the volume.
        path: Vec<u8>,
        /// The moment; now if there is none.
        at_ms: Option<u64>,
    },
    /// Return the conflicts at a path and below it.
    Conflicts {
        /// The path.
        place: VolumePlace,
    },
    /// Return which nodes have the bytes of the files at a path and below it.
    Where {
        /// The path.
        place: VolumePlace,
    },
    /// Fetch the contents at a path and below it from other nodes.
    Prefetch {
        /// The path.
        place: VolumePlace,
    },
    /// Return how many nodes keep the contents at a path and below it.
    Replicas {
        /// The path.
        place: VolumePlace,
        /// How many shall from now on: 0 for as many as the directory above says; no change if there is none.
        count: Option<u32>,
    },
}

/// A request about shares: ordinary directories that the volume follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShareRequest {
    /// Start one.
    Start {
        /// The absolute path of the directory, without symbolic links.
        dir: Vec<u8>,
        /// The path in the volume, without a slash at its start.
        name: Vec<u8>,
        /// How many nodes are to keep each content; as the directory above says if there is none.
        replicas: Option<u32>,
        /// Whether what others change in the volume is written to the directory.
        writes: bool,
    },
    /// End one. What it has taken over stays in the volume.
    Stop {
        /// The path in the volume.
        name: Vec<u8>,
    },
    /// List them.
    List,
}

/// A path in the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumePlace {
    /// Where the volume is mounted. The agent refuses a place where another volume is mounted.
    pub point: Vec<u8>,
    /// The path below that.
    pub path: Vec<u8>,
}

/// The answer to a request about the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeReply {
    /// What was done.
    Log(Vec<VolumeRecord>),
    /// What was restored.
    Restored(VolumeRestored),
    /// The volume in numbers.
    Stat(Box<VolumeStatus>),
    /// What a check has found.
    Checked(VolumeChecked),
    /// What was removed.
    Collected(VolumeGarbage),
    /// All shares.
    Shares(Vec<VolumeShare>),
    /// What was exported.
    Exported(VolumeExported),
    /// The request succeeded, and has no other answer.
    Done,
    /// Conflicts, in the order of paths.
    Conflicts(Vec<VolumeConflict>),
    /// Which nodes have what.
    Where(VolumeWhere),
    /// What was fetched.
    Prefetched(VolumePrefetched),
    /// How many nodes keep contents.
    Replicas(VolumeReplicas),
}

/// A share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeShare {
    /// Its path in the volume.
    pub name: String,
    /// The directory.
    pub dir: String,
    /// Whether all changes that are known are taken over.
    pub is_up_to_date: bool,
    /// Files that were taken over since the agent started.
    pub taken: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Names that were removed since.
    pub removed: u64,
    /// Files that could not be taken over, with the cause.
    pub left: Vec<String>,
    /// Why nothing is taken over.
    pub trouble: Option<String>,
    /// Whether what others change in the volume is written to the directory.
    pub writes: bool,
    /// Files that were written to the directory, and names that were removed there, since the agent started.
    pub written: u64,
}

/// How far long work has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkProgress {
    /// Bytes that are done.
    pub done: u64,
    /// All bytes; 0 if that is not known.
    pub total: u64,
}

/// Something that was done in the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// When, as RFC 3339 in UTC.
    pub time: String,
    /// Who did it: as versions are named.
    pub author: String,
    /// The node whose author that is, if it is known.
    pub node: Option<String>,
    /// Its number among all that the author did.
    pub seq: u64,
    /// The path then, below where the volume is mounted.
    pub path: String,
    /// What was done.
    pub what: String,
}

/// What was restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRestored {
    /// Names that were made or moved.
    pub placed: u64,
    /// Names that were removed.
    pub removed: u64,
    /// Files whose content or attributes were set.
    pub changed: u64,
}

/// The volume in numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Where it is on disk.
    pub dir: String,
    /// Where it is mounted, or should be.
    pub mounts: Vec<VolumeMountStatus>,
    /// When its first event was, as RFC 3339.
    pub since: Option<String>,
    /// What is kept.
    pub keep: Retention,
    /// Files, directories not included.
    pub files: u64,
    /// Directories, the root included.
    pub directories: u64,
    /// Bytes of the files' contents.
    pub bytes: u64,
    /// Files of which all of the past is kept.
    pub pinned_files: u64,
    /// Bytes of their present contents.
    pub pinned_bytes: u64,
    /// Files whose content is not in packets yet.
    pub unpacked: u64,
    /// Former values: names, attributes, contents.
    pub former: u64,
    /// Packets.
    pub packets: u64,
    /// Packs.
    pub packs: u64,
    /// Bytes of the packs.
    pub pack_bytes: u64,
    /// Segments of the log.
    pub log_segments: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// What could be removed.
    pub garbage: VolumeGarbage,
    /// Paths at which versions of several nodes are in conflict.
    pub conflicts: u64,
    /// Contents that several nodes are to keep.
    pub copies: VolumeCopies,
    /// The shares.
    pub shares: Vec<VolumeShare>,
    /// Bytes that are free on the disk.
    pub free_bytes: u64,
    /// The disk is full, or nearly so: what helps.
    pub full: Option<String>,
}

/// A mount of the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMountStatus {
    /// Where.
    pub point: String,
    /// Whether nothing may be changed there.
    pub read_only: bool,
    /// The moment that it shows, as RFC 3339; none if it shows the present.
    pub at: Option<String>,
    /// Why the volume is not mounted there, and what helps; none if it is.
    pub failed: Option<String>,
}

/// What a check has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeChecked {
    /// Events in the log.
    pub events: u64,
    /// Packets in the store.
    pub packets: u64,
    /// Files in the tree.
    pub files: u64,
    /// Packets that were damaged, and are intact again since another node had them.
    pub healed: u64,
    /// What was wrong and is mended, a sentence each.
    pub mended: Vec<String>,
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
}

/// What was removed, or could be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeGarbage {
    /// Former values.
    pub values: u64,
    /// Packets.
    pub packets: u64,
    /// Bytes of packs.
    pub bytes: u64,
}

/// What was exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeExported {
    /// Files, directories included.
    pub files: u64,
    /// Bytes of contents.
    pub bytes: u64,
    /// Files whose owner or attributes could not be set there.
    pub changed: u64,
}

/// How long the past is kept, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// All of it for so long.
    pub all_s: u64,
    /// As it was at each full hour.
    pub hourly_s: u64,
    /// As it was at the beginning of each day.
    pub daily_s: u64,
}

/// Least time for which all is kept: who reads a content that was just replaced can finish.
pub const RETENTION_S_MIN: u64 = 60;

const MINUTE_S: u64 = 60;
const HOUR_S: u64 = 60 * MINUTE_S;
const DAY_S: u64 = 24 * HOUR_S;

impl Default for Retention {
    fn default() -> Self {
        Self { all_s: DAY_S, hourly_s: 7 * DAY_S, daily_s: 90 * DAY_S }
    }
}

/// Why a text is no retention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionError {
    /// It is not three times.
    Form,
    /// All is kept for less than a minute.
    TooShort,
}

impl fmt::Display for RetentionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form => write!(
                f,
                "write three times, such as 24h,7d,90d: how long all is kept, full hours, and days"
            ),
            Self::TooShort => write!(f, "all of the past is kept for at least one minute"),
        }
    }
}

impl core::error::Error for RetentionError {}

impl FromStr for Retention {
    type Err = RetentionError;

    fn from_str(text: &str) -> Result<Self, RetentionError> {
        let mut times = text.split(',').map(seconds);
        let mut next = || times.next().flatten().ok_or(RetentionError::Form);
        let kept = Self { all_s: next()?, hourly_s: next()?, daily_s: next()? };
        match times.next() {
            Some(_) => Err(RetentionError::Form),
            None if kept.all_s < RETENTION_S_MIN => Err(RetentionError::TooShort),
            None => Ok(kept),
        }
    }
}

impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { all_s, hourly_s, daily_s } = self;
        write!(f, "{},{},{}", Span(*all_s), Span(*hourly_s), Span(*daily_s))
    }
}

/// Reads a time such as `90m`.
fn seconds(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "m" => MINUTE_S,
        "h" => HOUR_S,
        "d" => DAY_S,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// A time in the largest unit that divides it.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            days if days > DAY_S && days % DAY_S == 0 => write!(f, "{}d", days / DAY_S),
            hours if hours % HOUR_S == 0 => write!(f, "{}h", hours / HOUR_S),
            rest => write!(f, "{}m", rest / MINUTE_S),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_is_read_as_it_is_written() {
        assert_eq!("24h,7d,90d".parse(), Ok(Retention::default()));
        assert_eq!("24h,7d,90d", format!("{}", Retention::default()));
        let short = Retention { all_s: 60, hourly_s: 0, daily_s: 48 * HOUR_S };
        assert_eq!("1m, 0h, 2d".parse(), Ok(short));
        assert_eq!("1m,0h,2d", format!("{short}"));
        for text in ["", "1d", "1d,2d", "1d,2d,3d,4d", "1,2,3", "é,1d,1d", "-1d,1d,1d"] {
            assert_eq!(text.parse::<Retention>(), Err(RetentionError::Form), "{text}");
        }
        assert_eq!("0h,7d,90d".parse::<Retention>(), Err(RetentionError::TooShort));
    }
}
