//! Who is at the door: counts connections, and the memory of what they have sent, for each user and for all.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use worknode::principal::Principal;

use super::shares::Shares;
use crate::admission::{Act, admit};
use crate::budget::{Budget, Part};

/// All connections.
#[derive(Debug)]
pub(super) struct Guests {
    shares: Shares,
    by_user: RefCell<HashMap<u32, User>>,
    /// Memory of all ordinary users. Root and the agent's own user have a share apart.
    memory: Rc<Budget>,
    own_uid: u32,
}

/// A user who has connections.
#[derive(Debug)]
struct User {
    connections: usize,
    memory: Rc<Budget>,
}

/// A counted connection of a user, until it is dropped.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Rc<Guests>,
    uid: u32,
}

/// The memory that a connection takes, returned on drop.
#[derive(Debug)]
pub(crate) struct Room {
    of_user: Part,
    /// `None` for root and the agent's own user.
    of_all: Option<Part>,
    bytes: usize,
}

impl Guests {
    pub(super) fn new(shares: Shares) -> Self {
        let memory = Budget::new(shares.bytes_of_all);
        let own_uid = nix::unistd::geteuid().as_raw();
        Self { shares, by_user: RefCell::default(), memory, own_uid }
    }

    /// Counts another connection. Returns `None` if there are too many.
    pub(super) fn enter(self: &Rc<Self>, who: &Principal) -> Option<Guest> {
        let uid = who.uid;
        let of_all = self.count_ordinary();
        let mut by_user = self.by_user.borrow_mut();
        let user = by_user
            .entry(uid)
            .or_insert_with(|| User { connections: 0, memory: Budget::new(self.shares.bytes) });
        let share = self.shares.connections;
        let of_user = Act::Enter { connections: user.connections, max: share.of_user };
        let beside = Act::EnterBeside { connections: of_all, max: share.of_all };
        let refusal = match admit(who, of_user) {
            Ok(()) if self.is_ordinary(uid) => admit(who, beside).err(),
            admitted => admitted.err(),
        };
        let Some(refusal) = refusal else {
            user.connections += 1;
            return Some(Guest { guests: Rc::clone(self), uid });
        };
        tracing::warn!(%refusal, "a connection was refused");
        if user.connections == 0 {
            by_user.remove(&uid);
        }
        None
    }

    fn is_ordinary(&self, uid: u32) -> bool {
        uid != self.own_uid && uid != 0
    }

    fn count_ordinary(&self) -> usize {
        let by_user = self.by_user.borrow();
        let ordinary = by_user.iter().filter(|(uid, _)| self.is_ordinary(**uid));
        ordinary.map(|(_, user)| user.connections).sum()
    }
}

impl Guest {
    /// Returns room for what the connection sends.
    pub(super) fn room(&self) -> Room {
        let guests = &self.guests;
        let of_all = guests.is_ordinary(self.uid).then(|| guests.memory.part());
        let of_user = guests.by_user.borrow().get(&self.uid).map(|user| user.memory.part());
        let of_user = of_user.unwrap_or_else(|| Budget::new(0).part());
        Room { of_user, of_all, bytes: 0 }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut by_user = self.guests.by_user.borrow_mut();
        match by_user.get_mut(&self.uid) {
            Some(user) if user.connections > 1 => user.connections -= 1,
            _ => drop(by_user.remove(&self.uid)),
        }
    }
}

impl Room {
    /// Takes room for so many bytes in all. Returns false if there is not enough.
    pub(super) fn reach(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        self.bytes += more;
        let of_all = self.of_all.as_mut().is_none_or(|part| part.take(more as u64));
        of_all && self.of_user.take(more as u64)
    }
}

#[cfg(test)]
impl Room {
    /// Makes room for so many bytes.
    pub(super) fn with(bytes: u64) -> Self {
        Self { of_user: Budget::new(bytes).part(), of_all: None, bytes: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guests() -> Rc<Guests> {
        let guests = Guests::new(Shares::of(4096, 64 * 1000));
        Rc::new(Guests { own_uid: 0, ..guests })
    }

    fn enter(guests: &Rc<Guests>, uid: u32) -> Option<Guest> {
        let node = "laptop".parse().expect("a sound name");
        guests.enter(&Principal { node, uid, gid: uid, groups: Vec::new() })
    }

    #[test]
    fn one_user_cannot_block_others() {
        let guests = guests();
        let of_user = guests.shares.connections.of_user;
        let mut inside: Vec<_> = (0..10_000).map_while(|_| enter(&guests, 1000)).collect();
        assert_eq!(inside.len(), of_user);
        assert!(enter(&guests, 1001).is_some());
        inside.pop();
        assert!(enter(&guests, 1000).is_some());
        inside.clear();
        assert!(guests.by_user.borrow().is_empty(), "closed connections are forgotten");
    }

    #[test]
    fn all_users_cannot_block_root() {
        let guests = guests();
        let many = (1000..2000).flat_map(|uid| std::iter::repeat_n(uid, 10));
        let inside: Vec<_> = many.filter_map(|uid| enter(&guests, uid)).collect();
        assert_eq!(inside.len(), guests.shares.connections.of_all);
        assert!(enter(&guests, 0).is_some());
    }

    #[test]
    fn what_is_sent_is_bounded_for_a_user_and_for_all() {
        let guests = guests();
        let inside: Vec<_> = (1000..1010).map(|uid| enter(&guests, uid).expect("room")).collect();
        let mut rooms: Vec<_> = inside.iter().map(|guest| [guest.room(), guest.room()]).collect();
        let [one, other] = &mut rooms[0];
        assert!(one.reach(600) && one.reach(500) && !other.reach(600));
        let of_all: Vec<_> = rooms[1..].iter_mut().map(|[room, _]| room.reach(900)).collect();
        assert_eq!(of_all.iter().filter(|it| **it).count(), 3);
        assert!(enter(&guests, 0).expect("room").room().reach(1000), "root has room apart");
        rooms.clear();
        assert!(inside[9].room().reach(1000));
    }
}
