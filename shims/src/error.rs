//! The error that ends `oswalk`: a message, a hint and an exit status.

use std::error::Error;
use std::fmt;

/// `oswalk` itself failed, as with `env` and `timeout`.
pub(crate) const EXIT_FAILED: u8 = 125;
/// The command was found but cannot be executed.
pub(crate) const EXIT_NOT_EXECUTABLE: u8 = 126;
/// The command was not found.
pub(crate) const EXIT_NOT_FOUND: u8 = 127;

/// A failure that ends the program.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    status: u8,
}

impl Failure {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, status: EXIT_FAILED }
    }

    /// Makes a failure of an error and its chain of causes, each named once.
    pub(crate) fn from_error(error: &dyn Error) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message += &format!(": {text}");
            }
            cause = error.source();
        }
        Self::new(message)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn hint_text(&self) -> &str {
        self.hint.as_deref().unwrap_or_default()
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    pub(crate) fn status(self, status: u8) -> Self {
        Self { status, ..self }
    }

    pub(crate) fn exit_status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "oswalk: error: {}", self.message)?;
        self.hint.as_ref().map_or(Ok(()), |hint| write!(f, "\nhint: {hint}"))
    }
}
