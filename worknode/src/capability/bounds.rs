//! Bounds: what one block of a token allows, or all of its blocks together. What a bound does not mention is not bounded.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::right::Rights;
use crate::id::{NodeId, SessionId};

/// Most nodes or path prefixes of one block. Each is compared with what a walk wants.
pub const LIST_MAX: usize = 16;
/// Longest path prefix.
pub const PREFIX_BYTES_MAX: usize = 1024;

/// What is allowed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Only these rights.
    pub rights: Option<Rights>,
    /// Only on these nodes.
    pub nodes: Option<BTreeSet<NodeId>>,
    /// Only files at and below these absolute paths, besides installed software, which is only read.
    pub paths: Option<BTreeSet<String>>,
    /// Only so many walks at once, in a session on all nodes.
    pub slots: Option<u32>,
    /// Only so much memory for each walk, in bytes.
    pub memory: Option<u64>,
    /// Walks have no network.
    pub no_network: bool,
    /// Only compile steps.
    pub only_compile_steps: bool,
    /// Only until then, in seconds since 1970.
    pub until_s: Option<u64>,
    /// Only in these sessions.
    pub sessions: Option<BTreeSet<SessionId>>,
}

impl Bounds {
    /// Returns what both allow.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            rights: both(self.rights, other.rights, Rights::and),
            nodes: both(self.nodes.clone(), other.nodes.clone(), |a, b| &a & &b),
            paths: both(self.paths.clone(), other.paths.clone(), |a, b| common(&a, &b)),
            slots: both(self.slots, other.slots, u32::min),
            memory: both(self.memory, other.memory, u64::min),
            no_network: self.no_network || other.no_network,
            only_compile_steps: self.only_compile_steps || other.only_compile_steps,
            until_s: both(self.until_s, other.until_s, u64::min),
            sessions: both(self.sessions.clone(), other.sessions.clone(), |a, b| &a & &b),
        }
    }

    /// Tells whether a path may be written. Without [`Self::paths`] that is each.
    #[must_use]
    pub fn covers(&self, path: &[u8]) -> bool {
        let covers = |paths: &BTreeSet<String>| {
            paths.iter().any(|prefix| is_within(path, prefix.as_bytes()))
        };
        self.paths.as_ref().is_none_or(covers)
    }
}

/// Tells whether an absolute path is a directory or below it. Both are without `.`, `..` and repeated slashes.
fn is_within(path: &[u8], dir: &[u8]) -> bool {
    let below = path.strip_prefix(dir.strip_suffix(b"/").unwrap_or(dir));
    below.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn both<T>(a: Option<T>, b: Option<T>, and: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(and(a, b)),
        (a, b) => a.or(b),
    }
}

/// Returns the prefixes of what is below one of `a` and one of `b`.
fn common(a: &BTreeSet<String>, b: &BTreeSet<String>) -> BTreeSet<String> {
    let below = |some: &BTreeSet<String>, others: &BTreeSet<String>| -> Vec<String> {
        let is_below = |path: &&String| {
            others.iter().any(|other| is_within(path.as_bytes(), other.as_bytes()))
        };
        some.iter().filter(is_below).cloned().collect()
    };
    below(a, b).into_iter().chain(below(b, a)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::right::Right;
    use super::*;

    fn paths(list: &[&str]) -> Bounds {
        Bounds { paths: Some(list.iter().map(|&it| it.to_owned()).collect()), ..Bounds::default() }
    }

    #[test]
    fn both_allow_no_more_than_either() {
        let a = Bounds {
            rights: Some([Right::Exec, Right::Read].into_iter().collect()),
            slots: Some(4),
            until_s: Some(100),
            no_network: true,
            ..Bounds::default()
        };
        let b = Bounds {
            rights: Some([Right::Read, Right::Write].into_iter().collect()),
            slots: Some(7),
            memory: Some(1000),
            ..Bounds::default()
        };
        let both = a.and(&b);
        assert_eq!(both, b.and(&a));
        assert_eq!(both.rights, Some([Right::Read].into_iter().collect()));
        assert_eq!((both.slots, both.memory, both.until_s), (Some(4), Some(1000), Some(100)));
        assert!(both.no_network && !both.only_compile_steps);
        assert_eq!(a.and(&Bounds::default()), a);
    }

    #[test]
    fn prefixes_are_whole_names() {
        let both = paths(&["/home/u", "/srv"]).and(&paths(&["/home/u/a", "/home/v", "/"]));
        assert_eq!(both, paths(&["/home/u", "/home/u/a", "/srv"]));
        let narrow = paths(&["/home/u"]).and(&paths(&["/home/u/a"]));
        for (path, covered) in [
            ("/home/u/a", true),
            ("/home/u/a/b", true),
            ("/home/u/ab", false),
            ("/home/u", false),
            ("/", false),
        ] {
            assert_eq!(narrow.covers(path.as_bytes()), covered, "{path}");
        }
        assert!(paths(&["/"]).covers(b"/x") && Bounds::default().covers(b"/x"));
        assert!(!paths(&["/a"]).and(&paths(&["/b"])).covers(b"/a"));
    }
}
