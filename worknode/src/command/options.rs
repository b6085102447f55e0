//! The form of the option tables, and the lookup in them.

use super::item::{Product, Role, Stage};
use crate::reason::Reason;

/// Where an option's value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// It takes none.
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
    /// The next word; the rest of this one is ignored.
    RestAndNext,
}

/// What an option means.
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
    /// Its value is `kind=path`, or `kind` alone, whose output has a derived name.
    FileBehind(Product),
    /// Its value is a comma-separated list of `kind` and `kind=path`.
    Emits,
    /// Where compilation stops.
    Stage(Stage),
    /// A further file is made.
    Makes(Product),
    /// The language of the sources that follow.
    Language,
    /// How the names of further outputs are formed.
    DumpBase,
    DumpExtension,
    DumpDir,
    /// The command stays.
    Stays(Reason),
    /// The command stays if the value is `native`.
    Processor,
    /// The value is an option of rustc's `-C` or `-Z`.
    Codegen,
    /// A module map file, or a module server on this machine.
    Mapper,
    /// A comma-separated list of words for another program.
    Words(Dialect),
    /// One word for another program.
    Word(Dialect),
    /// Ends the options: operands follow.
    End,
}

/// An option syntax.
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

/// Number of dialects.
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

    /// Tells whether `word` can be this option.
    fn fits(&self, word: &[u8]) -> bool {
        let Some(rest) = word.strip_prefix(self.name.as_bytes()) else { return false };
        match self.takes {
            Takes::Nothing | Takes::Next => rest.is_empty(),
            Takes::Rest | Takes::Either | Takes::Maybe | Takes::RestAndNext => true,
            Takes::Equals => rest.is_empty() || rest.starts_with(b"="),
        }
    }
}

/// Finds the option with the longest name that is a prefix of `word`, in tables sorted by name.
pub(super) fn find(tables: &[&'static [Opt]], word: &[u8]) -> Option<&'static Opt> {
    let found = tables.iter().filter_map(|table| find_in(table, word));
    found.max_by_key(|option| option.name.len())
}

fn find_in(mut table: &'static [Opt], word: &[u8]) -> Option<&'static Opt> {
    let mut prefix = word;
    loop {
        // The last name up to `prefix` is its longest prefix in the table, or the search goes on with
        // what the two have in common.
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
