//! Response files (`gcc @file`). Their text is unquoted in place, without allocation.

/// Most bytes of all response files of one command line. Those of compile steps hold options, a few
/// kilobytes; only link steps come near the kernel's limit of two megabytes.
pub const ROOM_BYTES: usize = 256 * 1024;
/// Deepest nesting of response files.
pub(super) const DEPTH_MAX: usize = 8;

/// Why a response file cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// It does not exist or is not readable: compilers then take the word literally.
    Absent,
    /// It is not a regular file, is larger than the room, or reading it failed.
    Refused,
}

/// Reads response files by names relative to the command's working directory.
pub trait ResponseFiles {
    /// Reads a whole regular file into `room`, and returns its size. It must not block, nor open
    /// anything that notices being opened (a fifo).
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread>;
}

/// Refuses every file.
#[derive(Debug)]
pub struct NoFiles;

impl ResponseFiles for NoFiles {
    fn read(&mut self, _path: &[u8], _room: &mut [u8]) -> Result<usize, Unread> {
        Err(Unread::Refused)
    }
}

/// How a file is split into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// At white space, with the quotes and backslashes of `expandargv` and clang.
    Gnu,
    /// One word per line.
    Lines,
}

/// Takes the next word from `text`, unquoted in place.
pub(super) fn next_word<'a>(text: &mut &'a mut [u8], quoting: Quoting) -> Option<&'a [u8]> {
    let bytes = core::mem::take(text);
    let (word, rest) = match quoting {
        Quoting::Gnu => gnu_word(bytes),
        Quoting::Lines => line(bytes),
    }?;
    *text = rest;
    Some(word)
}

fn line(bytes: &mut [u8]) -> Option<(&[u8], &mut [u8])> {
    if bytes.is_empty() {
        return None;
    }
    let end = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
    let (word, rest) = bytes.split_at_mut(end);
    let rest = rest.split_first_mut().map_or(&mut [][..], |(_, rest)| rest);
    let word: &[u8] = word;
    Some((word.strip_suffix(b"\r").unwrap_or(word), rest))
}

fn gnu_word(bytes: &mut [u8]) -> Option<(&[u8], &mut [u8])> {
    let start = bytes.iter().position(|&byte| !is_space(byte))?;
    let (mut read, mut written) = (start, start);
    let mut quote = None;
    while let Some(&byte) = bytes.get(read) {
        let escaped = (byte == b'\\').then(|| bytes.get(read + 1).copied()).flatten();
        match (escaped, quote) {
            (Some(next), _) => {
                bytes[written] = next;
                written += 1;
                read += 1;
            }
            (None, None) if is_space(byte) => break,
            (None, None) if byte == b'"' || byte == b'\'' => quote = Some(byte),
            (None, Some(open)) if byte == open => quote = None,
            _ => {
                bytes[written] = byte;
                written += 1;
            }
        }
        read += 1;
    }
    let (word, rest) = bytes.split_at_mut(read);
    Some((&word[start..written], rest))
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str, quoting: Quoting) -> Vec<String> {
        let mut bytes = text.as_bytes().to_vec();
        let mut rest = bytes.as_mut_slice();
        core::iter::from_fn(|| next_word(&mut rest, quoting))
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect()
    }

    #[test]
    fn words_as_gcc_has_them() {
        for (text, expected) in [
            ("", &[][..]),
            (" \n\t", &[]),
            ("-c a.c\n", &["-c", "a.c"]),
            ("-c\r\n'a b.c' \"c d\"e", &["-c", "a b.c", "c de"]),
            (r"a\ b \'c 'd\'e' \\", &["a b", "'c", "d'e", r"\"]),
            ("'' x", &["", "x"]),
            ("'open end", &["open end"]),
            ("end\\", &["end\\"]),
        ] {
            assert_eq!(words(text, Quoting::Gnu), expected, "{text:?}");
        }
    }

    #[test]
    fn words_as_rustc_has_them() {
        assert_eq!(words("--cfg\nx y\r\n\n'z'", Quoting::Lines), ["--cfg", "x y", "", "'z'"]);
    }
}
