//! Rights: what can be done.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::said::Said;

/// What a token can give the right to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Right {
    /// Execute programs on other nodes.
    Exec,
    /// Have them read the origin's files.
    Read,
    /// Have them change the origin's files.
    Write,
    /// Send them signals.
    Signal,
    /// Make join lines.
    Invite,
    /// End the agent, remove nodes, revoke tokens of others.
    Admin,
}

/// The text is not a right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a right: write exec, read, write, signal, invite or admin")]
pub struct RightError(Said);

impl Right {
    /// All rights, in the order in which they are written.
    pub const ALL: [Self; 6] =
        [Self::Exec, Self::Read, Self::Write, Self::Signal, Self::Invite, Self::Admin];

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Read => "read",
            Self::Write => "write",
            Self::Signal => "signal",
            Self::Invite => "invite",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Right {
    type Err = RightError;

    fn from_str(name: &str) -> Result<Self, RightError> {
        let named = Self::ALL.into_iter().find(|right| right.name() == name);
        named.ok_or_else(|| RightError(name.into()))
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights(u8);

impl Rights {
    /// Every right.
    pub const ALL: Self = Self(0b11_1111);
    /// What a session needs, and what each user of a machine has at its agent.
    pub const SESSION: Self = Self(0b1111);

    /// Tells whether a right is in the set.
    #[must_use]
    pub fn has(self, right: Right) -> bool {
        self.0 & 1 << right as u8 != 0
    }

    /// Returns the rights that are in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the rights of the set in order.
    pub fn iter(self) -> impl Iterator<Item = Right> {
        Right::ALL.into_iter().filter(move |right| self.has(*right))
    }
}

impl FromIterator<Right> for Rights {
    fn from_iter<T: IntoIterator<Item = Right>>(rights: T) -> Self {
        Self(rights.into_iter().fold(0, |set, right| set | 1 << right as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of() {
        let some: Rights = [Right::Exec, Right::Admin].into_iter().collect();
        assert_eq!(some.iter().collect::<Vec<_>>(), [Right::Exec, Right::Admin]);
        assert_eq!(Right::ALL.into_iter().collect::<Rights>(), Rights::ALL);
        assert_eq!(some.and(Rights::SESSION).iter().collect::<Vec<_>>(), [Right::Exec]);
        for right in Right::ALL {
            assert_eq!(right.name().parse(), Ok(right));
        }
        assert!("root".parse::<Right>().is_err());
    }
}
