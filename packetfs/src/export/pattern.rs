//! Users' patterns for hiding paths, with the syntax of policy rules. They match whole absolute paths: `*` any
//! bytes including `/`, `?` one byte, `[a-z]` one byte of a set.

use crate::path::Bytes;

/// Longest pattern, and most patterns. They are bounded because each path is matched against all of them.
pub const PATTERN_BYTES_MAX: usize = 1024;
pub const PATTERNS_MAX: usize = 256;

/// A compiled pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern {
    text: Bytes,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Run,
    One { negated: bool, ranges: Vec<(u8, u8)> },
}

impl Pattern {
    /// Compiles a pattern. Returns `None` if no absolute path could match it, or it is too long.
    pub(super) fn new(text: &[u8]) -> Option<Self> {
        let sound = matches!(text.first(), Some(b'/' | b'*')) && text.len() <= PATTERN_BYTES_MAX;
        let mut tokens = Vec::new();
        // A trailing slash makes no difference.
        let mut rest = text.strip_suffix(b"/").filter(|text| !text.is_empty()).unwrap_or(text);
        while let Some((&first, after)) = rest.split_first() {
            let (token, after) = match first {
                b'*' => (Token::Run, after),
                b'?' => (Token::One { negated: true, ranges: Vec::new() }, after),
                b'[' => set(after).unwrap_or((one(b'['), after)),
                byte => (one(byte), after),
            };
            tokens.push(token);
            rest = after;
        }
        sound.then(|| Self { text: text.to_vec(), tokens })
    }

    /// Tells whether it matches a path or one of its ancestors.
    pub(super) fn covers(&self, path: &[u8]) -> bool {
        let mut states = self.start();
        for &byte in path {
            if byte == b'/' && states[self.tokens.len()] {
                return true;
            }
            states = self.step(&states, byte);
        }
        states[self.tokens.len()]
    }

    /// Tells whether everything that it matches below `from` would also be matched below `to`.
    pub(super) fn survives(&self, from: &[u8], to: &[u8]) -> bool {
        let (from, to) = (self.behind(from), self.behind(to));
        from.iter().zip(to).all(|(&from, to)| !from || to)
    }

    /// Tells whether it may match something below a directory, judging by its literal prefix.
    pub(super) fn may_fit_below(&self, dir: &[u8]) -> bool {
        self.behind(dir).contains(&true)
    }

    /// Returns the automaton's states after a directory and a slash.
    fn behind(&self, dir: &[u8]) -> Vec<bool> {
        let dir = dir.strip_suffix(b"/").unwrap_or(dir);
        let bytes = dir.iter().chain(b"/");
        bytes.fold(self.start(), |states, &byte| self.step(&states, byte))
    }

    fn start(&self) -> Vec<bool> {
        let mut states = vec![false; self.tokens.len() + 1];
        states[0] = true;
        self.skip_runs(&mut states);
        states
    }

    fn step(&self, states: &[bool], byte: u8) -> Vec<bool> {
        let mut next = vec![false; states.len()];
        for (at, token) in self.tokens.iter().enumerate().filter(|&(at, _)| states[at]) {
            match token {
                Token::Run => next[at] = true,
                Token::One { negated, ranges } => {
                    let found = ranges.iter().any(|&(from, to)| (from..=to).contains(&byte));
                    next[at + 1] |= found != *negated;
                }
            }
        }
        self.skip_runs(&mut next);
        next
    }

    /// Adds the states after `*`, which may match nothing.
    fn skip_runs(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            states[at + 1] |= states[at] && *token == Token::Run;
        }
    }
}

fn one(byte: u8) -> Token {
    Token::One { negated: false, ranges: vec![(byte, byte)] }
}

/// Parses a set after its `[`. Returns `None` if its `]` is missing.
fn set(rest: &[u8]) -> Option<(Token, &[u8])> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let rest = &rest[usize::from(negated)..];
    let end = 1 + rest.get(1..)?.iter().position(|&byte| byte == b']')?;
    let (mut members, after) = (&rest[..end], &rest[end + 1..]);
    let mut ranges = Vec::new();
    loop {
        members = match members {
            [] => return Some((Token::One { negated, ranges }, after)),
            [from, b'-', to, others @ ..] => {
                ranges.push((*from, *to));
                others
            }
            [byte, others @ ..] => {
                ranges.push((*byte, *byte));
                others
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::new(text.as_bytes()).expect("a sound pattern")
    }

    #[test]
    fn paths_and_what_is_below_them() {
        for (text, path, expected) in [
            ("/srv/keys", "/srv/keys", true),
            ("/srv/keys", "/srv/keys/a/b", true),
            ("/srv/keys/", "/srv/keys", true),
            ("/srv/keys", "/srv/keys2", false),
            ("/srv/*.secret", "/srv/a/b.secret", true),
            ("*/vault", "/home/u/vault/x", true),
            ("*/vault", "/home/u/vaults/x", false),
            ("/home/[a-c]?/x", "/home/b1/x", true),
            ("/home/[!a-c]?/x", "/home/b1/x", false),
            ("/a[", "/a[", true),
            ("*", "/", true),
        ] {
            assert_eq!(pattern(text).covers(path.as_bytes()), expected, "{text} {path}");
        }
        assert!(Pattern::new(b"relative").is_none());
        assert!(Pattern::new(b"").is_none());
        assert!(Pattern::new(&[b'*'; PATTERN_BYTES_MAX + 1]).is_none());
    }

    #[test]
    fn directories_that_may_be_renamed() {
        for (text, from, to, expected) in [
            ("/srv/keys", "/srv", "/s", false),
            ("/srv/keys", "/home", "/h", true),
            ("*.secret", "/home/u", "/home/v", true),
            ("*/vault/x", "/home/u/vault", "/home/u/w", false),
            ("*/vault/x", "/home/u/vault", "/srv/vault", true),
            ("/home/*/vault", "/home/u", "/srv/u", false),
            ("/home/*/vault", "/home/u", "/home/v", true),
        ] {
            let pattern = pattern(text);
            assert_eq!(pattern.survives(from.as_bytes(), to.as_bytes()), expected, "{text} {from}");
        }
        assert!(pattern("/srv/keys").may_fit_below(b"/srv"));
        assert!(pattern("/srv/keys").may_fit_below(b"/"));
        assert!(!pattern("/srv/keys").may_fit_below(b"/home"));
    }
}
