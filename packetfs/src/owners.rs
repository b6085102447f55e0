//! The owners of an origin's files as its runner's kernel knows them: users and groups of the origin are shifted
//! to numbers that nobody has on the runner. Walks see the origin's numbers, by the map of their user namespace.
//!
//! An agent without root has one number only. Everything belongs to the walk's user there.

use serde::{Deserialize, Serialize};

use crate::tree::Attr;

/// Owners of each origin that have a range of numbers of their own. Users of the system, local users and nobody
/// (65,534) are below.
const RANGE: u32 = 65_536;
/// The first range, for one origin after the other. Local users, containers and the users of directory services
/// (by default up to 2,000,200,000) have lower numbers, and systemd gives out none from here on.
const FIRST: u32 = 0x7800_0000;
/// Number of ranges.
const RANGES: u32 = 1024;
/// Set in the numbers of larger owners, such as users of directory services. All origins share these numbers:
/// there are not enough for ranges. Owners that have this bit already have no number.
const LARGE: u32 = 1 << 31;
/// No owner has this number. The kernel shows it as nobody, and lets nobody change such a file.
const NO_OWNER: u32 = u32::MAX;

/// In an access control list: the version, the size of its head and of an entry, and the tags of entries for a
/// user or a group.
const ACL_VERSION: [u8; 4] = 2_u32.to_le_bytes();
const ACL_ENTRY_BYTES: usize = 8;
const ACL_TAGS: [u16; 2] = [0x02, 0x08];

/// How the owners of one origin are numbered on its runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// Each has a number of its own.
    Shifted {
        /// The number of the first.
        base: u32,
        /// Whether owners from [`RANGE`] on have numbers.
        has_large: bool,
    },
    /// All have the number of the runner's own user, which is 0 in the agent's user namespace. What belongs to that number
    /// is the walk's user's.
    One {
        /// The walk's user.
        uid: u32,
        /// The walk's group.
        gid: u32,
    },
}

impl Owners {
    /// Owners below [`RANGE`] as they are, for tests whose walks have no user namespace.
    pub const UNSHIFTED: Self = Self::Shifted { base: 0, has_large: false };
    /// Those of an agent without root, before there is a walk.
    pub const ONE: Self = Self::One { uid: 0, gid: 0 };

    /// Returns the owners with the first range that is neither `taken` nor contains a number in `used`. These are
    /// the first and the last of consecutive numbers that the runner's own users have.
    #[must_use]
    pub fn new(taken: &[Self], used: &[(u32, u32)]) -> Option<Self> {
        let meets = |first: u32, last: u32| used.iter().any(|&(a, b)| a <= last && first <= b);
        let base = (0..RANGES).map(|number| FIRST + number * RANGE).find(|&base| {
            let is_taken =
                |other: &Self| matches!(*other, Self::Shifted { base: it, .. } if it == base);
            !taken.iter().any(is_taken) && !meets(base, base + RANGE - 1)
        })?;
        Some(Self::Shifted { base, has_large: !meets(LARGE, NO_OWNER - 1) })
    }

    /// Tells whether all owners have one number.
    #[must_use]
    pub fn are_one(self) -> bool {
        matches!(self, Self::One { .. })
    }

    /// Returns the owners as a walk of a user leaves them.
    #[must_use]
    pub fn of_walk(self, uid: u32, gid: u32) -> Self {
        if self.are_one() { Self::One { uid, gid } } else { self }
    }

    /// Returns the runner's number of an origin's owner.
    #[must_use]
    pub fn here(self, owner: u32) -> u32 {
        self.number(owner).unwrap_or(NO_OWNER)
    }

    /// Returns the runner's number of an origin's owner, if it has one.
    #[must_use]
    pub fn number(self, owner: u32) -> Option<u32> {
        match self {
            Self::One { .. } => Some(0),
            Self::Shifted { base, .. } if owner < RANGE => Some(base + owner),
            Self::Shifted { has_large: true, .. } if owner & LARGE == 0 => {
                Some(owner | LARGE).filter(|&number| number != NO_OWNER)
            }
            Self::Shifted { .. } => None,
        }
    }

    /// Returns the origin's owner with this number on the runner, if it is one.
    #[must_use]
    pub fn there(self, number: u32) -> Option<u32> {
        let Self::Shifted { base, .. } = self else { return None };
        let owner = number.checked_sub(base).filter(|&owner| owner < RANGE);
        let large = || Some(number & !LARGE).filter(|&owner| self.number(owner) == Some(number));
        owner.or_else(large)
    }

    /// Returns attributes with the origin's owners; `None` if none has these numbers.
    #[must_use]
    pub fn attr_there(self, attr: Attr) -> Option<Attr> {
        match self {
            Self::Shifted { .. } => {
                Some(Attr { uid: self.there(attr.uid)?, gid: self.there(attr.gid)?, ..attr })
            }
            Self::One { uid, gid } => Some(Attr { uid, gid, ..attr }),
        }
    }

    /// Returns attributes with the owners of the file below, where numbers cannot tell them apart.
    #[must_use]
    pub fn attr_above(self, attr: Attr, below: &Attr) -> Attr {
        if self.are_one() { Attr { uid: below.uid, gid: below.gid, ..attr } } else { attr }
    }

    /// Returns the lines of a user namespace's map: the origin's owner, the runner's number, and how many.
    #[must_use]
    pub fn map(self) -> String {
        let (base, has_large) = match self {
            Self::Shifted { base, has_large } => (base, has_large),
            Self::One { uid, .. } => return format!("{uid} 0 1\n"),
        };
        let mut map = format!("0 {base} {RANGE}\n");
        if has_large {
            map += &format!("{RANGE} {} {}\n", RANGE | LARGE, LARGE - 1 - RANGE);
        }
        map
    }

    /// Returns the lines of a user namespace's map of groups.
    #[must_use]
    pub fn map_of_groups(self) -> String {
        match self {
            Self::Shifted { .. } => self.map(),
            Self::One { gid, .. } => format!("{gid} 0 1\n"),
        }
    }

    /// Returns an access control list with the runner's numbers.
    #[must_use]
    pub fn acl_here(self, acl: &[u8]) -> Vec<u8> {
        with_owners(acl, |owner| self.here(owner))
    }

    /// Returns an access control list with the origin's owners.
    #[must_use]
    pub fn acl_there(self, acl: &[u8]) -> Vec<u8> {
        with_owners(acl, |number| self.there(number).unwrap_or(NO_OWNER))
    }
}

/// Returns an access control list with other owners. What is not one stays as it is.
fn with_owners(acl: &[u8], other: impl Fn(u32) -> u32) -> Vec<u8> {
    let mut acl = acl.to_vec();
    let Some(entries) = acl.strip_prefix(&ACL_VERSION).map(<[u8]>::len) else { return acl };
    let head = acl.len() - entries;
    for entry in acl[head..].chunks_exact_mut(ACL_ENTRY_BYTES) {
        let (tag, owner) = entry.split_at_mut(4);
        if let (Some(&tag), Some(owner)) = (tag.first_chunk(), owner.first_chunk_mut())
            && ACL_TAGS.contains(&u16::from_le_bytes(tag))
        {
            *owner = other(u32::from_le_bytes(*owner)).to_le_bytes();
        }
    }
    acl
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first() -> Owners {
        Owners::new(&[], &[]).expect("the first range is free")
    }

    #[test]
    fn every_owner_has_one_number() {
        let owners = first();
        for owner in [0, 1, 1000, 65_534, 65_535, 65_536, 1_234_567, FIRST, 0x7fff_fffe] {
            let number = owners.number(owner).expect("it has one");
            assert!(number >= FIRST, "{owner} has a number of the machine");
            assert_eq!(owners.there(number), Some(owner));
        }
        for owner in [0x7fff_ffff, LARGE, LARGE + 1, NO_OWNER] {
            assert_eq!((owners.number(owner), owners.here(owner)), (None, NO_OWNER));
        }
        for number in [0, 1000, FIRST - 1, FIRST + RANGE, LARGE, LARGE + 65_535, NO_OWNER] {
            assert_eq!(owners.there(number), None, "{number}");
        }
    }

    #[test]
    fn the_map_is_the_same() {
        let owners = first();
        let lines = owners.map();
        for line in lines.lines() {
            let numbers: Vec<u32> = line.split(' ').map(|it| it.parse().expect("one")).collect();
            for at in [0, numbers[2] - 1] {
                assert_eq!(owners.number(numbers[0] + at), Some(numbers[1] + at), "{line}");
            }
        }
        assert_eq!(lines.lines().count(), 2);
        let last: Vec<u32> = lines.split_whitespace().map(|it| it.parse().expect("one")).collect();
        assert_eq!(owners.number(last[3] + last[5]), None, "nothing is left out");
    }

    #[test]
    fn ranges_are_nobody_elses() {
        let own = first();
        let second = Owners::new(&[own], &[]).expect("there are more");
        assert_eq!(second, Owners::Shifted { base: FIRST + RANGE, has_large: true });
        // A user of the machine, and one with a large number.
        let used = [(FIRST + 7, FIRST + 7), (LARGE + 5, LARGE + 5)];
        let other = Owners::new(&[], &used).expect("there are more");
        assert_eq!(other, Owners::Shifted { base: FIRST + RANGE, has_large: false });
        assert_eq!((other.number(65_535), other.number(65_536)), (Some(FIRST + 131_071), None));
        assert_eq!(other.map().lines().count(), 1);
        assert_eq!(Owners::new(&[], &[(0, NO_OWNER)]), None);
    }

    #[test]
    fn one_number_stands_for_all() {
        let attr = Attr::of(&nix::sys::stat::stat("/").expect("it is there"));
        let owners = Owners::ONE.of_walk(1000, 100);
        assert_eq!((owners.here(0), owners.here(7), owners.here(1 << 31)), (0, 0, 0));
        assert_eq!(
            (owners.map(), owners.map_of_groups()),
            ("1000 0 1\n".into(), "100 0 1\n".into())
        );
        let made = owners.attr_there(attr).expect("the walk's");
        assert_eq!((made.uid, made.gid), (1000, 100));
        let copied = owners.attr_above(made, &Attr { uid: 5, gid: 6, ..attr });
        assert_eq!((copied.uid, copied.gid), (5, 6), "the walk cannot have changed them");
        assert_eq!(first().of_walk(1000, 100), first());
        assert_eq!(first().attr_above(made, &attr), made);
    }

    #[test]
    fn access_control_lists_name_the_runners_numbers() {
        let owners = first();
        let entry = |tag: u16, owner: u32| {
            [&tag.to_le_bytes()[..], &7_u16.to_le_bytes(), &owner.to_le_bytes()].concat()
        };
        let list = |user, group| {
            let entries = [entry(1, NO_OWNER), entry(2, user), entry(8, group), entry(32, 5)];
            [ACL_VERSION.to_vec(), entries.concat()].concat()
        };
        let shifted = owners.acl_here(&list(1000, 100_000));
        assert_eq!(shifted, list(FIRST + 1000, 100_000 | LARGE));
        assert_eq!(owners.acl_there(&shifted), list(1000, 100_000));
        for odd in [&b""[..], b"\x02\0\0", b"\x03\0\0\0\x02\0\x07\0\x01\0\0\0"] {
            assert_eq!(owners.acl_here(odd), odd);
        }
        assert_eq!(owners.acl_here(&list(1, 2)[..9]), list(1, 2)[..9], "a part is no entry");
    }
}
