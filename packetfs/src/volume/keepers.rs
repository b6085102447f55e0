//! Who keeps a content: its writer, and those of the others whom rendezvous hashing chooses. Each node finds out by itself, and when
//! one goes, only what it kept gets another keeper. Pure.

use std::collections::BTreeSet;

use worknode::history::Author;

/// What the hash is for.
const CONTEXT: &str = "oswalk 2026 who keeps a content";

/// Returns who of the members is to keep a content, by its digest: as many as `count` says, if there are so many.
#[must_use]
pub fn keepers(
    content: &[u8; 32],
    writer: Author,
    members: &BTreeSet<Author>,
    count: usize,
) -> BTreeSet<Author> {
    let mut ranked: Vec<_> = members.iter().map(|it| (*it != writer, rank(content, *it))).collect();
    let mut members: Vec<_> = ranked.drain(..).zip(members.iter().copied()).collect();
    members.sort_unstable();
    members.into_iter().take(count).map(|(_, member)| member).collect()
}

fn rank(content: &[u8; 32], member: Author) -> [u8; 32] {
    blake3::derive_key(CONTEXT, &[content.as_slice(), &member.0].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn author(number: u8) -> Author {
        Author([number; 16])
    }

    fn contents() -> impl Iterator<Item = [u8; 32]> {
        (0..2000_u32).map(|number| *blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    #[test]
    fn the_writer_counts_first_and_there_are_never_more_than_members() {
        let members = BTreeSet::from([1, 2, 3, 4].map(author));
        for content in contents() {
            for count in 0..7 {
                let chosen = keepers(&content, author(3), &members, count);
                assert_eq!(chosen.len(), count.min(4));
                assert!(count == 0 || chosen.contains(&author(3)));
                assert!(chosen.is_subset(&keepers(&content, author(3), &members, count + 1)));
            }
        }
    }

    #[test]
    fn what_a_member_kept_gets_one_other_keeper_and_the_rest_stays() {
        let all = BTreeSet::from([1, 2, 3, 4, 5].map(author));
        for gone in [1, 3, 5].map(author) {
            let mut left = all.clone();
            left.remove(&gone);
            for content in contents() {
                let before = keepers(&content, author(1), &all, 2);
                let after = keepers(&content, author(1), &left, 2);
                assert_eq!(after.len(), 2);
                let kept = before.intersection(&after).count();
                assert_eq!(kept, if before.contains(&gone) { 1 } else { 2 });
            }
        }
    }

    #[test]
    fn contents_are_spread_evenly() {
        let members = BTreeSet::from([1, 2, 3, 4].map(author));
        for other in [2, 3, 4].map(author) {
            let is_chosen = |it: &[u8; 32]| keepers(it, author(1), &members, 2).contains(&other);
            let count = contents().filter(is_chosen).count();
            assert!((500..850).contains(&count), "{count} of 2000");
        }
    }
}
