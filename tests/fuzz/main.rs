//! Hostile bytes for every decoder: arbitrary ones, and sound encodings that were damaged. None may
//! panic or take much more memory than it was given bytes, and what is encoded decodes to itself.
//!
//! Each test tries for two seconds. A failure names its seed; `OSWALK_SEED` repeats it.

mod bytes;
mod changes;
mod files;
mod frames;
mod memory;
mod texts;
mod trial;
mod walks;
