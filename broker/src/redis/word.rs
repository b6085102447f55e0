//! One thing that an agent says to the broker.

/// A word of the function `say` and its arguments.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) kind: &'static str,
    /// As many as the kind always has.
    pub(crate) arguments: Vec<String>,
}
