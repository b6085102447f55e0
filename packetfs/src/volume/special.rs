//! The files below `.oswalk`: what each stands for, and its number. Pure.

use std::collections::HashMap;

use worknode::history::{Dot, Hlc};

use super::past::Spot;

/// The name in the root directory. It can be entered but is not listed, so that programs that walk the tree do not.
pub(super) const NAME: &[u8] = b".oswalk";
/// Numbers from here on are not the volume's.
const FIRST: u64 = 1 << 63;

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
    places: HashMap<u64, (Place, u64)>,
    last: u64,
}

impl Numbers {
    /// Returns numbers with a root that has its number for ever.
    pub(super) fn with_root(number: u64, place: Place) -> Self {
        let mut numbers = Self::default();
        numbers.numbers.insert(place.clone(), number);
        numbers.places.insert(number, (place, u64::MAX));
        numbers
    }

    pub(super) fn place(&self, number: u64) -> Option<Place> {
        self.places.get(&number).map(|(place, _)| place.clone())
    }

    /// Returns the number of a place that the kernel has looked up.
    pub(super) fn known(&mut self, place: Place) -> u64 {
        let number = *self.numbers.entry(place.clone()).or_insert_with(|| {
            self.last += 1;
            FIRST + self.last
        });
        let (_, lookups) = self.places.entry(number).or_insert((place, 0));
        *lookups = lookups.saturating_add(1);
        number
    }

    /// Notes that the kernel has forgotten look-ups.
    pub(super) fn forget(&mut self, number: u64, forgotten: u64) {
        let Some((place, lookups)) = self.places.get_mut(&number) else { return };
        if *lookups == u64::MAX {
            return;
        }
        *lookups = lookups.saturating_sub(forgotten);
        if *lookups == 0 {
            self.numbers.remove(place);
            self.places.remove(&number);
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
    fn a_number_stays_as_long_as_the_kernel_knows_it() {
        let mut numbers = Numbers::with_root(1, Place::Top);
        let place = Place::At(Hlc(5), 7);
        let number = numbers.known(place.clone());
        assert!(is_special(number) && !is_special(u64::MAX >> 1));
        assert_eq!(numbers.known(place.clone()), number);
        numbers.forget(number, 1);
        assert_eq!(numbers.place(number), Some(place.clone()));
        numbers.forget(number, 1);
        assert_eq!(numbers.place(number), None);
        assert_ne!(numbers.known(place), number);
        numbers.forget(1, 100);
        assert_eq!((numbers.place(1), numbers.known(Place::Top)), (Some(Place::Top), 1));
    }
}
