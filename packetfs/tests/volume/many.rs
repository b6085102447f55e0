//! Programs that use many files at once do not use up what the agent has.

use std::fs::{self, File};
use std::io;

use super::mounted::Mounted;

/// Descriptors of the process that serves the mount, and many more files than that.
const DESCRIPTORS: u64 = 256;
const FILES: u64 = 3000;

#[test]
fn many_files_are_written_with_few_descriptors() {
    let scratch = tempfile::tempdir().expect("a directory");
    let root = scratch.path().join("mount");
    let mut mounted = Mounted::prepared(&scratch.path().join("store"), &root, true);
    mounted.files = Some(DESCRIPTORS);
    mounted.start();
    for number in 0..FILES {
        fs::write(root.join(number.to_string()), number.to_string()).expect("there is room");
    }
    mounted.kill();
    mounted.start();
    for number in 0..FILES {
        let found = fs::read_to_string(root.join(number.to_string())).expect("it was written");
        assert_eq!(found, number.to_string());
    }
    let open: Vec<io::Result<File>> =
        (0..DESCRIPTORS).map(|number| File::create(root.join(format!("open{number}")))).collect();
    let refused = open.iter().filter_map(|file| file.as_ref().err()).next();
    let refused = refused.and_then(io::Error::raw_os_error);
    assert_eq!(refused, Some(libc::ENFILE));
    assert_eq!(fs::read_to_string(root.join("0")).expect("it was written"), "0");
    drop(open);
    fs::write(root.join("after"), "after").expect("there is room again");
    mounted.stop();
}
