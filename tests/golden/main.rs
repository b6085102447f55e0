//! Golden files: an example of every frame and message, byte by byte, as it travels in the present version.
//!
//! Each test encodes its examples and compares them with the files `WIRE/vVERSION/NAME.hex`, and decodes the files and
//! compares them with the examples. A kind of frame without an example does not compile, and an example without a file
//! fails. If a file differs, programs of the version before cannot read what this one writes: raise the version, and
//! write its files with `BLESS=1 cargo test -p oswalk-tests --test golden`. Files of a released version never change.

mod door;
mod file;
mod greeting;
mod holding;
mod joining;
mod link;
mod membership;
mod messages;
mod spec;
mod volumes;

/// Returns one example of each variant of an enum: `after` returns the one that follows another, first that after
/// `None`. A `match` in it names all variants.
fn each<T>(after: impl Fn(Option<&T>) -> Option<T>) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(next) = after(all.last()) {
        all.push(next);
    }
    all
}
