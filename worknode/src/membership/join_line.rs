//! The line that a user pastes on a new node: where a node of the cluster answers, by which key it is known,
//! and a secret word that admits one node or a few.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64URL_NOPAD;
use serde::{Deserialize, Serialize};

use super::record::ClusterId;
use crate::key::Key;

/// The version of join lines.
pub const JOIN_LINE_VERSION: u8 = 1;

const SCHEME: &str = "oswalk://";
/// 128 bits, which cannot be guessed.
const WORD_BYTES: usize = 16;
/// A checksum, which detects a line that was pasted incompletely.
const CHECK_BYTES: usize = 4;

/// A line for one new node, or several.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinLine {
    /// Host and port of a node that may invite.
    pub address: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The key of the node at the address.
    pub host: Key,
    /// The secret word that admits a node.
    pub word: [u8; WORD_BYTES],
}

/// The text is not a join line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinLineError {
    /// It is something else.
    #[error(
        "this is no join line: one begins with '{SCHEME}' and is printed by 'oswalk cluster invite'"
    )]
    Other,
    /// A part is missing or altered.
    #[error("the join line is not whole: copy all of it, from '{SCHEME}' to its end")]
    Torn,
    /// It is from another version.
    #[error(
        "the join line is of version {0}, and this OS Walk reads version {JOIN_LINE_VERSION}: install the version of the \
         node that printed it"
    )]
    Version(u8),
}

/// What the line says behind the address.
#[derive(Serialize, Deserialize)]
struct Token {
    cluster: ClusterId,
    host: Key,
    word: [u8; WORD_BYTES],
}

impl fmt::Display for JoinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = Token { cluster: self.cluster, host: self.host, word: self.word };
        let token = postcard::to_allocvec(&token).expect("a vector takes any length");
        let token = [&[JOIN_LINE_VERSION], &token[..]].concat();
        let token = [&token[..], &check(&self.address, &token)].concat();
        write!(f, "{SCHEME}{}/{}", self.address, BASE64URL_NOPAD.encode(&token))
    }
}

/// The word is not shown.
impl fmt::Debug for JoinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinLine").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FromStr for JoinLine {
    type Err = JoinLineError;

    fn from_str(line: &str) -> Result<Self, JoinLineError> {
        let rest = line.trim().strip_prefix(SCHEME).ok_or(JoinLineError::Other)?;
        let (address, token) = rest.split_once('/').ok_or(JoinLineError::Torn)?;
        // It is shown to the user.
        if !address.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(JoinLineError::Torn);
        }
        let token = BASE64URL_NOPAD.decode(token.as_bytes()).map_err(|_| JoinLineError::Torn)?;
        let at = token.len().checked_sub(CHECK_BYTES).ok_or(JoinLineError::Torn)?;
        let (token, found) = token.split_at(at);
        if found != check(address, token) {
            return Err(JoinLineError::Torn);
        }
        match token.split_first() {
            Some((&JOIN_LINE_VERSION, token)) => {
                let Token { cluster, host, word } =
                    postcard::from_bytes(token).map_err(|_| JoinLineError::Torn)?;
                Ok(Self { address: address.to_owned(), cluster, host, word })
            }
            Some((&version, _)) => Err(JoinLineError::Version(version)),
            None => Err(JoinLineError::Torn),
        }
    }
}

fn check(address: &str, token: &[u8]) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new_derive_key("oswalk 2026 join line");
    hasher.update(address.as_bytes()).update(&[0]).update(token);
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hasher.finalize().as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> JoinLine {
        JoinLine {
            address: "hub:7700".to_owned(),
            cluster: ClusterId([1; 32]),
            host: Key([2; 32]),
            word: [3; 16],
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let text = line().to_string();
        assert!(text.starts_with("oswalk://hub:7700/") && text.len() < 160, "{text}");
        assert_eq!(text.parse(), Ok(line()));
        assert_eq!(format!("  {text}\n").parse(), Ok(line()), "as it was pasted");
        assert!(!format!("{:?}", line()).contains('3'), "the word is not logged");
    }

    #[test]
    fn a_line_that_is_not_whole_is_refused() {
        let text = line().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<JoinLine>().is_err(), "{end}");
        }
        for at in SCHEME.len()..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(bytes).expect("ASCII");
            assert_eq!(altered.parse::<JoinLine>(), Err(JoinLineError::Torn), "{at}");
        }
        assert_eq!("redis://hub:7700/".parse::<JoinLine>(), Err(JoinLineError::Other));
    }

    #[test]
    fn an_address_cannot_control_a_terminal() {
        let hostile = JoinLine { address: "hub\u{1b}[2J:1".to_owned(), ..line() };
        assert_eq!(hostile.to_string().parse::<JoinLine>(), Err(JoinLineError::Torn));
    }

    #[test]
    fn another_version_is_named() {
        let token = [&[9][..], &[0; 80]].concat();
        let token = [&token[..], &check("hub:1", &token)].concat();
        let text = format!("oswalk://hub:1/{}", BASE64URL_NOPAD.encode(&token));
        assert_eq!(text.parse::<JoinLine>(), Err(JoinLineError::Version(9)));
    }
}
