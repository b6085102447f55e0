//! What is to be executed for the session's first command, and whether it walks.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use worknode::page::Page;
use worknode::reason::Reason;

use crate::error::{EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND, Failure};

/// Finds the command as a shell does.
pub(crate) fn find(name: &OsStr, path: Option<&OsStr>) -> Result<PathBuf, Failure> {
    let not_found = || {
        Failure::new(format!("failed to find the command '{}'", name.display()))
            .status(EXIT_NOT_FOUND)
    };
    let denied = |file: &Path| {
        Failure::new(format!("failed to execute {}: permission denied", file.display()))
            .status(EXIT_NOT_EXECUTABLE)
    };
    if name.as_bytes().contains(&b'/') {
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

fn executable(file: &Path) -> bool {
    file.is_file() && access(file, AccessFlags::X_OK).is_ok()
}

/// Decides whether the command walks. One that was named on the command line does so unless a
/// rule is against it.
pub(crate) fn decide(page: &Page<'_>, file: &Path, arguments: &[OsString]) -> Result<(), Reason> {
    let arguments = arguments.iter().map(|argument| argument.as_bytes());
    match page.decide(file.as_os_str().as_bytes(), arguments) {
        Err(Reason::Unlisted) if page.gate() == worknode::page::GATE_OPEN => Ok(()),
        Err(Reason::Unlisted) => Err(Reason::NoCluster),
        decision => decision,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use worknode::page::{GATE_OPEN, GATE_SHUT, PageContents};
    use worknode::policy::Verdict;

    fn page(gate: u32) -> Vec<u8> {
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
            ],
            tally_bytes: 0,
        }
        .encode()
    }

    #[test]
    fn a_named_command_walks_unless_a_rule_is_against_it() {
        let open = page(GATE_OPEN);
        let open = Page::parse(&open).expect("a page");
        let words = |line: &str| line.split_whitespace().map(OsString::from).collect::<Vec<_>>();
        let decide = |page: &Page<'_>, file: &str, line: &str| {
            super::decide(page, Path::new(file), &words(line))
        };
        assert_eq!(decide(&open, "./my_program", ""), Ok(()));
        assert_eq!(decide(&open, "/usr/bin/make", "-j8"), Err(Reason::Driver));
        assert_eq!(decide(&open, "/usr/bin/gcc", "-c a.c"), Ok(()));
        assert_eq!(decide(&open, "/usr/bin/gcc", "a.o"), Err(Reason::Link));
        let shut = page(GATE_SHUT);
        let shut = Page::parse(&shut).expect("a page");
        assert_eq!(decide(&shut, "./my_program", ""), Err(Reason::NoCluster));
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
        let find = |name: &OsStr| find(name, Some(&path)).map_err(|failure| failure.report());
        assert_eq!(find("tool".as_ref()), Ok(tool.clone()));
        assert_eq!(find(tool.as_os_str()), Ok(tool));
        assert_eq!(find("plain".as_ref()), Err(std::process::ExitCode::from(126)));
        assert_eq!(find(plain.as_os_str()), Err(std::process::ExitCode::from(126)));
        for missing in ["none", "./none", ""] {
            assert_eq!(find(missing.as_ref()), Err(std::process::ExitCode::from(127)));
        }
    }
}
