//! What programs beside the tests use, too.

pub mod tree;
