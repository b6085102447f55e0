//! A word: one command of an agent to the broker.

/// A word of the function `say` and its arguments.
#[derive(Debug)]
pub(crate) struct Word {
    pub(crate) kind: &'static str,
    /// The arguments; their number is fixed for each kind.
    pub(crate) arguments: Vec<String>,
}
