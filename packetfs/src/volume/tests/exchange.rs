//! Volumes of several nodes in one process, which give each other events and packets.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use worknode::history::Summary;
use worknode::key::SecretKey;

use super::super::node::ROOT;
use super::super::{
    Batch, Io, Moving, Options, Refused, Statement, Volume, author_of, small_packets,
};
use super::{SUPERUSER, write};
use crate::log::Unfit;

const BYTES: usize = 10_000;

pub(super) fn open(dir: &Path, number: u8) -> Arc<Volume> {
    let [events, node] = [number, number + 100].map(|byte| SecretKey::from_seed(&[byte; 32]));
    let author = author_of(&events.key());
    let statement = Statement::sign(events.key(), &node);
    let options = Options { author, signer: Some(events), may_pass: false, boot: None };
    let volume = Volume::open(dir, &options).expect("a volume");
    volume.set_statement(statement);
    Arc::new(volume)
}

pub(super) fn settle(volume: &Volume) {
    volume.shared.settle_log().expect("the disk works");
}

/// Gives one volume all that another one has.
pub(super) fn give(from: &Volume, to: &Volume) {
    for author in from.summary().0.into_keys() {
        while let Some(batch) = next(from, to, author) {
            to.learn(&batch).expect("sound events");
        }
    }
}

fn next(from: &Volume, to: &Volume, author: worknode::history::Author) -> Option<Batch> {
    let after = to.summary().of(author);
    from.events_after(author, after, BYTES).expect("a sound log")
}

#[test]
fn events_are_passed_on_and_kept() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let volumes = [0_u8, 1, 2].map(|number| open(dirs[usize::from(number)].path(), number));
    for (number, volume) in volumes.iter().enumerate() {
        for file in 0..300 {
            write(volume, ROOT, format!("{number}-{file}").as_bytes(), b"content");
        }
        settle(volume);
    }
    let own = volumes.each_ref().map(|volume| volume.summary());
    give(&volumes[0], &volumes[1]);
    give(&volumes[1], &volumes[2]);
    give(&volumes[2], &volumes[0]);
    give(&volumes[2], &volumes[1]);
    let all = Summary(own.into_iter().flat_map(|summary| summary.0).collect());
    assert!(all.0.len() == 3 && volumes.iter().all(|volume| volume.summary() == all));
    drop(volumes);
    let again = [0_u8, 1, 2].map(|number| open(dirs[usize::from(number)].path(), number));
    assert!(again.iter().all(|volume| volume.summary() == all));
}

#[test]
fn a_copied_volume_is_quarantined_with_evidence() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, copy, third] =
        [(0, 7), (1, 7), (2, 2)].map(|(dir, number): (usize, u8)| open(dirs[dir].path(), number));
    for (volume, name) in [(&one, b"one"), (&copy, b"two")] {
        write(volume, ROOT, name, b"content");
        settle(volume);
    }
    give(&one, &third);
    write(&copy, ROOT, b"more", b"content");
    settle(&copy);
    let batch = next(&copy, &third, copy.author()).expect("events");
    assert!(matches!(third.learn(&batch), Err(Refused::Unfit(Unfit::Fork))));
    let before = third.summary();
    write(&one, ROOT, b"more", b"content");
    settle(&one);
    let batch = next(&one, &third, one.author()).expect("events");
    assert!(matches!(third.learn(&batch), Err(Refused::Quarantined)));
    assert!(matches!(one.learn(&batch), Err(Refused::Unfit(Unfit::Known))));
    drop(third);
    let third = open(dirs[2].path(), 2);
    assert_eq!(third.summary(), before);
    assert!(matches!(third.learn(&batch), Err(Refused::Quarantined)));
}

#[test]
fn whoever_listens_hears_of_changes_at_once() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let volume = open(dir.path(), 1);
    let (grown_tx, grown) = std::sync::mpsc::channel();
    volume.grown(move || grown_tx.send(()).is_ok());
    let mut seen = 0;
    for file in 0..20 {
        write(&volume, ROOT, format!("{file}").as_bytes(), b"content");
        let last = volume.shared.log.last().0;
        while volume.summary().of(volume.author()) < last {
            grown.recv_timeout(Duration::from_secs(20)).expect("told in time");
            seen += 1;
        }
    }
    assert!(seen > 0);
}

#[test]
fn a_moved_file_has_its_content_at_once_on_other_nodes() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    one.grown(|| true);
    for round in 0..20 {
        let content = format!("content {round}");
        let made = one.create((ROOT, b"new"), (0o644, 0), libc::O_WRONLY, SUPERUSER);
        let (found, opened) = made.expect("the name is free");
        one.write(found.attr.ino, 0, content.as_bytes(), false).expect("the disk has room");
        one.close_file(opened.handle);
        one.rename((ROOT, b"new"), (ROOT, b"name"), Moving::Replace).expect("it is there");
        settle(&one);
        // They are kept back until it is known that the file is packets.
        while two.summary().of(one.author()) < one.summary().of(one.author()) {
            give(&one, &two);
        }
        two.keep(&one.packets(&all_packets(&one, &two))).expect("the disk has room");
        let seen = two.lookup(ROOT, b"name").expect("it is there").attr.ino;
        assert_eq!(two.read(seen, 0, 100).expect("its packets are here"), content.as_bytes());
    }
}

#[test]
fn what_is_made_after_a_close_is_seen_after_what_was_closed() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    let (grown_tx, grown) = std::sync::mpsc::channel();
    one.grown(move || grown_tx.send(()).is_ok());
    for round in 0..5_u8 {
        let [data, done] = ["data", "done"].map(|name| format!("{name}{round}").into_bytes());
        let made = one.create((ROOT, &data), (0o644, 0), libc::O_WRONLY, SUPERUSER);
        let (found, opened) = made.expect("the name is free");
        let part: Vec<u8> =
            (0..1_u32 << 18).flat_map(u32::to_le_bytes).map(|it| it ^ round).collect();
        for at in 0..6 {
            one.write(found.attr.ino, at << 20, &part, false).expect("the disk has room");
        }
        one.note_closing(found.attr.ino);
        // The kernel says later that it was the last one.
        write(&one, ROOT, &done, b"content");
        one.close_file(opened.handle);
        while two.lookup(ROOT, &done).is_err() {
            grown.recv_timeout(Duration::from_secs(20)).expect("told in time");
            give(&one, &two);
        }
        let seen = two.lookup(ROOT, &data).expect("it was made first").attr;
        assert_eq!(seen.bytes, 6 << 20, "round {round}");
    }
}

#[test]
fn what_another_node_is_writing_is_not_cached() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [0_u8, 1].map(|number| open(dirs[usize::from(number)].path(), number));
    let caches = |ino| match two.open_file(ino, libc::O_RDONLY, SUPERUSER).map(|it| it.io) {
        Ok(Io::Asks { caches, .. }) => caches,
        other => panic!("{other:?}"),
    };
    for content in [b"content".as_slice(), b"cut", b"grown again"] {
        write(&one, ROOT, b"name", content);
        settle(&one);
        while two.summary().of(one.author()) < one.summary().of(one.author()) {
            give(&one, &two);
        }
        let ino = two.lookup(ROOT, b"name").expect("it is there").attr.ino;
        assert_eq!(caches(ino), content == b"content");
    }
    write(&two, ROOT, b"own", b"content");
    write(&two, ROOT, b"own", b"cut");
    assert!(caches(two.lookup(ROOT, b"own").expect("it is there").attr.ino));
}

/// Returns the small contents of all events of a volume that another one has.
fn all_packets(of: &Volume, has: &Volume) -> Vec<crate::packet::PacketRef> {
    let batch = of.events_after(of.author(), 0, usize::MAX).expect("a sound log");
    let batch = batch.expect("events");
    assert_eq!(has.summary().of(of.author()), batch.feed.covers());
    small_packets(&batch.feed).collect()
}
