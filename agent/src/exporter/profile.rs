//! Access profiles: what similar walks have requested. It is sent at once to a node that is new to a project, which
//! would otherwise request one item after the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use packetfs::identity::Owner;
use packetfs::path::{Bytes, is_within};

use super::reach::Reach;

/// Most profiles. The least recently used one is dropped first.
const PROFILES_MAX: usize = 64;
/// Most paths in a profile.
const PATHS_MAX: usize = 1000;
/// Most memory of a profile: room for that many paths of usual length, and the packets of some gigabytes.
const PROFILE_BYTES_MAX: usize = 1024 * 1024;
/// Approximate memory for a path besides its bytes, and for a packet's offset.
const PATH_BYTES: usize = 128;
const OFFSET_BYTES: usize = 16;

/// What makes walks similar: the same program in the same directory reads much the same files. Another user may not be
/// allowed to read them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Likeness {
    /// The program.
    pub(crate) program: Bytes,
    /// Its working directory.
    pub(crate) cwd: Bytes,
    /// Its user.
    pub(crate) user: Owner,
    /// What the token of its session lets it read.
    pub(crate) reach: Reach,
}

/// The facts about a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Its listing.
    pub(super) listing: bool,
    /// Its manifest.
    pub(super) content: bool,
    /// Its packets at these offsets.
    pub(super) packets: BTreeSet<u64>,
}

/// Paths with the facts that were requested or sent. Directories precede their entries.
#[derive(Debug, Clone, Default)]
pub(super) struct Known {
    paths: BTreeMap<Bytes, Facts>,
    /// Memory for the recorded paths.
    bytes: usize,
}

impl Known {
    /// Returns the facts about a path, for additions.
    pub(super) fn of(&mut self, path: &[u8]) -> &mut Facts {
        self.paths.entry(path.to_vec()).or_default()
    }

    /// Adds a fact about a path that a peer has named, and accounts for its memory.
    pub(super) fn note(&mut self, path: &[u8], add: impl Fn(&mut Facts)) {
        let before = self.paths.get(path).map_or(0, |facts| cost(path, facts));
        let facts = self.of(path);
        add(facts);
        self.bytes = self.bytes.saturating_sub(before) + cost(path, &self.paths[path]);
    }

    /// Returns the facts about a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Facts> {
        self.paths.get(path)
    }

    /// Removes a path, and everything below it.
    pub(super) fn forget(&mut self, path: &[u8]) {
        let gone: Vec<Bytes> = self
            .paths
            .range(path.to_vec()..)
            .map(|(known, _)| known)
            // Names with the same prefix, such as `a.c` for `a`, sort in between.
            .take_while(|known| known.starts_with(path))
            .filter(|known| is_within(known, path))
            .cloned()
            .collect();
        for path in gone {
            let facts = self.paths.remove(&path).unwrap_or_default();
            self.bytes = self.bytes.saturating_sub(cost(&path, &facts));
        }
    }

    /// Returns the number of paths.
    fn paths(&self) -> usize {
        self.paths.len()
    }

    /// Returns the approximate memory use.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Removes everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns all paths, for additions.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&Bytes, &mut Facts)> {
        self.paths.iter_mut()
    }

    /// Returns all paths.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Bytes, &Facts)> {
        self.paths.iter()
    }
}

fn cost(path: &[u8], facts: &Facts) -> usize {
    path.len() + PATH_BYTES + facts.packets.len() * OFFSET_BYTES
}

/// The profiles.
#[derive(Debug, Default)]
pub(super) struct Profiles {
    profiles: HashMap<Arc<Likeness>, Profile>,
    /// Counts uses, to find the least recently used one.
    uses: u64,
}

#[derive(Debug, Default)]
struct Profile {
    known: Known,
    used: u64,
}

impl Profiles {
    /// Records a request of a walk, or of one of several concurrent walks.
    pub(super) fn note(&mut self, walks: &[Arc<Likeness>], path: &[u8], add: impl Fn(&mut Facts)) {
        for walk in walks {
            self.uses += 1;
            let used = self.uses;
            if !self.profiles.contains_key(walk) && self.profiles.len() >= PROFILES_MAX {
                let oldest = self.profiles.iter().min_by_key(|(_, profile)| profile.used);
                if let Some(oldest) = oldest.map(|(walk, _)| Arc::clone(walk)) {
                    self.profiles.remove(&oldest);
                }
            }
            let profile = self.profiles.entry(Arc::clone(walk)).or_default();
            profile.used = used;
            let is_known = profile.known.get(path).is_some();
            let is_full = profile.known.bytes() >= PROFILE_BYTES_MAX;
            if !is_full && (is_known || profile.known.paths() < PATHS_MAX) {
                profile.known.note(path, &add);
            }
        }
    }

    /// Returns what similar walks have requested.
    pub(super) fn of(&mut self, walk: &Likeness) -> Option<Known> {
        self.uses += 1;
        let profile = self.profiles.get_mut(walk)?;
        profile.used = self.uses;
        Some(profile.known.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(name: &str) -> Arc<Likeness> {
        let user = Owner { uid: 0, gid: 0, groups: Vec::new() };
        let (program, cwd) = (b"/usr/bin/gcc".to_vec(), name.as_bytes().to_vec());
        Arc::new(Likeness { program, cwd, user, reach: Reach::default() })
    }

    #[test]
    fn removing_a_path_removes_everything_below() {
        let mut known = Known::default();
        for path in ["/a", "/a.c", "/a/b", "/a/b/c", "/ab", "/b"] {
            known.of(path.as_bytes()).listing = true;
        }
        known.forget(b"/a");
        let left: Vec<_> = known.iter().map(|(path, _)| path.as_slice()).collect();
        assert_eq!(left, [b"/a.c".as_slice(), b"/ab", b"/b"]);
    }

    #[test]
    fn the_least_recently_used_profile_is_dropped() {
        let mut profiles = Profiles::default();
        let all: Vec<_> = (0..=PROFILES_MAX).map(|number| like(&number.to_string())).collect();
        for walk in &all[..PROFILES_MAX] {
            profiles.note(std::slice::from_ref(walk), b"/a", |facts| facts.content = true);
        }
        assert!(profiles.of(&all[0]).is_some());
        profiles.note(&all[PROFILES_MAX..], b"/a", |facts| facts.content = true);
        assert!(profiles.of(&all[0]).is_some(), "it was just used");
        assert!(profiles.of(&all[1]).is_none());
    }

    #[test]
    fn a_profile_is_bounded() {
        let (mut profiles, walk) = (Profiles::default(), like("x"));
        for number in 0..2 * PATHS_MAX {
            let path = format!("/{number}");
            profiles
                .note(std::slice::from_ref(&walk), path.as_bytes(), |facts| facts.listing = true);
        }
        assert_eq!(profiles.of(&walk).expect("it was noted").iter().count(), PATHS_MAX);
        for offset in 0..PROFILE_BYTES_MAX as u64 {
            profiles.note(std::slice::from_ref(&walk), b"/0", |facts| {
                facts.packets.insert(offset);
            });
        }
        let known = profiles.of(&walk).expect("it was noted");
        assert!(known.bytes() < PROFILE_BYTES_MAX + PATH_BYTES);
        assert!(
            known.get(b"/0").expect("it was noted").packets.len()
                < PROFILE_BYTES_MAX / OFFSET_BYTES
        );
    }

    #[test]
    fn removed_paths_take_no_memory() {
        let mut known = Known::default();
        for path in ["/a", "/a/b"] {
            known.note(path.as_bytes(), |facts| facts.packets.extend([1, 2]));
        }
        known.note(b"/a", |facts| facts.packets.extend([2, 3]));
        assert_eq!(known.bytes(), 6 + 2 * PATH_BYTES + 5 * OFFSET_BYTES);
        known.forget(b"/a");
        assert_eq!(known.bytes(), 0);
    }
}
