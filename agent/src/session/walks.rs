//! The walks of a session for its report: a bounded list, and sums over all of them.

use worknode::report::WalkLine;

/// Most walks in a report, which must fit into one reply. Nobody reads a longer one.
const WALKS_MAX: usize = 100_000;
/// Most bytes of their texts, which may be long. JSON may encode a byte as six.
const TEXT_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Most words of a command line, and most bytes of them: more than most compile steps have.
const WORDS_MAX: usize = 64;
const WORD_BYTES_MAX: usize = 4096;

/// The walks of a session.
#[derive(Debug, Clone, Default)]
pub(super) struct Walks {
    pub(super) lines: Vec<WalkLine>,
    /// Number of walks that are left out.
    pub(super) left_out: u64,
    pub(super) origin_cpu_ms: f64,
    pub(super) runner_cpu_ms: f64,
    text_bytes: usize,
}

impl Walks {
    /// Adds a walk. Its figures count even if it is left out.
    pub(super) fn add(&mut self, line: WalkLine) {
        self.origin_cpu_ms += line.origin_cpu_ms;
        self.runner_cpu_ms += line.runner_cpu_ms;
        let text_bytes = self.text_bytes + text_bytes(&line);
        if self.lines.len() < WALKS_MAX && text_bytes <= TEXT_BYTES_MAX {
            self.text_bytes = text_bytes;
            self.lines.push(line);
        } else {
            self.left_out += 1;
        }
    }

    /// Returns the number of all walks.
    pub(super) fn count(&self) -> u64 {
        self.lines.len() as u64 + self.left_out
    }
}

fn text_bytes(line: &WalkLine) -> usize {
    let one = [&line.argv0, &line.cwd, &line.runner].map(String::len);
    let lists = line.argv.iter().chain(&line.output).chain(&line.overwrote).map(String::len);
    one.into_iter().chain(lists).sum()
}

/// Returns a command line for a report: the words that fit, how many were left out or truncated, and whether some
/// are not UTF-8.
pub(crate) fn argv<'a>(words: impl Iterator<Item = &'a [u8]>) -> (Vec<String>, u64, bool) {
    let (mut shown, mut room, mut left_out, mut is_lossy) = (Vec::new(), WORD_BYTES_MAX, 0, false);
    for word in words {
        if shown.len() == WORDS_MAX || room == 0 {
            left_out += 1;
            continue;
        }
        let part = &word[..word.len().min(room)];
        left_out += u64::from(part.len() < word.len());
        room -= part.len();
        let text = String::from_utf8_lossy(part);
        is_lossy |= std::str::from_utf8(word).is_err();
        shown.push(text.into_owned());
    }
    (shown, left_out, is_lossy)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(words: &[&str]) -> WalkLine {
        let (argv, ..) = argv(words.iter().map(|word| word.as_bytes()));
        WalkLine { argv, runner_cpu_ms: 2.0, ..WalkLine::default() }
    }

    #[test]
    fn a_long_command_line_is_truncated_and_marked() {
        let shown = |words: &[&[u8]]| argv(words.iter().copied());
        assert_eq!(
            shown(&[b"cc", b"", b"-c"]),
            (vec!["cc".into(), String::new(), "-c".into()], 0, false)
        );
        assert_eq!(shown(&[b"a\xffb"]), (vec!["a\u{fffd}b".into()], 0, true));
        let (words, left_out, _) = shown(&[b"x".as_slice(); 100]);
        assert_eq!((words.len(), left_out), (WORDS_MAX, 100 - WORDS_MAX as u64));
        let long = vec![b'x'; 3000];
        let (words, left_out, is_lossy) = shown(&[&long, &long, &long]);
        assert_eq!(words.iter().map(String::len).collect::<Vec<_>>(), [3000, 1096]);
        assert_eq!((left_out, is_lossy), (2, false));
    }

    #[test]
    fn the_sum_of_nothing_is_not_negative() {
        let Walks { origin_cpu_ms, runner_cpu_ms, .. } = Walks::default();
        assert!(origin_cpu_ms.is_sign_positive() && runner_cpu_ms.is_sign_positive());
    }

    #[test]
    fn walks_without_room_are_counted() {
        let mut walks = Walks::default();
        let long = "x".repeat(WORD_BYTES_MAX);
        let fit = TEXT_BYTES_MAX / WORD_BYTES_MAX;
        (0..fit + 3).for_each(|_| walks.add(line(&[&long])));
        assert_eq!((walks.lines.len(), walks.left_out), (fit, 3));
        let mut walks = Walks::default();
        (0..WALKS_MAX + 5)
            .for_each(|_| walks.add(WalkLine { runner_cpu_ms: 1.0, ..WalkLine::default() }));
        assert_eq!((walks.lines.len(), walks.left_out), (WALKS_MAX, 5));
        assert_eq!(walks.count(), WALKS_MAX as u64 + 5);
        assert!((walks.runner_cpu_ms - walks.count() as f64).abs() < 1e-6);
    }
}
