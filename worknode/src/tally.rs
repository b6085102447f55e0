//! The tally: shared memory behind the policy page in which the processes of a session count their
//! stays, without locks or system calls.
//!
//! Each slot is eight words: a key (a hash of program and reason, 0 while free), a count, the reason,
//! and five words with the program's name. A slot is claimed by a compare-and-swap of the key, and
//! never freed.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::reason::Reason;

/// Slots of a tally, one for each pair of program and reason. Pairs that find no slot are counted together.
pub const SLOTS: usize = 1024;
const SLOT_WORDS: usize = 8;
const NAME_WORDS: usize = 5;
/// Bytes of a program's name that are kept.
pub const NAME_BYTES: usize = NAME_WORDS * 8;
/// Words of a tally.
pub const WORDS: usize = SLOTS * SLOT_WORDS;
/// Slots to probe before a pair is counted in the last one, which all pairs without a slot share.
const PROBES_MAX: usize = 32;

/// Counts one stay of the program called `name`.
pub fn count(words: &[AtomicU64], name: &[u8], reason: Reason) {
    let slots = words.len() / SLOT_WORDS;
    if slots < 2 {
        return;
    }
    let name = &name[..name.len().min(NAME_BYTES)];
    let key = key_of(name, reason);
    for probe in 0..PROBES_MAX {
        let index = (usize::try_from(key >> 32).unwrap_or(0) + probe) % (slots - 1);
        let slot = &words[index * SLOT_WORDS..(index + 1) * SLOT_WORDS];
        match slot[0].compare_exchange(0, key, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => {
                for (word, chunk) in slot[3..].iter().zip(name.chunks(8)) {
                    let mut bytes = [0; 8];
                    bytes[..chunk.len()].copy_from_slice(chunk);
                    word.store(u64::from_le_bytes(bytes), Ordering::Relaxed);
                }
                slot[2].store(reason as u64, Ordering::Release);
            }
            Err(present) if present == key => {}
            Err(_) => continue,
        }
        slot[1].fetch_add(1, Ordering::Relaxed);
        return;
    }
    words[(slots - 1) * SLOT_WORDS + 1].fetch_add(1, Ordering::Relaxed);
}

/// Returns the FNV-1a hash of program and reason; never 0.
fn key_of(name: &[u8], reason: Reason) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for &byte in name.iter().chain(core::iter::once(&(reason as u8))) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash.max(1)
}

/// One count of the tally.
#[cfg(feature = "std")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The program's base name, cut at [`NAME_BYTES`]; empty for pairs without a slot.
    pub name: Vec<u8>,
    /// The reason; `None` for pairs without a slot.
    pub reason: Option<Reason>,
    /// Number of stays.
    pub count: u64,
}

/// Reads the tally from the bytes of its file.
#[cfg(feature = "std")]
#[must_use]
pub fn read(bytes: &[u8]) -> Vec<Count> {
    let word = |slot: &[u8], index: usize| {
        let bytes = &slot[index * 8..index * 8 + 8];
        u64::from_le_bytes(bytes.try_into().expect("the slice has eight bytes"))
    };
    bytes
        .chunks_exact(SLOT_WORDS * 8)
        .filter(|slot| word(slot, 1) > 0)
        .map(|slot| {
            let name = slot[24..].iter().copied().take_while(|&byte| byte != 0).collect();
            let reason = u8::try_from(word(slot, 2)).ok().and_then(Reason::from_u8);
            Count { name, reason, count: word(slot, 1) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(slots: usize) -> Vec<AtomicU64> {
        (0..slots * SLOT_WORDS).map(|_| AtomicU64::new(0)).collect()
    }

    fn bytes(words: &[AtomicU64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes()).collect()
    }

    #[test]
    fn counts_pairs_apart() {
        let words = tally(64);
        for _ in 0..3 {
            count(&words, b"gcc", Reason::Link);
        }
        count(&words, b"gcc", Reason::Probe);
        count(&words, &[b'x'; 100], Reason::Unlisted);
        let mut lines = read(&bytes(&words));
        lines.sort_by_key(|line| (line.reason, line.count));
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[0].name, vec![b'x'; NAME_BYTES]);
        assert_eq!(lines[1], Count { name: b"gcc".to_vec(), reason: Some(Reason::Link), count: 3 });
    }

    #[test]
    fn a_full_tally_loses_names_but_no_counts() {
        let words = tally(4);
        for n in 0_u32..50 {
            count(&words, &n.to_le_bytes(), Reason::Driver);
        }
        let lines = read(&bytes(&words));
        assert_eq!(lines.iter().map(|line| line.count).sum::<u64>(), 50);
        assert!(lines.iter().any(|line| line.reason.is_none()));
    }

    #[test]
    fn threads_agree() {
        let words = tally(SLOTS);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0_u32..1000 {
                        count(&words, &(n % 7).to_le_bytes(), Reason::Shell);
                    }
                });
            }
        });
        let lines = read(&bytes(&words));
        assert_eq!(lines.len(), 7);
        assert_eq!(lines.iter().map(|line| line.count).sum::<u64>(), 4000);
    }
}
