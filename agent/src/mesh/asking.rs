//! Of whom events of authors are asked that are not linked with this node. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use worknode::history::{Author, Summary};

/// Time after which events that were asked for are asked of another node.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// What was asked for, of whom, and when.
#[derive(Debug, Default)]
pub(super) struct Asking(HashMap<Author, Asked>);

#[derive(Debug)]
struct Asked {
    link: u32,
    at: Instant,
    is_answered: bool,
    /// Up to which event of the author all were here then.
    after: u64,
    /// Who was asked since then. A node that says it has more than it gives is asked again after all others.
    in_vain: BTreeSet<u32>,
}

/// A question: over which link, whose events, and after which.
pub(super) type Question = (u32, Author, u64);

impl Asking {
    /// Returns what is to be asked now. `claims` are who says to have events of whom up to which.
    pub(super) fn next(
        &mut self,
        claims: impl IntoIterator<Item = (u32, Author, u64)>,
        here: &Summary,
        now: Instant,
    ) -> Vec<Question> {
        let mut missing: BTreeMap<Author, Vec<(u64, u32)>> = BTreeMap::new();
        for (link, author, last) in claims {
            if last > here.of(author) {
                missing.entry(author).or_default().push((last, link));
            }
        }
        self.0.retain(|author, _| missing.contains_key(author));
        let mut questions = Vec::new();
        for (author, mut claims) in missing {
            let after = here.of(author);
            let asked = self.0.get(&author);
            let is_same = |asked: &&Asked| asked.after == after;
            let mut in_vain =
                asked.filter(is_same).map(|asked| asked.in_vain.clone()).unwrap_or_default();
            let is_vain = claims.iter().all(|(_, link)| in_vain.contains(link));
            // Also if all have answered: none has given anything, and that will not change at once.
            let waits = |asked: &Asked| is_vain || !asked.is_answered;
            if asked.is_some_and(|asked| waits(asked) && now - asked.at < ANSWER_MAX) {
                continue;
            }
            if is_vain {
                in_vain.clear();
            }
            claims.retain(|(_, link)| !in_vain.contains(link));
            let Some((_, link)) = claims.into_iter().max() else { continue };
            in_vain.insert(link);
            self.0.insert(author, Asked { link, at: now, is_answered: false, after, in_vain });
            questions.push((link, author, after));
        }
        questions
    }

    /// Notes an answer. Returns whether there is something to ask next.
    pub(super) fn note_answer(&mut self, link: u32, author: Author) -> bool {
        let asked = self.0.get_mut(&author).filter(|asked| asked.link == link);
        asked.map(|asked| asked.is_answered = true).is_some()
    }

    /// Notes the end of a link.
    pub(super) fn end(&mut self, link: u32) {
        self.0.retain(|_, asked| asked.link != link);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHOR: Author = Author([7; 16]);

    fn here(last: u64) -> Summary {
        Summary([(AUTHOR, last)].into())
    }

    #[test]
    fn a_node_that_says_it_has_most_and_gives_nothing_is_not_asked_alone() {
        let (mut asking, mut now) = (Asking::default(), Instant::now());
        let claims = [(1, AUTHOR, u64::MAX), (2, AUTHOR, 9), (3, AUTHOR, 5)];
        let mut asked = Vec::new();
        for _ in 0..4 {
            let questions = asking.next(claims, &here(5), now);
            assert_eq!(asking.next(claims, &here(5), now), [], "it has time to answer");
            asked.extend(questions);
            now += ANSWER_MAX;
        }
        assert_eq!(asked, [(1, AUTHOR, 5), (2, AUTHOR, 5), (1, AUTHOR, 5), (2, AUTHOR, 5)]);
    }

    #[test]
    fn who_gives_is_asked_for_more_at_once() {
        let (mut asking, now) = (Asking::default(), Instant::now());
        let claims = [(1, AUTHOR, 20), (2, AUTHOR, 9)];
        assert_eq!(asking.next(claims, &here(5), now), [(1, AUTHOR, 5)]);
        assert!(!asking.note_answer(2, AUTHOR), "it was not asked");
        assert!(asking.note_answer(1, AUTHOR));
        assert_eq!(asking.next(claims, &here(8), now), [(1, AUTHOR, 8)]);
        assert!(asking.note_answer(1, AUTHOR));
        assert_eq!(asking.next(claims, &here(8), now), [(2, AUTHOR, 8)], "it gave nothing");
        assert!(asking.note_answer(2, AUTHOR));
        assert_eq!(asking.next(claims, &here(8), now), [], "nobody gives anything now");
        asking.end(2);
        assert_eq!(asking.next([claims[0]], &here(8), now), [(1, AUTHOR, 8)]);
        assert_eq!(asking.next(claims, &here(20), now), []);
    }
}
