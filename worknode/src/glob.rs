//! Matches byte strings against shell patterns (`*`, `?`, `[a-z]`) without allocation or recursion.

/// Tells whether `text` matches `pattern` as a whole.
///
/// `*` matches any run of bytes, `/` included; `[` without its `]` matches itself.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where to backtrack to: the position after the last `*`, and the end of the text that it matched.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match step(pattern, p, text[t]) {
            Step::Star => {
                star = Some((p + 1, t));
                p += 1;
            }
            Step::Next(after) => {
                p = after;
                t += 1;
            }
            Step::Mismatch => match star {
                Some((after, eaten)) => {
                    star = Some((after, eaten + 1));
                    p = after;
                    t = eaten + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

/// Why a pattern is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatternError {
    /// The pattern is empty, and matches no program.
    Empty,
    /// A `[` has no `]`. Only a final `[` is literal, because `[` is a program.
    Unclosed,
    /// A range is reversed.
    Backwards,
    /// The pattern contains a NUL.
    Nul,
}

impl core::fmt::Display for PatternError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Empty => "it is empty",
            Self::Unclosed => "'[' has no matching ']'",
            Self::Backwards => "a range in '[...]' is reversed",
            Self::Nul => "it contains a NUL",
        })
    }
}

impl core::error::Error for PatternError {}

/// Checks a user's pattern. Refuses one that [`matches`] would not interpret as the user meant it.
///
/// # Errors
/// Why the pattern is refused.
pub fn check(pattern: &[u8]) -> Result<(), PatternError> {
    if pattern.is_empty() {
        return Err(PatternError::Empty);
    }
    if pattern.contains(&0) {
        return Err(PatternError::Nul);
    }
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        if byte == b'[' && at < pattern.len() {
            let rest = &pattern[at..];
            let (_, used) = class(rest, 0).ok_or(PatternError::Unclosed)?;
            let members = &rest[usize::from(matches!(rest[0], b'!' | b'^'))..used - 1];
            let mut i = 0;
            while let Some(&first) = members.get(i) {
                match members.get(i + 1..i + 3) {
                    Some(&[b'-', last]) if last < first => return Err(PatternError::Backwards),
                    Some([b'-', _]) => i += 3,
                    _ => i += 1,
                }
            }
            at += used;
        }
    }
    Ok(())
}

enum Step {
    Star,
    Next(usize),
    Mismatch,
}

fn step(pattern: &[u8], at: usize, byte: u8) -> Step {
    match pattern.get(at) {
        None => Step::Mismatch,
        Some(b'*') => Step::Star,
        Some(b'?') => Step::Next(at + 1),
        Some(b'[') => match class(&pattern[at + 1..], byte) {
            Some((true, used)) => Step::Next(at + 1 + used),
            Some((false, _)) => Step::Mismatch,
            None if byte == b'[' => Step::Next(at + 1),
            None => Step::Mismatch,
        },
        Some(&literal) if literal == byte => Step::Next(at + 1),
        Some(_) => Step::Mismatch,
    }
}

/// Most bytes in a class, so that a match takes no longer than the lengths of pattern and text tell.
const CLASS_BYTES_MAX: usize = 128;

/// Returns whether `byte` is in the class that starts after `[`, and the length of the class including
/// its `]`. Returns `None` if no `]` follows soon.
fn class(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let end =
        start + 1 + rest.get(start + 1..)?.iter().take(CLASS_BYTES_MAX).position(|&b| b == b']')?;
    let members = &rest[start..end];
    let mut found = false;
    let mut i = 0;
    while i < members.len() {
        if i + 2 < members.len() && members[i + 1] == b'-' {
            found |= (members[i]..=members[i + 2]).contains(&byte);
            i += 3;
        } else {
            found |= members[i] == byte;
            i += 1;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::{PatternError, check, matches};

    #[test]
    fn malformed_patterns_are_refused() {
        for sound in [
            "gcc",
            "*",
            "[",
            "/usr/bin/[",
            "[a-z]x",
            "[!a-]",
            "[]]",
            "a[^]]",
            "[a-]",
            "]",
            "x[ab][",
        ] {
            assert_eq!(check(sound.as_bytes()), Ok(()), "{sound}");
        }
        for (broken, error) in [
            ("", PatternError::Empty),
            ("[a-", PatternError::Unclosed),
            ("gcc-[0-9", PatternError::Unclosed),
            ("[]", PatternError::Unclosed),
            ("[!]x", PatternError::Unclosed),
            ("[z-a]", PatternError::Backwards),
            ("[a-cz-x]", PatternError::Backwards),
            ("a\0b", PatternError::Nul),
        ] {
            assert_eq!(check(broken.as_bytes()), Err(error), "{broken}");
        }
    }

    #[test]
    fn literals_stars_and_classes() {
        for (pattern, text, expected) in [
            ("gcc", "gcc", true),
            ("gcc", "gcc-12", false),
            ("gcc-[0-9]*", "gcc-12", true),
            ("gcc-[0-9]*", "gcc-ar", false),
            ("*-gcc", "x86_64-linux-gnu-gcc", true),
            ("*-gcc", "gcc", false),
            ("a*b*c", "a--b--b--c", true),
            ("a*b*c", "a--b--b--d", false),
            ("?", "x", true),
            ("?", "", false),
            ("*", "", true),
            ("[!a-c]x", "dx", true),
            ("[!a-c]x", "bx", false),
            ("[", "[", true),
            ("/usr/*/cc", "/usr/local/bin/cc", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
