//! Text from other programs and machines, made safe to display: control characters are escaped, and long
//! text is truncated.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest text that is kept. Versions, processor names and error messages are shorter.
pub const SAID_BYTES_MAX: usize = 256;

/// Text from a peer, Redis or a file, safe to write to a log or a terminal.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Said(String);

impl Said {
    /// Escapes and truncates a text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(escape(text, SAID_BYTES_MAX))
    }

    /// Escapes and truncates bytes that should be text.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        // U+FFFD, which replaces invalid bytes, is three bytes long.
        let bytes = bytes.get(..SAID_BYTES_MAX + 4).unwrap_or(bytes);
        Self::new(&String::from_utf8_lossy(bytes))
    }

    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Said {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self::new(&text)
    }
}

impl From<Said> for String {
    fn from(said: Said) -> Self {
        said.0
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Returns a text of at most `bytes_max` bytes in which characters that control a terminal or end a line
/// are escaped. Escaping is idempotent.
#[must_use]
pub fn escape(text: &str, bytes_max: usize) -> String {
    const CUT: char = '…';
    let mut shown = String::with_capacity(text.len().min(bytes_max));
    for c in text.chars() {
        let before = shown.len();
        if is_harmless(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_default());
        }
        if shown.len() > bytes_max {
            shown.truncate(before);
            while shown.len() + CUT.len_utf8() > bytes_max && shown.pop().is_some() {}
            shown.push(CUT);
            break;
        }
    }
    shown
}

/// Tells whether a character may be shown: it is not a control character, is visible, and does not change
/// the text direction.
fn is_harmless(c: char) -> bool {
    let invisible = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_controls_are_escaped() {
        assert_eq!(Said::new("9\x1b[31m\nINFO forged").as_str(), "9\\u{1b}[31m\\nINFO forged");
        assert_eq!(Said::of_bytes(b"a\xffb\x07\x9b").as_str(), "a\u{fffd}b\\u{7}\u{fffd}");
        assert_eq!(Said::new("ü \u{9b}1m\u{202e}x").as_str(), "ü \\u{9b}1m\\u{202e}x");
    }

    #[test]
    fn long_text_is_truncated_once() {
        for unit in ["a", "ü", "\x1b", "…"] {
            let said = Said::new(&unit.repeat(1_000_000));
            assert!(said.as_str().len() <= SAID_BYTES_MAX && said.as_str().ends_with('…'));
            assert_eq!(Said::new(said.as_str()), said);
            let exact = unit.repeat(SAID_BYTES_MAX / unit.len());
            assert_eq!(Said::new(&Said::new(&exact).0), Said::new(&exact));
        }
        assert_eq!(Said::of_bytes(&[0xff; 1_000_000]), Said::of_bytes(&[0xff; 300]));
    }
}
