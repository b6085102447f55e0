//! The kind of the file decides before the rules do: programs that cannot load the library, change
//! ids, have no path, or cannot be executed.
mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use common::{Recipe, Record, Session, programs, shims};
use worknode::reason::Reason;

fn session() -> Session {
    Session::new(&Recipe::default())
}

#[test]
fn static_programs_walk_by_rule() {
    let record = session().drive("execve", "static-walker");
    assert_eq!(record.one("who=").as_deref(), Some("stub"));
}

#[test]
fn programs_that_execute_nothing_do_not_load_the_library() {
    let session = session();
    let mut command = session.command("/bin/sh".as_ref());
    command
        .args(["-c", "cat /proc/self/maps; cp /proc/self/environ there; sed 1q /proc/self/maps"]);
    command.current_dir(session.directory.path());
    let output = command.output().expect("the shell runs");
    assert!(output.status.success(), "{output:?}");
    let maps = String::from_utf8_lossy(&output.stdout);
    assert!(!maps.contains("liboswalk_preload"), "{maps}");
    let environment = fs::read(session.directory.path().join("there")).expect("a copy");
    assert!(!String::from_utf8_lossy(&environment).contains("liboswalk_preload"));
    let unlisted = |name: &str| (name.to_owned(), Reason::Unlisted, 1);
    assert_eq!(session.tally(), ["cat", "cp", "sed"].map(unlisted));
}

#[test]
fn programs_of_other_c_libraries_stay_without_the_library() {
    let session = session();
    for how in ["execve", "private"] {
        let record = session.drive(how, "musl-walker");
        assert_eq!(record.one("who=").as_deref(), Some("native"), "{record:?}");
        assert_eq!(record.one("env=LD_PRELOAD="), None);
        assert!(record.stderr.is_empty());
    }
    let mut command = session.command(&programs().path("driver"));
    let foreign = programs().path("foreign.so").display().to_string();
    command.env("LD_PRELOAD", format!("{}:{foreign}", shims().preload.display()));
    command.arg("execve").arg(programs().path("musl-walker")).arg("musl-walker");
    let record = Record::of(&command.output().expect("the driver runs"));
    assert_eq!(record.one("env=LD_PRELOAD="), Some(foreign));
    assert_eq!(session.tally(), [("musl-walker".into(), Reason::Foreign, 3)]);
}

#[test]
fn programs_of_other_architectures_stay() {
    let session = session();
    let mut elf = fs::read(programs().path("walker")).expect("the walker");
    // Changes the machine in the ELF header to AArch64.
    elf[18] = 183;
    let other = session.directory.path().join("other-walker");
    write_executable(&other, &elf);
    assert_eq!(drive(&session, "execve", &other).one("errno=").as_deref(), Some("8"));
    assert_eq!(session.tally(), [("other-walker".into(), Reason::Foreign, 1)]);
}

#[test]
fn privileged_programs_stay() {
    let session = session();
    let program = session.directory.path().join("set-walker");
    fs::copy(programs().path("walker"), &program).expect("a copy");
    // Only root can give a file away, and so make a program that changes ids.
    if std::os::unix::fs::chown(&program, Some(65_534), None).is_err() {
        return;
    }
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("the mode is set");
    drive(&session, "execve", &program);
    assert_eq!(session.tally(), [("set-walker".into(), Reason::Privileged, 1)]);
}

#[test]
fn files_without_a_path_stay() {
    let session = session();
    let record = session.drive("fexecve_memory", "walker");
    assert_eq!(record.one("who=").as_deref(), Some("native"), "{record:?}");
    assert_eq!(session.tally(), [("zero".into(), Reason::Descriptor, 1)]);
}

#[test]
fn what_fails_natively_fails_alike_and_is_not_counted() {
    let session = session();
    let plain = session.directory.path().join("plain-walker");
    fs::write(&plain, "no program").expect("a file");
    let directory = session.directory.path().join("directory-walker");
    fs::create_dir(&directory).expect("a directory");
    let missing = session.directory.path().join("missing-walker");
    for program in [&plain, &directory, &missing] {
        for how in ["execve", "execv", "execl", "execveat", "posix_spawn", "syscall", "null_path"] {
            let (ours, native) = (drive(&session, how, program), native(how, program));
            assert_eq!(ours.lines, native.lines, "{how} {}", program.display());
        }
    }
    for how in ["execvp", "execlp", "posix_spawnp", "execvpe"] {
        let name = std::path::Path::new("missing-walker");
        assert_eq!(drive(&session, how, name).lines, native(how, name).lines, "{how}");
    }
    let record = session.drive("execveat_check", "walker");
    assert_eq!(record.one("errno=").as_deref(), Some("22"));
    assert_eq!(session.tally(), []);
}

#[test]
fn scripts_without_a_first_line_go_to_the_shell() {
    let session = session();
    let script = session.directory.path().join("script-walker");
    write_executable(&script, b"echo who=script $1\n");
    for how in ["execvp", "posix_spawnp"] {
        let (ours, native) = (drive(&session, how, &script), native(how, &script));
        assert_eq!(ours.lines, native.lines, "{how}");
    }
    assert_eq!(drive(&session, "execve", &script).one("errno=").as_deref(), Some("8"));
}

#[test]
fn scripts_with_a_first_line_walk() {
    let session = session();
    let script = session.directory.path().join("script-walker");
    write_executable(&script, b"#!/bin/sh\n");
    let record = drive(&session, "execve", &script);
    assert_eq!(record.one("who=").as_deref(), Some("stub"));
}

#[test]
fn scripts_whose_interpreter_the_kernel_does_not_find_fail_alike() {
    let session = session();
    let script = session.directory.path().join("script-walker");
    for line in ["#!/bin/sh\r\n", "#!/nowhere/sh\n", "#! \n"] {
        write_executable(&script, line.as_bytes());
        let (ours, native) = (drive(&session, "execve", &script), native("execve", &script));
        assert_eq!(ours.lines, native.lines, "{line:?}");
    }
}

fn drive(session: &Session, how: &str, program: &std::path::Path) -> Record {
    let mut command = session.command(&programs().path("driver"));
    command.arg(how).args([program, program]);
    Record::of(&command.output().expect("the driver runs"))
}

fn native(how: &str, program: &std::path::Path) -> Record {
    let mut command = std::process::Command::new(programs().path("driver"));
    command.env_clear().env("HOME", "/root").arg(how).args([program, program]);
    Record::of(&command.output().expect("the driver runs"))
}

fn write_executable(path: &std::path::Path, contents: &[u8]) {
    fs::write(path, contents).expect("a file");
    fs::set_permissions(path, Permissions::from_mode(0o755)).expect("the mode is set");
}
