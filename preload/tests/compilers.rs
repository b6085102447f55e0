//! Programs named like compilers: their response files are read, and wrappers of compilers stay.
mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use common::{Recipe, Record, Session, programs};
use worknode::reason::Reason;

/// Runs a shell command in a directory that holds a compiler; returns who ran, and the tally.
fn run(command: &str, prepare: impl Fn(&Path)) -> (Option<String>, Vec<(String, Reason, u64)>) {
    let session = Session::new(&Recipe::default());
    let dir = session.directory.path().join("work");
    fs::create_dir(&dir).expect("a directory");
    fs::copy(programs().path("walker"), dir.join("x-gcc")).expect("a compiler");
    prepare(&dir);
    let mut shell = session.command("/bin/sh".as_ref());
    let output = shell.args(["-c", command]).current_dir(&dir).output().expect("the shell runs");
    (Record::of(&output).one("who="), session.tally())
}

fn stub() -> (Option<String>, Vec<(String, Reason, u64)>) {
    (Some("stub".to_owned()), Vec::new())
}

fn native(name: &str, reason: Reason) -> (Option<String>, Vec<(String, Reason, u64)>) {
    (Some("native".to_owned()), vec![(name.to_owned(), reason, 1)])
}

#[test]
fn response_files_are_part_of_the_command_line() {
    let args = |text: &'static str| {
        move |dir: &Path| {
            fs::write(dir.join("args"), text).expect("written");
            fs::write(dir.join("inner"), "-c a.c\n").expect("written");
        }
    };
    assert_eq!(run("./x-gcc @args", args("-c 'a b.c' -o a.o")), stub());
    assert_eq!(run("./x-gcc @args -o a.o", args("@inner")), stub());
    assert_eq!(run("./x-gcc @args", args("a.o -o a")), native("x-gcc", Reason::Link));
    assert_eq!(run("./x-gcc -c @args", args("-x c -")), native("x-gcc", Reason::Stdin));
    assert_eq!(run("./x-gcc -c @args", args("@args")), native("x-gcc", Reason::ResponseFile));
    assert_eq!(run("./x-gcc -c a.c @absent", args("")), stub());
}

#[test]
fn response_files_that_cannot_be_read_twice_are_not_read() {
    let fifo = |dir: &Path| {
        nix::unistd::mkfifo(&dir.join("args"), nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    };
    // Only the compiler may read what the writer puts into the fifo.
    let script = "(echo -c a.c >args) & ./x-gcc @args; cat args";
    assert_eq!(run(script, fifo).0, Some("native".to_owned()));
    let large = |dir: &Path| {
        let text = vec![b' '; worknode::command::ROOM_BYTES + 1];
        fs::write(dir.join("args"), text).expect("written");
    };
    assert_eq!(run("./x-gcc -c a.c @args", large), native("x-gcc", Reason::ResponseFile));
}

#[test]
fn standard_input_by_another_name_stays() {
    for name in ["/dev/stdin", "//dev/stdin", "/dev/./fd/0", "/proc/self/fd/0", "-"] {
        let command = format!("./x-gcc -x c -c {name} </dev/null");
        assert_eq!(run(&command, |_| ()), native("x-gcc", Reason::Stdin), "{name}");
    }
    assert_eq!(run("./x-gcc -c a.c -o /dev/null", |_| ()), stub());
}

#[test]
fn links_to_wrappers_are_wrappers() {
    let wrapper = |dir: &Path| {
        fs::rename(dir.join("x-gcc"), dir.join("ccache")).expect("renamed");
        symlink("ccache", dir.join("link")).expect("a link");
        symlink("link", dir.join("y-gcc")).expect("a link");
    };
    assert_eq!(run("./y-gcc -c a.c", wrapper), native("y-gcc", Reason::Wrapper));
    let compiler = |dir: &Path| symlink("x-gcc", dir.join("y-clang")).expect("a link");
    assert_eq!(run("./y-clang -c a.c", compiler), stub());
}

#[test]
fn scripts_named_like_compilers_are_wrappers() {
    let script = |dir: &Path| {
        let file = dir.join("y-gcc");
        fs::write(&file, "#!/bin/sh\nexec ./x-gcc \"$@\"\n").expect("written");
        fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("executable");
    };
    let (who, tally) = run("./y-gcc -c a.c", script);
    assert_eq!(who.as_deref(), Some("stub"), "the compiler that it executes walks");
    assert_eq!(tally, [("y-gcc".to_owned(), Reason::Wrapper, 1)]);
}

#[test]
fn programs_with_a_library_that_talks_to_the_origin_stay() {
    let library = |dir: &Path| {
        fs::copy(programs().path("foreign.so"), dir.join("libfakeroot.so")).expect("a copy");
    };
    let with = |name: &str| format!("LD_PRELOAD=$LD_PRELOAD:$PWD/{name} ./x-gcc -c a.c");
    let stays = native("x-gcc", Reason::ForeignPreload);
    assert_eq!(run(&with("libfakeroot.so"), library), stays);
    let other = |dir: &Path| {
        fs::copy(programs().path("foreign.so"), dir.join("libother.so")).expect("a copy");
    };
    assert_eq!(run(&with("libother.so"), other), stub());
}
