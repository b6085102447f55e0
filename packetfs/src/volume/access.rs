//! Who may read a former version: whoever could read it then, and may read the file now. Pure.
//!
//! Two sets of permissions are joined to one that lets in nobody whom one of them keeps out. Where owners or groups differ, it
//! also keeps out some whom both let in: nobody knows here who is in which group.

use worknode::history::Permissions;

/// The bits for reading and searching.
const READ_SEARCH: u32 = 0o555;
const WRITE: u32 = 0o222;
const SEARCH: u32 = 1;

/// Permissions for looking back. Bits for set-id are never among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
}

impl Access {
    /// The access of nobody but the superuser.
    pub(super) const NOBODY: Self = Self { uid: 0, gid: 0, mode: 0 };

    /// Returns the access that permissions give, or only what they give to the owner: what others may do is not sure where
    /// there is an access control list.
    pub(super) fn of(permissions: Permissions, only_owner: bool) -> Self {
        let Permissions { mode, uid, gid } = permissions;
        Self { uid, gid, mode: mode & if only_owner { 0o700 } else { 0o777 } }
    }

    /// Returns the access of those whom both let in. What it says of writing and owners is of the first.
    pub(super) fn and(self, other: Self) -> Self {
        let both = self.mode & other.mode;
        let rest = everyone(self.group_and_others()) & everyone(other.group_and_others());
        let mode = match (self.uid == other.uid, self.gid == other.gid) {
            (true, true) => both,
            (true, false) => both & 0o700 | rest & 0o077,
            (false, _) => rest & everyone(self.mode) & everyone(other.mode),
        };
        Self { mode: self.mode & WRITE | mode & READ_SEARCH, ..self }
    }

    /// Returns the access of those who can also search a directory.
    pub(super) fn below(self, dir: Self) -> Self {
        let searched = dir.mode & 0o111;
        if searched == 0o111 {
            return self;
        }
        let owner = self.uid == dir.uid && searched & (SEARCH << 6) != 0;
        let group = self.gid == dir.gid && searched & (SEARCH << 3) != 0;
        let keeps = if owner { 0o700 } else { 0 } | if group { 0o070 } else { 0 };
        Self { mode: self.mode & keeps, ..self }
    }

    /// Returns the access to a directory that stands for a file: who may read the file may list it.
    pub(super) fn as_dir(self) -> Self {
        let read = self.mode & 0o444;
        Self { mode: read | read >> 2, ..self }
    }

    /// Tells whether a user can read. Of the user's groups only this one is known.
    pub(super) fn lets_read(self, uid: u32, gid: u32) -> bool {
        let bit = match (uid == self.uid, gid == self.gid) {
            (true, _) => 0o400,
            (false, true) => 0o040,
            (false, false) => 0o044,
        };
        uid == 0 || self.mode & bit == bit
    }

    fn group_and_others(self) -> u32 {
        self.mode | 0o700
    }
}

/// Returns the bits that all classes have, for all classes.
fn everyone(mode: u32) -> u32 {
    let bits = mode & mode >> 3 & mode >> 6 & 7;
    bits << 6 | bits << 3 | bits
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(uid: u32, gid: u32, mode: u32) -> Access {
        Access::of(Permissions { mode, uid, gid }, false)
    }

    /// Who a caller is to a file: of its owner's, of its group, or neither.
    fn may(it: Access, uid: u32, gids: &[u32], bit: u32) -> bool {
        let class = if uid == it.uid {
            6
        } else if gids.contains(&it.gid) {
            3
        } else {
            0
        };
        it.mode >> class & bit != 0
    }

    #[test]
    fn nobody_gets_more_than_both_give() {
        let modes = [0o000, 0o400, 0o440, 0o444, 0o600, 0o604, 0o640, 0o044, 0o755, 0o705, 0o711];
        let mut all = Vec::new();
        for uid in [1, 2] {
            for gid in [1, 2] {
                all.extend(modes.map(|mode| access(uid, gid, mode)));
            }
        }
        for (then, now) in all.iter().flat_map(|then| all.iter().map(move |now| (*then, *now))) {
            let (both, below) = (then.and(now), then.below(now));
            for uid in [1, 2, 3] {
                for gids in [&[][..], &[1], &[2], &[1, 2]] {
                    for bit in [4, 1] {
                        let allowed = may(then, uid, gids, bit) && may(now, uid, gids, bit);
                        assert!(
                            !may(both, uid, gids, bit) || allowed,
                            "{then:?} and {now:?}: {uid}, {gids:?}"
                        );
                    }
                    let allowed = may(then, uid, gids, 4) && may(now, uid, gids, 1);
                    assert!(
                        !may(below, uid, gids, 4) || allowed,
                        "{then:?} below {now:?}: {uid}, {gids:?}"
                    );
                    let one = gids.first().copied().unwrap_or(9);
                    assert!(
                        !then.lets_read(uid, one) || may(then, uid, gids, 4),
                        "{then:?}: {uid}, {gids:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_usual_cases_stay_as_they_are() {
        let file = access(1, 1, 0o664);
        assert_eq!((file.and(file), file.below(access(0, 0, 0o755))), (file, file));
        assert_eq!(file.and(access(1, 1, 0o600)).mode, 0o620);
        assert_eq!(file.as_dir().mode, 0o555);
        let acl = Access::of(Permissions { mode: 0o664, uid: 1, gid: 1 }, true);
        assert!(!acl.lets_read(2, 1) && acl.lets_read(1, 9) && acl.lets_read(0, 0));
    }
}
