//! Every function that executes a program executes the stub, with the same arguments, if the rules say
//! walk, and behaves natively if they do not.
mod common;

use std::path::Path;

use common::{Recipe, Record, Session, programs, shims};
use worknode::page::GATE_SHUT;
use worknode::reason::Reason;

const ARGUMENTS: [&[u8]; 8] = [b"zero", b"one", b"t w o", b"\xff\xfe", b"5", b"6", b"7", b""];

/// Functions that pass the driver's own environment on.
const WITH_ENVIRON: [&str; 17] = [
    "execve",
    "execv",
    "execvp",
    "execl",
    "execlp",
    "execveat",
    "execveat_relative",
    "execveat_empty",
    "fexecve",
    "posix_spawn",
    "spawn_actions",
    "syscall",
    "syscall_at",
    "thread",
    // Repeated, to show that a second run in the session behaves the same.
    "execve",
    "execvp",
    "posix_spawn",
];
/// Functions that the driver gives an environment without the session's variables.
const WITH_PRIVATE: [&str; 5] = ["execvpe", "execle", "posix_spawnp", "vfork", "private"];

fn session() -> Session {
    Session::new(&Recipe::default())
}

fn path(program: &str) -> String {
    programs().path(program).display().to_string()
}

fn assert_in_session(record: &Record, session: &Session) {
    assert_eq!(record.one("env=LD_PRELOAD="), Some(shims().preload.display().to_string()));
    assert_eq!(record.one("env=OSWALK_PAGE="), Some(session.page.display().to_string()));
}

#[test]
fn every_function_walks() {
    let session = session();
    for how in WITH_ENVIRON.iter().chain(&WITH_PRIVATE) {
        let record = session.drive(how, "walker");
        assert_eq!(record.one("who=").as_deref(), Some("stub"), "{how}: {record:?}");
        assert_eq!(record.all("arg="), ARGUMENTS, "{how}");
        assert_eq!(record.one("env=OSWALK_WALK="), Some(path("walker")), "{how}");
        assert_in_session(&record, &session);
        assert_eq!(record.code, Some(42), "{how}");
        assert!(record.stderr.is_empty(), "{how}: {record:?}");
    }
    assert_eq!(session.tally(), []);
}

#[test]
fn every_function_stays() {
    let session = session();
    for how in WITH_ENVIRON.iter().chain(&WITH_PRIVATE) {
        let record = session.drive(how, "stayer");
        assert_eq!(record.one("who=").as_deref(), Some("native"), "{how}: {record:?}");
        assert_eq!(record.all("arg="), ARGUMENTS, "{how}");
        assert_eq!(record.one("env=OSWALK_WALK="), None, "{how}");
        if WITH_ENVIRON.contains(how) {
            assert_in_session(&record, &session);
        } else {
            // The environment that its parent made.
            assert_eq!(record.all("env="), [b"X=1".as_slice(), b"NOT\xff=utf8"], "{how}");
        }
        assert!(record.stderr.is_empty(), "{how}: {record:?}");
    }
    let calls = u64::try_from(WITH_ENVIRON.len() + WITH_PRIVATE.len()).expect("a few");
    assert_eq!(session.tally(), [("stayer".into(), Reason::Unlisted, calls)]);
}

#[test]
fn private_environments_keep_what_they_have() {
    let record = session().drive("private", "walker");
    assert_eq!(record.one("env=X=").as_deref(), Some("1"));
    assert_eq!(record.all("env=NOT"), [b"\xff=utf8"]);
    let record = session().drive("private", "stayer");
    assert_eq!(record.all("env="), [b"X=1".as_slice(), b"NOT\xff=utf8"]);
}

#[test]
fn foreign_preloads_stay_in_the_list_and_in_the_chain() {
    let session = session();
    let foreign = path("foreign.so");
    for program in ["walker", "stayer"] {
        let mut command = session.command(&programs().path("driver"));
        command.env("FOREIGN", format!("LD_PRELOAD={foreign}"));
        command.args(["foreign", &path(program), program]);
        let record = Record::of(&command.output().expect("the driver runs"));
        // The stub is static and sees the added variables; the library hides them from the program.
        let expected = match program {
            "walker" => format!("{}:{foreign}", shims().preload.display()),
            _ => foreign.clone(),
        };
        assert_eq!(record.one("env=LD_PRELOAD="), Some(expected));
        let expected: &[&[u8]] = &[b"A=1", b"LD_PRELOAD="];
        assert!(
            record.all("env=")[1].starts_with(expected[1]) && record.all("env=")[0] == expected[0]
        );

        let mut command = session.command(&programs().path("driver"));
        command.env("LD_PRELOAD", format!("{}:{foreign}", shims().preload.display()));
        command.args(["execve", &path(program), program]);
        let record = Record::of(&command.output().expect("the driver runs"));
        assert_eq!(record.all("foreign").len(), 1, "{record:?}");
        assert_eq!(record.all("arg="), ARGUMENTS);
    }
}

#[test]
fn shells_of_libc_belong_to_the_session() {
    for how in ["system", "popen", "system_scrubbed", "popen_scrubbed"] {
        let session = session();
        let record = session.drive(how, "walker");
        assert_eq!(record.one("who=").as_deref(), Some("stub"), "{how}: {record:?}");
        let scrubbed = how == "system_scrubbed";
        let last: &[u8] = if scrubbed { b"it's" } else { b"" };
        let name = path("walker");
        assert_eq!(record.all("arg="), [name.as_bytes(), b"one", b"t w o", b"it's", last]);
        assert_in_session(&record, &session);
        assert_eq!(record.one("code=").as_deref(), Some("42"));
        assert!(record.stderr.is_empty(), "{record:?}");
        // A scrubbed shell is replaced by one in the session; only one of the two is counted.
        assert_eq!(session.tally(), [("sh".into(), Reason::Shell, 1)], "{how}");
    }
    assert_eq!(session().drive("system_null", "walker").code, Some(0));
}

#[test]
fn other_calls_of_the_kernel_pass() {
    let record = session().drive("syscall_other", "walker");
    assert_eq!(record.lines[0], b"1 -1 1 1");
}

#[test]
fn no_arguments_at_all() {
    let record = session().drive("null", "walker");
    assert_eq!(record.one("who=").as_deref(), Some("stub"));
    assert_eq!(record.all("arg="), [b""]);
    let record = session().drive("null", "stayer");
    assert_eq!(record.one("who=").as_deref(), Some("native"));
    let record = session().drive("execl_short", "walker");
    assert_eq!(record.all("arg="), [b"zero"]);
}

#[test]
fn environments_of_any_size() {
    for (program, variables) in [("walker", 20_005), ("stayer", 20_000)] {
        let record = session().drive("huge", program);
        assert_eq!(record.all("env=").len(), variables, "{program}");
    }
}

#[test]
fn before_the_constructor() {
    let session = session();
    for (program, who) in [("walker", "stub"), ("stayer", "native")] {
        let list = format!("{}:{}", shims().preload.display(), path("early.so"));
        let mut command = session.command(&programs().path("stayer"));
        command.env("LD_PRELOAD", list).arg(programs().path(program));
        let record = Record::of(&command.output().expect("the program runs"));
        assert_eq!(record.one("who=").as_deref(), Some(who), "{record:?}");
    }
}

/// The loader's lock is held meanwhile: `dlsym` would wait for it.
#[test]
fn while_a_constructor_waits_for_a_thread() {
    for volume in [None, Some("/nowhere/oswalk-volume")] {
        let session = Session::new(&Recipe { volume, ..Recipe::default() });
        let mut command = session.command(Path::new("/usr/bin/timeout"));
        command.args(["10", &path("locked"), &path("waiting.so")]);
        let record = Record::of(&command.output().expect("the program runs"));
        assert_eq!(record.lines[..2], [b"error kept".to_vec(), b"opened".to_vec()], "{record:?}");
    }
}

#[test]
fn a_stub_that_cannot_be_executed() {
    let session = Session::new(&Recipe { stub: "/nowhere/stub".into(), ..Recipe::default() });
    for how in ["execve", "execvp", "posix_spawn"] {
        assert_eq!(session.drive(how, "walker").one("who=").as_deref(), Some("native"));
    }
    assert_eq!(session.tally(), [("walker".into(), Reason::ShimLimit, 3)]);
}

#[test]
fn a_library_that_is_not_there_any_more() {
    let directory = tempfile::tempdir().expect("a directory");
    let preload = directory.path().join("preload.so");
    std::fs::copy(&shims().preload, &preload).expect("a copy");
    let session = Session::new(&Recipe { preload: preload.clone(), ..Recipe::default() });
    let mut command = session.command(&programs().path("driver"));
    command.env("LD_PRELOAD", preload).args(["uninstalled", &path("stayer"), "stayer"]);
    let record = Record::of(&command.output().expect("the driver runs"));
    assert_eq!(record.one("who=").as_deref(), Some("native"));
    assert_eq!(record.one("env=LD_PRELOAD="), None);
    assert!(record.stderr.is_empty(), "{record:?}");
    assert_eq!(session.tally(), [("stayer".into(), Reason::Unlisted, 1)]);
}

#[test]
fn a_shut_gate() {
    let session = Session::new(&Recipe { gate: GATE_SHUT, ..Recipe::default() });
    assert_eq!(session.drive("execve", "walker").one("who=").as_deref(), Some("native"));
    assert_eq!(session.tally(), [("walker".into(), Reason::NoCluster, 1)]);
}

/// The page names the program that its readers execute, so its writer must be trusted.
#[test]
fn pages_that_others_may_write_are_not_believed() {
    use std::os::unix::fs::PermissionsExt;
    let session = session();
    let page = session.page.clone();
    let who = || {
        let mut command = session.command(&programs().path("driver"));
        command.args(["private", &path("walker"), "walker"]);
        Record::of(&command.output().expect("the driver runs")).one("who=")
    };
    let usual = who();
    assert_ne!(usual.as_deref(), Some("native"));
    for mode in [0o620, 0o602, 0o666] {
        std::fs::set_permissions(&page, std::fs::Permissions::from_mode(mode)).expect("mine");
        assert_eq!(who().as_deref(), Some("native"), "{mode:o}");
    }
    std::fs::set_permissions(&page, std::fs::Permissions::from_mode(0o600)).expect("mine");
    assert_eq!(who(), usual);
    // Only root may give a file away, and still read it.
    if std::os::unix::fs::chown(&page, Some(65534), None).is_ok() {
        assert_eq!(who().as_deref(), Some("native"), "another user's");
    }
}

#[test]
fn inert_without_a_page() {
    let session = session();
    for page in ["/nowhere", "/etc/passwd", ""] {
        let mut command = session.command(&programs().path("driver"));
        command.env("OSWALK_PAGE", page).args(["private", &path("walker"), "walker"]);
        let record = Record::of(&command.output().expect("the driver runs"));
        assert_eq!(record.one("who=").as_deref(), Some("native"), "{page}");
        assert_eq!(record.all("env=").len(), 2);
        assert!(record.stderr.is_empty());
    }
}
