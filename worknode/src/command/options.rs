//! How options are written down, and how they are found.

use super::item::{Product, Role, Stage};
use crate::reason::Reason;

/// How an option gets its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// It has none.
    Nothing,
    /// The next word.
    Next,
    /// The rest of the word, which may be empty.
    Rest,
    /// The rest of the word, or the next word if that is empty.
    Either,
    /// What follows `=` in the word, or the next word.
    Equals,
    /// The rest of the word, or the next word if that is empty and no option follows.
    Maybe,
    /// The rest of the word is of no interest, and the next word is the value.
    RestAndNext,
}

/// What an option says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Says {
    /// Nothing about files.
    Nothing,
    /// Its value is a path.
    Path(Role),
    /// Its value is `path` or `kind=path`.
    PathBehind(Role),
    /// Its value is `kind`, or `kind=path`.
    OnlyBehind(Role),
    /// Its value is `kind=path`, or `kind`, which makes something with a name of its own.
    FileBehind(Product),
    /// Its value is a list of `kind` and `kind=path`.
    Emits,
    /// How far to go.
    Stage(Stage),
    /// Something is made besides.
    Makes(Product),
    /// The language of the sources that follow.
    Language,
    /// Where names of further outputs come from.
    DumpBase,
    DumpEnding,
    DumpDir,
    /// The command stays.
    Stays(Reason),
    /// The command stays if the value is `native`.
    Processor,
    /// An option of `-C` or `-Z` of rustc.
    Codegen,
    /// A file, or a server of modules on this machine.
    Mapper,
    /// A comma-separated list of words for another program.
    Words(Dialect),
    /// One word for another program.
    Word(Dialect),
    /// What follows are no options.
    End,
}

/// A language of options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Dialect {
    Driver = 0,
    Proper = 1,
    ClangProper = 2,
    Gas = 3,
    Nasm = 4,
    Rustc = 5,
    Nvcc = 6,
}

/// How many there are.
pub(super) const DIALECTS: usize = 7;

/// An option.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opt {
    pub(super) name: &'static str,
    pub(super) takes: Takes,
    pub(super) says: Says,
}

impl Opt {
    pub(super) const fn new(name: &'static str, takes: Takes, says: Says) -> Self {
        Self { name, takes, says }
    }

    /// Tells whether the option can be the one that `word` is.
    fn fits(&self, word: &[u8]) -> bool {
        let Some(rest) = word.strip_prefix(self.name.as_bytes()) else { return false };
        match self.takes {
            Takes::Nothing | Takes::Next => rest.is_empty(),
            Takes::Rest | Takes::Either | Takes::Maybe | Takes::RestAndNext => true,
            Takes::Equals => rest.is_empty() || rest.starts_with(b"="),
        }
    }
}

/// Finds the option with the longest name that `word` begins with, in tables that are sorted by name.
pub(super) fn find(tables: &[&'static [Opt]], word: &[u8]) -> Option<&'static Opt> {
    let found = tables.iter().filter_map(|table| find_in(table, word));
    found.max_by_key(|option| option.name.len())
}

fn find_in(mut table: &'static [Opt], word: &[u8]) -> Option<&'static Opt> {
    let mut prefix = word;
    loop {
        // Of the names up to `prefix`, the last is its longest prefix, or shares less with it.
        let end = table.partition_point(|option| option.name.as_bytes() <= prefix);
        table = &table[..end];
        let last = table.last()?;
        let name = last.name.as_bytes();
        if prefix.starts_with(name) {
            if last.fits(word) {
                return Some(last);
            }
            table = &table[..end - 1];
        } else {
            let shared = name.iter().zip(prefix).take_while(|(a, b)| a == b).count();
            prefix = &prefix[..shared];
        }
    }
}
