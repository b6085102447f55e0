//! `oswalk-compare`: the files of two builds, compared as the system tests compare them. Of their times it looks
//! only at those that a program has set, since `make -j` does not build in the same order twice.
#![expect(clippy::print_stdout, reason = "a program of the scripts: differences are its output")]
#![expect(clippy::print_stderr, reason = "a program of the scripts: what failed is a message")]

use std::ffi::OsStr;
use std::path::Path;
use std::process::ExitCode;

use oswalk_tests::tree::{Before, Tree};

const USAGE: &str = "usage: oswalk-compare NATIVE-DIR WALKED-DIR";

fn main() -> ExitCode {
    let directories: Vec<_> = std::env::args_os().skip(1).collect();
    match compare(&directories) {
        Ok(differences) if differences.is_empty() => ExitCode::SUCCESS,
        Ok(differences) => {
            println!("{}", differences.join("\n"));
            ExitCode::FAILURE
        }
        Err(message) => {
            eprintln!("oswalk-compare: {message}");
            ExitCode::from(2)
        }
    }
}

fn compare(directories: &[impl AsRef<OsStr>]) -> Result<Vec<String>, String> {
    let [native, walked] = directories else { return Err(USAGE.into()) };
    let tree = |dir| Tree::of(Path::new(dir), &Before::default());
    Ok(tree(native)?.different_files(&tree(walked)?))
}
