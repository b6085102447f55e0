//! The options that concern files, one table per program, from its manual. An option that is not listed takes no
//! value from the next word; if its own value looks like a path, it is visited with [`super::Role::Unknown`].

pub(super) mod assemblers;
pub(super) mod drivers;
pub(super) mod family;
pub(super) mod proper;

use super::options::{Dialect, Opt};

/// Returns the tables of a dialect.
pub(super) fn of(dialect: Dialect) -> &'static [&'static [Opt]] {
    match dialect {
        Dialect::Driver => &[drivers::DRIVER, family::FAMILY],
        Dialect::Proper => &[proper::PROPER, family::FAMILY],
        Dialect::ClangProper => &[proper::CLANG_PROPER, family::FAMILY],
        Dialect::Gas => &[assemblers::GAS],
        Dialect::Nasm => &[assemblers::NASM],
        Dialect::Rustc => &[proper::RUSTC],
        Dialect::Nvcc => &[drivers::NVCC],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_sorted() {
        for table in [
            drivers::DRIVER,
            drivers::NVCC,
            family::FAMILY,
            proper::PROPER,
            proper::CLANG_PROPER,
            proper::RUSTC,
            assemblers::GAS,
            assemblers::NASM,
        ] {
            for pair in table.windows(2) {
                assert!(pair[0].name < pair[1].name, "{} before {}", pair[0].name, pair[1].name);
            }
        }
    }
}
