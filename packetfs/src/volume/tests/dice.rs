//! Random choices that a seed repeats.

/// Random numbers (SplitMix64).
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end.max(1) as u64).unwrap_or(0)
    }

    pub(super) fn one<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }

    pub(super) fn bytes(&mut self) -> Vec<u8> {
        let count = match self.below(8) {
            0 => 0,
            7 => 100_000 + self.below(200_000),
            _ => self.below(5000),
        };
        let (first, step) = (self.below(256), self.below(64));
        (0..count)
            .map(|at| u8::try_from((first + at * step + at / 251) % 256).unwrap_or(0))
            .collect()
    }
}
