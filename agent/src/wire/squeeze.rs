//! Dictionary compression of messages. The walks of a build have nearly the same environment and arguments, so
//! each is compressed with an earlier one as the dictionary.

use serde::{Deserialize, Serialize};
use zstd::bulk::{Compressor, Decompressor};

use super::limits::{DICTIONARY_BYTES_MAX, GROWN_BYTES_MIN, GROWTH_MAX};

/// The fastest level when the dictionary is prepared in advance.
const LEVEL: i32 = 1;
/// A message that compresses to more than this suggests a new dictionary …
const SMALL_BYTES: usize = 128;
/// … after at least so many messages, because preparing one costs as much as compressing several.
const AGE_MIN: u32 = 8;

/// An encoded message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Squeezed {
    /// Its uncompressed length; 0 if it is not compressed.
    bytes: u32,
    /// Whether it becomes the dictionary of later messages.
    dictionary: bool,
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
}

/// A message that cannot be read; neither can those that follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a squeezed message is damaged")]
pub struct Damaged;

/// The sending side.
#[derive(Default)]
pub struct Squeezer {
    packer: Option<Compressor<'static>>,
    /// Messages since the dictionary was made.
    age: u32,
}

/// The receiving side.
#[derive(Default)]
pub struct Unsqueezer {
    unpacker: Option<Decompressor<'static>>,
}

impl Squeezer {
    /// Makes the next message small.
    #[must_use]
    pub fn squeeze(&mut self, message: &[u8]) -> Squeezed {
        let packed = self.packer.as_mut().and_then(|packer| packer.compress(message).ok());
        let packed =
            packed.filter(|body| body.len() < message.len() && message.len() <= grown(body));
        self.age += 1;
        let fits = message.len() <= DICTIONARY_BYTES_MAX;
        let dictionary = fits
            && match &packed {
                Some(body) => self.age >= AGE_MIN && body.len() > SMALL_BYTES,
                None => self.packer.is_none() || message.len() > SMALL_BYTES,
            };
        if dictionary {
            // On failure the next message is sent uncompressed, and tried as the dictionary.
            self.packer = Compressor::with_dictionary(LEVEL, message).ok();
            self.age = 0;
        }
        match (packed, u32::try_from(message.len())) {
            (Some(body), Ok(bytes)) if bytes > 0 => Squeezed { bytes, dictionary, body },
            _ => Squeezed { bytes: 0, dictionary, body: message.to_vec() },
        }
    }
}

impl Unsqueezer {
    /// Decompresses a message. Returns `None` if it is damaged, or longer than `bytes_max`.
    pub fn unsqueeze(&mut self, squeezed: Squeezed, bytes_max: usize) -> Option<Vec<u8>> {
        let Squeezed { bytes, dictionary, body } = squeezed;
        let message = match usize::try_from(bytes).ok()? {
            0 if body.len() > bytes_max => return None,
            0 => body,
            bytes if bytes > bytes_max.min(grown(&body)) => return None,
            bytes => {
                let message = self.unpacker.as_mut()?.decompress(&body, bytes).ok()?;
                (message.len() == bytes).then_some(message)?
            }
        };
        if dictionary && message.len() <= DICTIONARY_BYTES_MAX {
            // On failure the next message cannot be decoded, and the link is dropped.
            self.unpacker = Decompressor::with_dictionary(&message).ok();
        }
        Some(message)
    }

    /// Returns the message, or `None` if it is not wanted. To be called for all messages of a kind, in order.
    ///
    /// # Errors
    /// See [`Damaged`].
    pub fn take(
        &mut self,
        squeezed: Squeezed,
        bytes_max: usize,
        wanted: bool,
    ) -> Result<Option<Vec<u8>>, Damaged> {
        if wanted {
            self.unsqueeze(squeezed, bytes_max).map(Some).ok_or(Damaged)
        } else {
            self.skip(squeezed).then_some(None).ok_or(Damaged)
        }
    }

    /// Skips a message, but keeps it as the dictionary if it is one. Returns false if it is damaged.
    pub fn skip(&mut self, squeezed: Squeezed) -> bool {
        !squeezed.dictionary || self.unsqueeze(squeezed, DICTIONARY_BYTES_MAX).is_some()
    }
}

/// Returns the longest message that a body may decompress to.
fn grown(body: &[u8]) -> usize {
    body.len().saturating_mul(GROWTH_MAX).max(GROWN_BYTES_MIN)
}

impl std::fmt::Debug for Squeezer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Squeezer").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Unsqueezer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unsqueezer").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 16 << 20;

    fn spec(number: u32, noise: u32) -> Vec<u8> {
        let environment = (0..200_u32).map(|i| format!("NAME{i}={}\n", i.wrapping_mul(noise)));
        format!("walk {number} gcc -c file{number}.c\n{}", environment.collect::<String>()).into()
    }

    #[test]
    fn similar_specs_compress_well() {
        let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
        for (number, noise) in [(1, 7919), (2, 7919), (3, 7919), (4, 104_729), (5, 104_729)] {
            let spec = spec(number, noise);
            let squeezed = squeezer.squeeze(&spec);
            if [2, 3].contains(&number) {
                assert!(squeezed.body.len() < 100, "{}", squeezed.body.len());
            }
            assert_eq!(unsqueezer.unsqueeze(squeezed, MAX), Some(spec));
        }
    }

    #[test]
    fn specs_of_any_size_round_trip() {
        let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
        for bytes in [0, 1, 100_000, 3_000_000, 10, 1000, 2000, 1000] {
            let spec = vec![b'x'; bytes];
            assert_eq!(unsqueezer.unsqueeze(squeezer.squeeze(&spec), MAX), Some(spec));
        }
        let damaged = Squeezed { bytes: 10, dictionary: false, body: vec![1, 2, 3] };
        assert_eq!(unsqueezer.unsqueeze(damaged, MAX), None);
    }

    #[test]
    fn the_compression_ratio_is_bounded() {
        let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
        let first = squeezer.squeeze(&[b'x'; 1000]);
        assert!(unsqueezer.unsqueeze(first, MAX).is_some());
        let zeros = vec![0; 8 << 20];
        let honest = squeezer.squeeze(&zeros);
        assert_eq!(unsqueezer.unsqueeze(honest, MAX).as_ref(), Some(&zeros));
        let mut packer = Compressor::with_dictionary(LEVEL, &[b'x'; 1000]).expect("a compressor");
        let body = packer.compress(&zeros).expect("it fits");
        let bomb = Squeezed { bytes: 8 << 20, dictionary: false, body };
        assert_eq!(unsqueezer.unsqueeze(bomb, MAX), None);
        let long = Squeezed { bytes: 0, dictionary: false, body: zeros };
        assert_eq!(unsqueezer.unsqueeze(long, MAX / 4), None);
    }

    #[test]
    fn a_message_after_a_skipped_one_is_decoded() {
        let (mut squeezer, mut unsqueezer) = (Squeezer::default(), Unsqueezer::default());
        for (number, skipped) in (1..20).zip([true, false, true].into_iter().cycle()) {
            let spec = spec(number, 7919 + number / 3);
            let squeezed = squeezer.squeeze(&spec);
            if skipped {
                assert!(unsqueezer.skip(squeezed));
            } else {
                assert_eq!(unsqueezer.unsqueeze(squeezed, MAX), Some(spec));
            }
        }
    }
}
