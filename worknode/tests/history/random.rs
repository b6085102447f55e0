//! Random numbers that a seed determines (splitmix64).

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).expect("it is below a usize")
    }

    /// Returns true in so many of a hundred cases.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    pub(crate) fn shuffle<T>(&mut self, what: &mut [T]) {
        for i in (1..what.len()).rev() {
            what.swap(i, self.below(i + 1));
        }
    }
}

/// Runs a property for many seeds: all of `count` if optimised or told so by `OSWALK_HISTORIES`, else a part that a debug
/// build manages in seconds. `OSWALK_SEED` runs one again.
pub(crate) fn for_seeds(count: u64, property: impl Fn(u64)) {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    if let Some(seed) = number("OSWALK_SEED") {
        return property(seed);
    }
    let part = if cfg!(debug_assertions) { count / 50 } else { count };
    for seed in 0..number("OSWALK_HISTORIES").unwrap_or(part) {
        let run = std::panic::AssertUnwindSafe(|| property(seed));
        assert!(std::panic::catch_unwind(run).is_ok(), "see above; once more: OSWALK_SEED={seed}");
    }
}
