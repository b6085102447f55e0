//! The files below `.oswalk`: what each stands for, and its number. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use worknode::history::{Dot, Hlc};

use super::handles::DirEntry;
use super::past::Spot;

/// The name in the root directory. It can be entered but is not listed, so that programs that walk the tree do not.
pub(super) const NAME: &[u8] = b".oswalk";
/// Numbers from here on are not the volume's.
const FIRST: u64 = 1 << 63;
/// Most files of the past that the kernel knows because of one user, other than the superuser. Each takes memory of the agent
/// until the kernel forgets it.
const KNOWN_MAX: usize = 131_072;
/// How much of the past a user may have open, other than the superuser: a file counts one, as do so many names of a directory.
const OPEN_MAX: usize = 16_384;
const NAMES_AS_ONE: usize = 64;

/// What a file stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Place {
    /// `.oswalk`
    Top,
    /// `.oswalk/versions/PATH`: names below a directory, or versions of a file.
    Versions(Spot),
    /// `.oswalk/at`
    Moments,
    /// A file as it was at a moment.
    At(Hlc, u64),
    /// A file with a content that it never had here.
    Lost(u64, Dot),
}

/// The numbers of the files that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    numbers: HashMap<Place, u64>,
    places: HashMap<u64, Known>,
    /// How many each user has looked up first.
    of_user: HashMap<u32, usize>,
    last: u64,
}

/// A file that the kernel knows.
#[derive(Debug)]
struct Known {
    place: Place,
    lookups: u64,
    uid: u32,
}

impl Numbers {
    /// Returns numbers with a root that has its number for ever.
    pub(super) fn with_root(number: u64, place: Place) -> Self {
        let mut numbers = Self::default();
        numbers.numbers.insert(place.clone(), number);
        numbers.places.insert(number, Known { place, lookups: u64::MAX, uid: 0 });
        numbers
    }

    pub(super) fn place(&self, number: u64) -> Option<Place> {
        self.places.get(&number).map(|known| known.place.clone())
    }

    /// Returns the number of a place that the kernel has looked up for a user; none if it knows too many for that user.
    pub(super) fn known(&mut self, place: Place, uid: u32) -> Option<u64> {
        if let Some(&number) = self.numbers.get(&place) {
            let known = self.places.get_mut(&number)?;
            known.lookups = known.lookups.saturating_add(1);
            return Some(number);
        }
        let count = self.of_user.entry(uid).or_default();
        if uid != 0 && *count >= KNOWN_MAX {
            return None;
        }
        *count += 1;
        self.last += 1;
        let number = FIRST + self.last;
        self.numbers.insert(place.clone(), number);
        self.places.insert(number, Known { place, lookups: 1, uid });
        Some(number)
    }

    /// Notes that the kernel has forgotten look-ups.
    pub(super) fn forget(&mut self, number: u64, forgotten: u64) {
        let Some(known) = self.places.get_mut(&number) else { return };
        if known.lookups == u64::MAX {
            return;
        }
        known.lookups = known.lookups.saturating_sub(forgotten);
        if known.lookups == 0 {
            self.numbers.remove(&known.place);
            lower(&mut self.of_user, known.uid, 1);
            self.places.remove(&number);
        }
    }
}

/// What is open of the past.
#[derive(Debug, Default)]
pub(super) struct Open {
    open: HashMap<u64, (u32, Opening)>,
    of_user: HashMap<u32, usize>,
    last: u64,
}

/// An open file or directory of the past.
#[derive(Debug)]
pub(super) enum Opening {
    /// The number of a reader.
    File(u64),
    /// The names as they were when it was opened.
    Dir(Arc<[DirEntry]>),
}

impl Opening {
    fn size(&self) -> usize {
        match self {
            Self::File(_) => 1,
            Self::Dir(names) => 1 + names.len() / NAMES_AS_ONE,
        }
    }
}

impl Open {
    /// Returns a number for what a user opens; none if that is too much. One directory may be of any size.
    pub(super) fn add(&mut self, uid: u32, opening: Opening) -> Option<u64> {
        let size = opening.size();
        let used = self.of_user.entry(uid).or_default();
        if uid != 0 && *used > 0 && *used + size > OPEN_MAX {
            return None;
        }
        *used += size;
        self.last += 1;
        self.open.insert(self.last, (uid, opening));
        Some(self.last)
    }

    pub(super) fn get(&self, id: u64) -> Option<&Opening> {
        self.open.get(&id).map(|(_, opening)| opening)
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Opening> {
        let (uid, opening) = self.open.remove(&id)?;
        lower(&mut self.of_user, uid, opening.size());
        Some(opening)
    }
}

fn lower(counts: &mut HashMap<u32, usize>, uid: u32, by: usize) {
    if let Some(count) = counts.get_mut(&uid) {
        *count -= by;
        if *count == 0 {
            counts.remove(&uid);
        }
    }
}

/// Tells whether a number of a file or a handle is not the volume's.
pub(super) fn is_special(number: u64) -> bool {
    number >= FIRST
}

/// Returns the number of a special handle.
pub(super) fn handle(id: u64) -> u64 {
    FIRST | id
}

/// Returns the number behind a special handle.
pub(super) fn id(handle: u64) -> u64 {
    handle & !FIRST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_so_much_of_the_past_at_once() {
        let mut numbers = Numbers::with_root(1, Place::Top);
        let at = |ino: usize| Place::At(Hlc(5), ino as u64);
        let first = numbers.known(at(0), 7).expect("there is room");
        assert!((1..KNOWN_MAX).all(|ino| numbers.known(at(ino), 7).is_some()));
        assert_eq!(numbers.known(at(KNOWN_MAX), 7), None);
        assert!(numbers.known(at(0), 7).is_some(), "what is known is known");
        assert!(numbers.known(at(KNOWN_MAX), 8).is_some(), "another user has room");
        numbers.forget(first, 2);
        assert!(numbers.known(at(KNOWN_MAX + 1), 7).is_some());

        let mut open = Open::default();
        let names = |count| {
            let entry = DirEntry { name: Vec::new(), ino: 1, kind: crate::tree::Kind::File };
            Opening::Dir(vec![entry; count].into())
        };
        let large = open.add(7, names(2 * OPEN_MAX * NAMES_AS_ONE)).expect("one may be large");
        assert!(open.add(7, Opening::File(1)).is_none() && open.add(0, Opening::File(1)).is_some());
        assert!(open.add(8, Opening::File(1)).is_some() && open.remove(large).is_some());
        assert!(open.add(7, Opening::File(1)).is_some());
    }

    #[test]
    fn a_number_stays_as_long_as_the_kernel_knows_it() {
        let mut numbers = Numbers::with_root(1, Place::Top);
        let place = Place::At(Hlc(5), 7);
        let number = numbers.known(place.clone(), 7).expect("there is room");
        assert!(is_special(number) && !is_special(u64::MAX >> 1));
        assert_eq!(numbers.known(place.clone(), 7), Some(number));
        numbers.forget(number, 1);
        assert_eq!(numbers.place(number), Some(place.clone()));
        numbers.forget(number, 1);
        assert_eq!(numbers.place(number), None);
        assert_ne!(numbers.known(place, 7), Some(number));
        numbers.forget(1, 100);
        assert_eq!((numbers.place(1), numbers.known(Place::Top, 7)), (Some(Place::Top), Some(1)));
    }
}
