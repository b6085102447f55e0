//! Finds the file of the session's first command, and decides whether it walks.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access, getegid, geteuid};
use worknode::command::{ROOM_BYTES, ResponseFiles, Unread};
use worknode::known;
use worknode::page::{LEAF, Page};
use worknode::policy::Verdict;
use worknode::reason::Reason;
use worknode::script::{self, DEPTH_MAX, LINE_BYTES, Line};

use crate::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure};
use crate::starts::may_start_others;

/// Finds the command's file as a shell does.
pub(crate) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let not_found = || {
        let why = if is_path(name) { "no such file" } else { "it is in no directory of PATH" };
        let failure =
            Failure::new(format!("failed to find the command '{}': {why}", name.display()))
                .status(EXIT_NOT_FOUND);
        match meant(name) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    };
    let denied = |file: &Path| {
        let file = file.display();
        Failure::new(format!("failed to execute {file}: permission denied"))
            .hint(format!("if it is a program, make it executable: chmod +x {file}"))
            .status(EXIT_NOT_EXECUTABLE)
    };
    if is_path(name) {
        let file = PathBuf::from(name);
        return match () {
            () if executable(&file) => Ok(file),
            () if file.exists() => Err(denied(&file)),
            () => Err(not_found()),
        };
    }
    let path = path.map_or_else(|| OsString::from("/usr/bin:/bin"), OsStr::to_owned);
    let candidates: Vec<_> =
        std::env::split_paths(&path)
            .filter(|_| !name.is_empty())
            .map(|dir| {
                if dir.as_os_str().is_empty() { Path::new(".").join(name) } else { dir.join(name) }
            })
            .filter(|file| file.is_file())
            .collect();
    match (candidates.iter().find(|file| executable(file)), candidates.first()) {
        (Some(file), _) => Ok(file.clone()),
        (None, Some(file)) => Err(denied(file)),
        (None, None) => Err(not_found()),
    }
}

/// Returns a hint for a word that is not a command: how to write what was probably meant.
fn meant(name: &OsStr) -> Option<String> {
    let name = name.to_str()?;
    let is_name = |text: &str| {
        text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
    };
    let of_shell = |letter: char| "|&;<>()$`".contains(letter);
    match name.split_once('=') {
        Some((variable, _)) if is_name(variable) => Some(format!(
            "use env to set a variable: oswalk exec env {name}{}",
            if name.contains(' ') { "" } else { " COMMAND" }
        )),
        _ if !name.trim().contains(char::is_whitespace) => None,
        _ if name.contains(of_shell) => {
            Some(format!("shell syntax needs a shell: oswalk exec sh -c '{name}'"))
        }
        _ => {
            Some(format!("give a command and its arguments as separate words: oswalk exec {name}"))
        }
    }
}

/// Tells whether a name is a path, which is not searched for along `PATH`.
fn is_path(name: &OsStr) -> bool {
    name.as_bytes().contains(&b'/')
}

fn executable(file: &Path) -> bool {
    file.is_file() && access(file, AccessFlags::X_OK).is_ok()
}

/// Shells that can be interactive.
const SHELLS: [&str; 7] = ["bash", "dash", "fish", "ksh", "sh", "tcsh", "zsh"];

/// Decides whether the command walks. A command that no rule names walks, unless it may start others,
/// on which the rules then decide. A shell stays, except an interactive one at a terminal: its user
/// wants a shell on a node.
pub(crate) fn decide(
    page: &Page<'_>,
    file: &Path,
    arguments: &[OsString],
    given: &Given,
) -> Result<(), Reason> {
    let open = page.gate() == worknode::page::GATE_OPEN;
    let words = arguments.iter().map(|argument| argument.as_bytes());
    let mut room = vec![0; ROOM_BYTES];
    let by_rule = page.decide(file.as_os_str().as_bytes(), words, &mut Disk, &mut room);
    let by_rule = in_volume(page, file).unwrap_or(by_rule);
    let by_rule = by_rule.and_then(|()| by_what_it_is(page, file, given));
    let is_leaf = given.pinned || page.options() & LEAF != 0;
    match by_rule {
        Ok(()) | Err(Reason::Unlisted) if changes_ids(file) => Err(Reason::Privileged),
        Err(Reason::Shell) if given.terminal && open && is_interactive_shell(file, arguments) => {
            Ok(())
        }
        Err(Reason::Unlisted)
            if open && !is_leaf && may_start_others(file, arguments, given.terminal) =>
        {
            Err(Reason::Driver)
        }
        Err(Reason::Unlisted) if open => talks_here(given),
        Err(Reason::Unlisted) => Err(Reason::NoCluster),
        decision => decision,
    }
}

/// The circumstances in which the command was given.
#[derive(Debug, Default)]
pub(crate) struct Given {
    /// Standard input is a terminal.
    pub(crate) terminal: bool,
    /// The command must walk.
    pub(crate) pinned: bool,
    /// The value of `LD_PRELOAD`.
    pub(crate) preload: OsString,
}

/// Decides by the kind of the file, as the preload library does: wrappers of compilers stay.
fn by_what_it_is(page: &Page<'_>, file: &Path, given: &Given) -> Result<(), Reason> {
    if page.verdict(file.as_os_str().as_bytes()).is_some_and(Verdict::compiles) {
        let is_script = head(file) == *b"#!";
        let wraps = || page.wraps(std::fs::canonicalize(file).ok()?.as_os_str().as_bytes());
        let reason = if is_script { Some(Reason::Wrapper) } else { wraps() };
        reason.map_or(Ok(()), Err)?;
    }
    talks_here(given)
}

/// Decides whether a program walks because its file lies below a mounted volume, as the preload library does.
fn in_volume(page: &Page<'_>, file: &Path) -> Option<Result<(), Reason>> {
    let head = page.has_volumes().then(|| head(file))?;
    let is_script = head == *b"#!";
    if !is_script && head != *b"\x7fE" {
        return None;
    }
    let real = std::fs::canonicalize(file).ok()?;
    match page.decide_in_volume(file.as_os_str().as_bytes(), real.as_os_str().as_bytes())? {
        Ok(()) if is_script => interpreted(page, file),
        decision => Some(decision),
    }
}

/// Decides whether a script in a volume walks, by all that interpret it. `None` if one of them cannot be executed.
fn interpreted(page: &Page<'_>, file: &Path) -> Option<Result<(), Reason>> {
    let mut file = file.to_owned();
    for _ in 0..DEPTH_MAX {
        let mut line = Vec::new();
        File::open(&file).ok()?.take(LINE_BYTES as u64).read_to_end(&mut line).ok()?;
        if !line.starts_with(b"#!") {
            return Some(Ok(()));
        }
        let Line { interpreter, argument } = script::read(&line)?;
        let path = line.get(interpreter)?;
        let Some(program) = script::program(path, argument.and_then(|at| line.get(at))) else {
            return Some(Err(Reason::Driver));
        };
        file = PathBuf::from(OsStr::from_bytes(path));
        if !executable(&file) {
            return None;
        }
        // A name that `env` finds is not followed: by that name it is known.
        let real = (program == path).then(|| std::fs::canonicalize(&file).ok()).flatten();
        let real = real.as_ref().map(|real| real.as_os_str().as_bytes());
        let names = [Some(program), real];
        if let Some(reason) = names.iter().flatten().find_map(|name| page.interprets_here(name)) {
            return Some(Err(reason));
        }
        if changes_ids(&file) {
            return Some(Err(Reason::Privileged));
        }
    }
    None
}

/// Returns the first two bytes of a file.
fn head(file: &Path) -> [u8; 2] {
    let mut head = [0; 2];
    match File::open(file).and_then(|mut file| file.read_exact(&mut head)) {
        Ok(()) => head,
        Err(_) => [0; 2],
    }
}

fn talks_here(given: &Given) -> Result<(), Reason> {
    if known::talks_here(given.preload.as_bytes()) { Err(Reason::ForeignPreload) } else { Ok(()) }
}

/// Response files, relative to the working directory.
struct Disk;

impl ResponseFiles for Disk {
    fn read(&mut self, path: &[u8], room: &mut [u8]) -> Result<usize, Unread> {
        // Opening a fifo would already let its writer continue.
        match std::fs::metadata(OsStr::from_bytes(path)) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => return Err(Unread::Refused),
            Err(_) => return Err(Unread::Absent),
        }
        let file = File::options()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open(OsStr::from_bytes(path))
            .map_err(|_| Unread::Absent)?;
        let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file);
        let size = metadata.and_then(|metadata| usize::try_from(metadata.len()).ok());
        let text = size.and_then(|size| room.get_mut(..size)).ok_or(Unread::Refused)?;
        (&file).read_exact(text).map_err(|_| Unread::Refused)?;
        Ok(text.len())
    }
}

/// Tells whether the file runs with another user's or group's rights, which no runner grants.
fn changes_ids(file: &Path) -> bool {
    const SET_USER: u32 = 0o4000;
    const SET_GROUP: u32 = 0o2010;
    std::fs::metadata(file).is_ok_and(|metadata| {
        let (mode, user, group) = (metadata.mode(), geteuid().as_raw(), getegid().as_raw());
        (mode & SET_USER != 0 && metadata.uid() != user)
            || (mode & SET_GROUP == SET_GROUP && metadata.gid() != group)
    })
}

/// Tells whether the command is a shell without a script or a command to run.
fn is_interactive_shell(file: &Path, arguments: &[OsString]) -> bool {
    let is_shell = SHELLS.iter().any(|&shell| file.file_name().is_some_and(|name| name == shell));
    let is_option = |word: &OsString| match word.as_bytes() {
        [b'-', b'-', _, ..] => true,
        [b'-', letters @ ..] => !letters.is_empty() && !letters.contains(&b'c'),
        _ => false,
    };
    is_shell && arguments.iter().all(is_option)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use worknode::page::{GATE_OPEN, GATE_SHUT, PageContents};

    fn page(gate: u32) -> Vec<u8> {
        contents(gate).encode()
    }

    fn contents(gate: u32) -> PageContents<'static> {
        PageContents {
            session: 1,
            options: 0,
            gate,
            page_path: b"/page",
            door_path: b"/door",
            stub_path: b"/stub",
            preload_path: b"/preload",
            rules: vec![
                (b"make".to_vec(), Verdict::Stay(Reason::Driver)),
                (b"gcc".to_vec(), Verdict::CompilerDriver),
                (b"bash".to_vec(), Verdict::Stay(Reason::Shell)),
            ],
            tally_bytes: 0,
        }
    }

    #[test]
    fn a_command_walks_unless_a_rule_keeps_it() {
        let open = page(GATE_OPEN);
        let open = Page::parse(&open).expect("a page");
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let decide = |page: &Page<'_>, file: &str, line: &str| {
            super::decide(page, Path::new(file), &words(line), &Given::default())
        };
        assert_eq!(decide(&open, "./my_program", ""), Ok(()));
        assert_eq!(decide(&open, "/usr/bin/make", "-j8"), Err(Reason::Driver));
        assert_eq!(decide(&open, "/usr/bin/gcc", "-c a.c"), Ok(()));
        assert_eq!(decide(&open, "/usr/bin/gcc", "a.o"), Err(Reason::Link));
        let talk = |line: &str| {
            super::decide(
                &open,
                Path::new("/bin/bash"),
                &words(line),
                &Given { terminal: true, ..Given::default() },
            )
        };
        assert_eq!(talk("--norc -i"), Ok(()));
        assert_eq!(talk("-c true"), Err(Reason::Shell));
        assert_eq!(talk("./build.sh"), Err(Reason::Shell));
        assert_eq!(decide(&open, "/bin/bash", ""), Err(Reason::Shell));
        let shut = page(GATE_SHUT);
        let shut = Page::parse(&shut).expect("a page");
        assert_eq!(decide(&shut, "./my_program", ""), Err(Reason::NoCluster));
    }

    #[test]
    fn commands_that_may_start_others_stay() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let script = dir.path().join("build");
        std::fs::write(&script, "#!/bin/sh\n").expect("write");
        let ninja = dir.path().join("my-ninja");
        std::fs::copy("/usr/bin/env", &ninja).expect("a copy");
        let compiler = dir.path().join("gcc");
        std::fs::write(&compiler, "#!/bin/sh\nexec /usr/bin/gcc \"$@\"\n").expect("write");
        let open = page(GATE_OPEN);
        let open = Page::parse(&open).expect("a page");
        let of = |file: &Path, words: &[&str], given: &Given| {
            let words: Vec<_> = words.iter().map(OsString::from).collect();
            super::decide(&open, file, &words, given)
        };
        let plain = Given::default();
        assert_eq!(of(&script, &[], &plain), Err(Reason::Driver));
        assert_eq!(of(&ninja, &[], &plain), Err(Reason::Driver));
        assert_eq!(of(Path::new("/usr/bin/perl"), &["-e", "1"], &plain), Err(Reason::Driver));
        assert_eq!(of(Path::new("/usr/bin/taskset"), &["1"], &plain), Err(Reason::Driver));
        assert_eq!(of(Path::new("/usr/bin/unshare"), &["-m"], &plain), Err(Reason::NeedsOrigin));
        assert_eq!(of(&compiler, &["-c", "a.c"], &plain), Err(Reason::Wrapper));
        let pinned = Given { pinned: true, ..Given::default() };
        assert_eq!(of(&script, &[], &pinned), Ok(()));
        let watched = Given { preload: "/usr/lib/bear/libexec.so".into(), ..Given::default() };
        assert_eq!(of(Path::new("./my_program"), &[], &watched), Err(Reason::ForeignPreload));
        let known = PageContents { options: LEAF, ..contents(GATE_OPEN) }.encode();
        let known = Page::parse(&known).expect("a page");
        assert_eq!(super::decide(&known, &script, &[], &plain), Ok(()));
    }

    #[test]
    fn scripts_below_a_volume_walk_unless_a_shell_reads_them() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let root = std::fs::canonicalize(dir.path()).expect("it is there");
        let mut contents = contents(GATE_OPEN);
        contents
            .rules
            .push((worknode::policy::below(root.as_os_str().as_bytes()), Verdict::Volume));
        let page = contents.encode();
        let page = Page::parse(&page).expect("a page");
        let count = std::cell::Cell::new(0);
        let script = |text: &str| {
            count.set(count.get() + 1);
            let file = root.join(format!("script{}", count.get()));
            std::fs::write(&file, text).expect("write");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("chmod");
            file
        };
        let of = |text: &str| in_volume(&page, &script(text));
        assert_eq!(of("#!/usr/bin/env python3\n"), Some(Ok(())));
        assert_eq!(of("#! /usr/bin/perl -w\n"), Some(Ok(())));
        assert_eq!(of("#!/bin/bash\n"), Some(Err(Reason::Shell)));
        assert_eq!(of("#!/usr/bin/env -S bash -e\n"), Some(Err(Reason::Shell)));
        assert_eq!(of("#!/usr/bin/env -u A perl\n"), Some(Err(Reason::Driver)));
        let perl = script("#!/usr/bin/perl\n");
        assert_eq!(of(&format!("#!{}\n", perl.display())), Some(Ok(())));
        let bash = script("#!/bin/bash\n");
        assert_eq!(of(&format!("#!{}\n", bash.display())), Some(Err(Reason::Shell)));
        let itself = script("");
        std::fs::write(&itself, format!("#!{}\n", itself.display())).expect("write");
        for missing in ["#!/nowhere\n", "#!/usr/bin/perl\r\n", "#!\n", "no script"] {
            assert_eq!(of(missing), None, "{missing:?}");
        }
        assert_eq!(in_volume(&page, &itself), None);
        assert_eq!(in_volume(&page, Path::new("/usr/bin/ldd")), None, "it is not in the volume");
    }

    #[test]
    fn a_word_that_is_no_command_gets_a_hint() {
        let meant = |name: &str| meant(name.as_ref()).unwrap_or_default();
        assert!(meant("make -j4").ends_with(": oswalk exec make -j4"));
        assert!(meant("FOO=1").ends_with(": oswalk exec env FOO=1 COMMAND"));
        assert!(meant("FOO=1 make").ends_with(": oswalk exec env FOO=1 make"));
        assert!(meant("cd a && make").ends_with(": oswalk exec sh -c 'cd a && make'"));
        for name in ["mkae", "", "./a=b", "=x", "1=2", " "] {
            assert_eq!(meant(name), "", "{name}");
        }
    }

    #[test]
    fn commands_are_found_as_a_shell_finds_them() {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let make = |name: &str, mode| {
            let file = dir.path().join(name);
            std::fs::create_dir_all(file.parent().expect("a parent")).expect("mkdir");
            std::fs::write(&file, "#!/bin/sh\n").expect("write");
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("chmod");
            file
        };
        make("a/tool", 0o644);
        let tool = make("b/tool", 0o755);
        let plain = make("a/plain", 0o644);
        let path = std::env::join_paths(["a", "b"].map(|d| dir.path().join(d))).expect("a path");
        let find = |name: &OsStr| find(name, Some(&path)).map_err(|failure| failure.exit_status());
        assert_eq!(find("tool".as_ref()), Ok(tool.clone()));
        assert_eq!(find(tool.as_os_str()), Ok(tool));
        assert_eq!(find("plain".as_ref()), Err(126));
        assert_eq!(find(plain.as_os_str()), Err(126));
        for missing in ["none", "./none", ""] {
            assert_eq!(find(missing.as_ref()), Err(127));
        }
    }
}
