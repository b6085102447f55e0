//! Tests of concurrent changes.

use super::*;

#[test]
fn appends_of_all_walks_are_kept() {
    let (results, log) = three_walks(b"base\n", [b"base\none\n", b"base\ntwo\n", b"base\n3\n"]);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    assert_eq!(log, b"base\none\ntwo\n3\n");
}

/// Both have read 6 and written 7. Without OS Walk, one of them would have read the other's 7.
#[test]
fn rewriting_equal_content_is_not_an_append() {
    for (found, one, another) in [
        (b"6\n".as_slice(), b"7\n".as_slice(), b"7\n".as_slice()),
        (b"6\n", b"7\n", b"7\nlog\n"),
        (b"6\n", b"7\nlog\n", b"7\n"),
    ] {
        let (results, file) = three_walks(found, [one, another, b"6\nlog\n"]);
        assert!(results[0].is_ok());
        assert!(matches!(results[1], Err(CommitError::Conflict(_))), "{results:?}");
        assert!(matches!(results[2], Err(CommitError::Conflict(_))), "{results:?}");
        assert_eq!(file, one);
    }
}

#[test]
fn files_that_a_process_has_locked_conflict() {
    use nix::fcntl::{Flock, FlockArg};
    let mut ground = Ground::new();
    std::fs::write(ground.file("counter"), b"6\n").expect("writable");
    ground.write("counter", b"7\n", true);
    let open = || std::fs::File::options().write(true).open(ground.file("counter")).expect("there");
    let held = Flock::lock(open(), FlockArg::LockExclusive).expect("free");
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
    drop(held);
    // Held by another process, because a process does not conflict with its own locks of this kind.
    let mut holder = std::process::Command::new("perl")
        .args(["-MFcntl", "-e", HOLD])
        .arg(ground.file("counter"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("perl is installed");
    let mut word = [0; 3];
    let output = holder.stdout.as_mut().expect("piped");
    std::io::Read::read_exact(output, &mut word).expect("it has locked the file");
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
    drop(holder.stdin.take());
    holder.wait().expect("it ends");
    ground.apply().expect("nobody has locked it");
    assert_eq!(std::fs::read(ground.file("counter")).expect("there"), b"7\n");
}

#[test]
fn appends_of_others_are_kept_if_a_walk_cannot_be_repeated() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("log"), b"base\n").expect("writable");
    ground.write("log", b"base\nours\n", true);
    std::fs::write(ground.file("log"), b"base\ntheirs\n").expect("writable");
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))), "who has written that?");
    ground.commit.last_wins = true;
    ground.apply().expect("applicable");
    assert_eq!(std::fs::read(ground.file("log")).expect("there"), b"base\ntheirs\nours\n");
}

#[test]
fn concurrent_changes_other_than_appends_conflict() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("config"), b"a = 1\n").expect("writable");
    ground.write("config", b"a = 2\n", true);
    std::fs::write(ground.file("config"), b"a = 3, theirs\n").expect("writable");
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
    assert_eq!(std::fs::read(ground.file("config")).expect("there"), b"a = 3, theirs\n");
    ground.commit.last_wins = true;
    let overwritten = ground.apply().expect("applicable");
    assert_eq!(overwritten, [ground.bytes("config")], "nothing is lost without a word");
    assert_eq!(std::fs::read(ground.file("config")).expect("there"), b"a = 2\n");
}

#[test]
fn concurrently_created_names_conflict() {
    type Make = fn(&Ground) -> Op;
    let makes: [Make; 6] = [
        |ground| Op::Dir { path: ground.bytes("x"), meta: ground.meta(0o755), replaces: false },
        |ground| {
            let target = b"t".to_vec();
            Op::Symlink { path: ground.bytes("x"), target, meta: ground.meta(0o777), keeps: false }
        },
        |ground| Op::Link { path: ground.bytes("x"), to: ground.bytes("old") },
        |ground| {
            let kind = crate::tree::Kind::Fifo;
            Op::Special { path: ground.bytes("x"), kind, rdev: 0, meta: ground.meta(0o644) }
        },
        |ground| Op::Rename { from: ground.bytes("old"), to: ground.bytes("x") },
        |ground| Op::File {
            path: ground.bytes("x"),
            meta: ground.meta(0o644),
            manifest: Manifest::default(),
            placing: Placing::Fresh,
        },
    ];
    let old = |ground: &Ground| std::fs::write(ground.file("old"), b"1").expect("writable");
    for make in makes {
        let made = |ground: &Ground| (make(ground), vec![("x", Base::Nothing)]);
        contested(made, old, |ground| std::fs::create_dir(ground.file("x")).expect("writable"));
        contested(made, old, |ground| std::fs::write(ground.file("x"), b"").expect("writable"));
    }
}

#[test]
fn files_added_to_a_removed_directory_conflict() {
    for op in 0..3 {
        let mut ground = Ground::new();
        std::fs::create_dir_all(ground.file("d/e")).expect("writable");
        std::fs::write(ground.file("d/e/seen"), b"").expect("writable");
        ground.see("d");
        let path = ground.bytes("d");
        let target = b"/".to_vec();
        ground.commit.changes.ops.push(match op {
            0 => Op::Remove { path },
            1 => Op::Dir { path, meta: ground.meta(0o755), replaces: true },
            _ => Op::Symlink { path, target, meta: ground.meta(0o777), keeps: false },
        });
        std::fs::write(ground.file("d/e/theirs"), b"").expect("writable");
        assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))), "{op}");
        assert!(ground.file("d/e/theirs").exists(), "{op}");
        std::fs::remove_file(ground.file("d/e/theirs")).expect("there");
        ground.apply().expect("applicable");
        assert!(!ground.file("d/e").exists(), "{op}");
    }
}

#[test]
fn removed_or_replaced_files_conflict() {
    let old = |ground: &Ground| {
        std::fs::write(ground.file("old"), b"1").expect("writable");
        std::fs::create_dir(ground.file("dir")).expect("writable");
    };
    let remove = |name: &'static str| {
        move |ground: &Ground| {
            let found = vec![(name, base(&ground.file(name)))];
            (Op::Remove { path: ground.bytes(name) }, found)
        }
    };
    let claim = |ground: &Ground| {
        let found = vec![("old", base(&ground.file("old"))), ("claimed", Base::Nothing)];
        (Op::Rename { from: ground.bytes("old"), to: ground.bytes("claimed") }, found)
    };
    let take = |ground: &Ground| std::fs::remove_file(ground.file("old")).expect("there");
    let write = |ground: &Ground| std::fs::write(ground.file("old"), b"22").expect("writable");
    contested(remove("old"), old, take);
    contested(remove("old"), old, write);
    contested(claim, old, take);
    contested(claim, old, write);
    let again = |ground: &Ground| {
        std::fs::create_dir(ground.file("fresh")).expect("writable");
        std::fs::rename(ground.file("fresh"), ground.file("dir")).expect("empty");
    };
    contested(remove("dir"), old, again);
    let moded = |mode| {
        move |ground: &Ground| {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(ground.file("dir"), permissions).expect("ours");
        }
    };
    let mode = |ground: &Ground| {
        let found = vec![("dir", base(&ground.file("dir")))];
        let meta = ground.meta(0o700);
        (Op::Dir { path: ground.bytes("dir"), meta, replaces: false }, found)
    };
    contested(mode, old, moded(0o711));
    let mut ground = Ground::new();
    old(&ground);
    ground.commit.changes.ops.push(mode(&ground).0);
    ground.commit.changes.found.push((ground.bytes("dir"), Base::Unknown));
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
}

#[test]
fn an_append_is_made_once_at_the_end() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("log"), b"base\n").expect("writable");
    ground.write("log", b"ours\n", true);
    let Some(Op::File { placing, .. }) = ground.commit.changes.ops.last_mut() else {
        panic!("just added")
    };
    // Another process appends after the reconciliation.
    *placing = Placing::Behind(5);
    std::fs::write(ground.file("log"), b"base\ntheirs\n").expect("writable");
    let contents = contents(&ground.commit).expect("whole");
    let names = Temporary::default();
    apply::apply(&ground.commit, &contents, names, None, &|| Ok(())).expect("applicable");
    let whole = b"base\ntheirs\nours\n";
    assert_eq!(std::fs::read(ground.file("log")).expect("there"), whole);
    ground.apply_once_more();
    assert_eq!(std::fs::read(ground.file("log")).expect("there"), whole);
    std::fs::write(ground.file("log"), b"base\nou").expect("writable");
    ground.apply_once_more();
    assert_eq!(std::fs::read(ground.file("log")).expect("there"), b"base\nours\n");
}

#[test]
fn an_append_to_an_empty_file_may_hide_a_truncation() {
    let mut ground = Ground::new();
    std::fs::write(ground.file("log"), b"").expect("writable");
    ground.write("log", b"ours\n", true);
    std::fs::write(ground.file("log"), b"theirs\n").expect("writable");
    assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
    ground.commit.last_wins = true;
    ground.apply().expect("applicable");
    assert_eq!(std::fs::read(ground.file("log")).expect("there"), b"theirs\nours\n");
}

/// If another process puts a fifo or a symbolic link at the name, the commit neither blocks nor follows it.
#[test]
fn a_fifo_or_link_in_place_of_an_appended_file_is_not_opened() {
    let content = |ground: &Ground, name: &str| std::fs::read(ground.file(name)).expect("there");
    for interrupted in [false, true] {
        for fifo in [false, true] {
            let mut ground = Ground::new();
            std::fs::write(ground.file("log"), b"base\n").expect("writable");
            std::fs::write(ground.file("other"), b"base\n").expect("writable");
            ground.write("log", b"base\nours\n", true);
            std::fs::remove_file(ground.file("log")).expect("there");
            if fifo {
                nix::unistd::mkfifo(&ground.file("log"), nix::sys::stat::Mode::S_IRWXU)
                    .expect("writable");
            } else {
                symlink("other", ground.file("log")).expect("writable");
            }
            if interrupted {
                ground.apply_once_more();
            } else {
                assert!(matches!(ground.apply(), Err(CommitError::Conflict(_))));
            }
            assert_eq!(content(&ground, "other"), b"base\n");
        }
    }
}

/// A manifest may contain a packet any number of times. Such an append is not assembled in memory.
#[test]
fn content_assembled_for_appends_is_bounded_by_what_was_sent() {
    let mut ground = Ground::new();
    let (content, times) = (vec![b'x'; 64 * 1024], 64);
    let packet = reference(&content);
    let begun = |ground: &mut Ground, name: &str| {
        std::fs::write(ground.file(name), b"").expect("writable");
        let now = version(&ground.file(name));
        let meta = ground.meta(0o640);
        let manifest = Manifest { packets: vec![packet; times], holes: Vec::new() };
        let placing = Placing::Over { base: Some(now) };
        ground.commit.changes.ops.push(Op::File {
            path: ground.bytes(name),
            meta,
            manifest,
            placing,
        });
    };
    ground.commit.packets.push((packet, Packed::pack(&content)));
    begun(&mut ground, "log");
    let mut contents = contents(&ground.commit).expect("whole");
    let reconciled =
        reconcile::reconcile(&ground.commit, &Appends::default(), &mut contents).expect("as found");
    assert!(reconciled.commit.is_none(), "it is written over what is there");
    drop((reconciled, contents));
    ground.apply().expect("applicable");
    let written = std::fs::read(ground.file("log")).expect("there");
    assert_eq!(written, content.repeat(times));

    let Some(Op::File { manifest, .. }) = ground.commit.changes.ops.last_mut() else {
        panic!("just added")
    };
    manifest.packets[0].bytes = 1;
    assert!(matches!(ground.apply(), Err(CommitError::Packet(_))), "it says another length");
}
