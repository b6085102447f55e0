//! Tests of interrupted commits and of the journal.

use super::*;

#[test]
fn an_interrupted_commit_is_finished_and_a_torn_one_was_not_begun() {
    let mut ground = Ground::new();
    ground.write("a", b"content", false);
    let journal = Journal::open(&ground.journal()).expect("writable");
    journal.write(&ground.commit, Temporary::default()).expect("writable");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert_eq!(std::fs::read(ground.file("a")).expect("finished"), b"content");

    std::fs::remove_file(ground.file("a")).expect("there");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert!(!ground.file("a").exists(), "a finished commit is not done twice");

    journal.write(&ground.commit, Temporary::default()).expect("writable");
    let mut bytes = std::fs::read(ground.journal()).expect("readable");
    bytes.truncate(bytes.len() - 1);
    std::fs::write(ground.journal(), bytes).expect("writable");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert!(!ground.file("a").exists(), "a torn commit was not begun");
}

#[test]
fn a_removal_that_was_interrupted_is_finished() {
    let mut ground = Ground::new();
    std::fs::create_dir_all(ground.file("gone/deep")).expect("writable");
    for name in ["gone/one", "gone/deep/two"] {
        std::fs::write(ground.file(name), b"x").expect("writable");
    }
    ground.commit.changes.ops.push(Op::Remove { path: ground.bytes("gone") });
    let journal = Journal::open(&ground.journal()).expect("writable");
    let later = || {
        // Wait for the next tick of the clock for file times.
        let begun = journal.begun().expect("written").at;
        while version(&ground.dir.path().join("tree")).ctime <= begun {
            std::fs::write(ground.file("clock"), b"").expect("writable");
            std::fs::remove_file(ground.file("clock")).expect("there");
        }
    };
    journal.write(&ground.commit, Temporary::default()).expect("writable");
    later();
    std::fs::remove_file(ground.file("gone/one")).expect("there");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert!(!ground.file("gone").exists());

    std::fs::create_dir(ground.file("gone")).expect("writable");
    journal.write(&ground.commit, Temporary::default()).expect("writable");
    later();
    std::fs::write(ground.file("gone/new"), b"of somebody else").expect("writable");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert!(ground.file("gone/new").exists());
}

#[test]
fn a_journal_that_others_could_have_written_is_refused() {
    let mut ground = Ground::new();
    ground.write("file", b"content", false);
    let journal = Journal::open(&ground.journal()).expect("writable");
    journal.write(&ground.commit, Temporary::default()).expect("writable");
    let mode = |mode| std::fs::set_permissions(ground.journal(), PermissionsExt::from_mode(mode));
    for bad in [0o666, 0o620, 0o602] {
        mode(bad).expect("ours");
        let refused = Committer::open(&ground.journal()).expect_err("it is refused");
        let said = std::error::Error::source(&refused).expect("a cause").to_string();
        assert!(said.contains("others may write it") && said.contains("remove it"), "{said}");
        assert!(!ground.file("file").exists(), "nothing of it is applied");
    }
    mode(0o600).expect("ours");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(ground.journal(), Some(65534), None).expect("root may");
        Committer::open(&ground.journal()).expect_err("it is refused");
        std::os::unix::fs::chown(ground.journal(), Some(0), None).expect("root may");
    }
    let elsewhere = ground.dir.path().join("elsewhere");
    std::fs::rename(ground.journal(), &elsewhere).expect("movable");
    symlink(&elsewhere, ground.journal()).expect("writable");
    Committer::open(&ground.journal()).expect_err("it is refused");
    assert!(!ground.file("file").exists(), "nothing of it is applied");
}

#[test]
fn the_journal_is_empty_after_a_commit() {
    let mut ground = Ground::new();
    ground.write("private", b"for their owner only", false);
    let committer = Committer::open(&ground.journal()).expect("usable");
    committer.commit(&ground.commit).expect("applicable");
    let pending = Journal::open(&ground.journal()).and_then(|journal| journal.pending());
    assert!(pending.expect("readable").is_none(), "nothing is done once more");
    committer.rest();
    drop(committer);
    let journal = std::fs::metadata(ground.journal()).expect("there");
    assert_eq!((journal.len(), journal.permissions().mode() & 0o7777), (0, 0o600));
    ground.apply_once_more();
    assert_eq!(std::fs::metadata(ground.journal()).expect("there").len(), 0);
}

/// A user with write permission in a directory may have created any name in it.
#[test]
fn files_of_others_are_not_mistaken_for_temporary_files() {
    let mut ground = Ground::new();
    let others = [".oswalk-a.o", ".oswalk-00000000000000000000000000000000-f0"];
    std::fs::write(ground.file("a.o"), b"old").expect("writable");
    for name in others {
        std::fs::create_dir(ground.file(name)).expect("writable");
        std::fs::write(ground.file(name).join("theirs"), b"x").expect("writable");
    }
    ground.write("a.o", b"new", false);
    ground.apply().expect("applicable");
    assert_eq!(std::fs::read(ground.file("a.o")).expect("there"), b"new");
    // The journal of an interrupted commit contains the second name.
    ground.apply_once_more();
    assert!(others.iter().all(|name| ground.file(name).join("theirs").exists()));
}

#[test]
fn an_interrupted_commit_removes_its_temporary_file() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("a.o"), b"new").expect("writable");
    std::fs::write(ground.file(&Temporary::default().fresh(0)), b"ne").expect("writable");
    ground.write("a.o", b"new", false);
    ground.apply_once_more();
    assert_eq!(std::fs::read(ground.file("a.o")).expect("there"), b"new");
    let names = std::fs::read_dir(ground.file(".")).expect("listable").count();
    assert_eq!(names, 1, "no temporary file is left");
}

#[test]
fn a_commit_of_which_agents_die_is_set_aside() {
    let mut ground = Ground::new();
    ground.write("a", b"content", false);
    let journal = Journal::open(&ground.journal()).expect("writable");
    journal.write(&ground.commit, Temporary::default()).expect("writable");
    let begun = journal.begun().expect("written").at;
    for tries in 0..TRIES_MAX {
        assert_eq!(journal.tries().expect("written"), tries);
        journal.note_try().expect("writable");
    }
    assert_eq!(
        journal.begun().expect("written").at,
        begun,
        "what others do from there on is theirs"
    );
    let committer = Committer::open(&ground.journal()).expect("the agent starts");
    assert!(!ground.file("a").exists(), "it is not tried again");
    let aside = std::fs::metadata(ground.dir.path().join("journal.failed")).expect("kept");
    assert!(aside.len() > 0 && aside.permissions().mode() & 0o077 == 0);
    committer.commit(&ground.commit).expect("others go on");
    drop(Committer::open(&ground.journal()).expect("usable"));
    assert_eq!(std::fs::read(ground.file("a")).expect("there"), b"content");
}
