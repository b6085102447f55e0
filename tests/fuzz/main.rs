//! Hostile bytes for every decoder: random ones, and valid encodings that were damaged. No decoder may
//! panic, or allocate much more than the size of its input, and every value decodes to itself.
//!
//! Each test runs for two seconds, or for a number of values. A failure prints its seed; `OSWALK_SEED` repeats it.

mod bytes;
mod changes;
mod files;
mod frames;
mod membership;
mod memory;
mod texts;
mod tokens;
mod trial;
mod walks;
