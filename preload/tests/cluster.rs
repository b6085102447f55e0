//! The volume where it is not mounted: functions do below its mount point what they do on its files, by a descriptor from the agent.

mod common;

use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Output;

use common::{Recipe, Session, programs};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::stat::Mode;
use tempfile::TempDir;
use worknode::door::{Header, Kind};

/// Where nothing is mounted.
const POINT: &str = "/nowhere/oswalk-volume";

fn session() -> Session {
    Session::new(&Recipe { volume: Some(POINT), ..Recipe::default() })
}

/// Opens the door of a session. Each caller gets a descriptor of `root`, or is refused.
fn serve(session: &Session, root: Option<&Path>) {
    let listener = UnixListener::bind(&session.door).expect("the door opens");
    let root = root.map(|root| {
        open(root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).expect("a directory")
    });
    std::thread::spawn(move || {
        listener.incoming().for_each(|door| answer(door.expect("a caller"), root.as_ref()));
    });
}

fn answer(mut door: UnixStream, root: Option<&OwnedFd>) {
    let mut header = [0; 8];
    door.read_exact(&mut header).expect("a header");
    let header = Header::decode(header).expect("a frame");
    assert_eq!(header.kind, Kind::Root);
    let mut point = vec![0; header.payload_bytes as usize];
    door.read_exact(&mut point).expect("a payload");
    assert_eq!(point, POINT.as_bytes());
    let answer = |kind| Header { kind, fd: 0, payload_bytes: 0 }.encode();
    let Some(root) = root else {
        return door.write_all(&answer(Kind::Failed)).expect("the caller listens");
    };
    let (bytes, rights) = (answer(Kind::Root), [root.as_raw_fd()]);
    let (parts, rights) = ([IoSlice::new(&bytes)], [ControlMessage::ScmRights(&rights)]);
    let sent = sendmsg(door.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None::<&()>);
    assert_eq!(sent, Ok(bytes.len()));
}

fn run(session: &Session, program: &str, arguments: &[&str]) -> Output {
    let path = programs().path(program);
    let path = if path.exists() { path } else { Path::new("/bin").join(program) };
    session.command(&path).args(arguments).output().expect("the program runs")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn functions_return_what_they_return_on_the_files_themselves() {
    let (session, here, there) = (session(), directory(), directory());
    serve(&session, Some(there.path()));
    let native = run(&session, "paths", &[&here.path().display().to_string()]);
    let hidden = run(&session, "paths", &[POINT]);
    assert!(native.status.success(), "{}", text(&native));
    assert_eq!(text(&native), text(&hidden));
    let names = |dir: &TempDir| {
        let entries = std::fs::read_dir(dir).expect("a directory").flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&here), names(&there));
    assert!(names(&here).len() > 4);
}

#[test]
fn programs_that_execute_nothing_have_the_library_where_they_need_it() {
    let (session, there) = (session(), directory());
    serve(&session, Some(there.path()));
    std::fs::write(there.path().join("f"), "content\n").expect("a file");
    let script =
        format!("cat {POINT}/f; cd {POINT} && ls; test -f f && echo yes; cat {POINT}/../f");
    let output = run(&session, "sh", &["-c", &script]);
    assert!(text(&output).starts_with("content\nf\nyes\ncat: "), "{}", text(&output));
}

#[test]
fn what_is_not_lent_is_not_there() {
    let session = session();
    serve(&session, None);
    let output = run(&session, "cat", &[&format!("{POINT}/f")]);
    assert!(text(&output).contains("No such file or directory"), "{}", text(&output));
}

#[test]
fn a_silent_agent_is_told() {
    let session = session();
    for program in ["cat", "ls"] {
        let output = run(&session, program, &[&format!("{POINT}/f")]);
        let shown = text(&output);
        assert!(shown.contains("Transport endpoint is not connected"), "{shown}");
    }
}

/// A thread has 16 KiB, and a signal handler little more than the kernel's frame.
#[test]
fn little_stack_is_enough() {
    let (hidden, there) = (session(), directory());
    serve(&hidden, Some(there.path()));
    std::fs::write(there.path().join("f"), "").expect("a file");
    let here = there.path().display().to_string();
    let visible = Session::new(&Recipe { volume: Some("/"), ..Recipe::default() });
    let native = run(&visible, "stacks", &[&here, &here]);
    assert!(text(&native).contains("little"), "{}", text(&native));
    let output = run(&hidden, "stacks", &[POINT, POINT]);
    assert_eq!(output.stdout, native.stdout, "{} {}", text(&output), text(&native));
    // From a directory elsewhere.
    let output = run(&hidden, "stacks", &[&here, &here]);
    assert_eq!(output.stdout, native.stdout, "{}", text(&output));
}

#[test]
fn few_descriptors_are_enough() {
    let (session, there) = (session(), directory());
    serve(&session, Some(there.path()));
    std::fs::write(there.path().join("f"), "content\n").expect("a file");
    for most in [20, 200, 300] {
        let script = format!("ulimit -n {most}; cat {POINT}/f; ls {POINT}");
        assert_eq!(text(&run(&session, "sh", &["-c", &script])), "content\nf\n", "{most}");
    }
}

#[test]
fn links_that_lead_to_each_other_are_too_many() {
    let (session, there) = (session(), directory());
    serve(&session, Some(there.path()));
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(format!("{POINT}/{target}"), there.path().join(name))
            .expect("a link");
    };
    link("b", "a");
    link("a", "b");
    std::fs::write(there.path().join("40"), "content\n").expect("a file");
    (0..40).for_each(|number| link(&format!("{}", number + 1), &number.to_string()));
    link("0", "too-many");
    for name in ["a", "a/below", "too-many"] {
        let shown = text(&run(&session, "cat", &[&format!("{POINT}/{name}")]));
        assert!(shown.contains("Too many levels of symbolic links"), "{name}: {shown}");
    }
    assert_eq!(text(&run(&session, "cat", &[&format!("{POINT}/0")])), "content\n");
}

fn directory() -> TempDir {
    tempfile::tempdir().expect("a directory")
}
