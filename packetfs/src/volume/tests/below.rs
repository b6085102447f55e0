//! Contents that are on some of several nodes: fetching them, and mending what is damaged from others.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Weak};

use super::super::Below;
use super::super::node::ROOT;
use super::exchange::{give, open, settle};
use super::{mkdir, write};
use crate::packet::{Packed, PacketRef};
use crate::progress::Progress;
use crate::volume::{Source, Volume};

/// The volume that has what another one lacks.
#[derive(Debug)]
struct Neighbour(Weak<Volume>);

impl Source for Neighbour {
    fn fetch(&self, wanted: &[PacketRef]) -> Vec<(PacketRef, Packed)> {
        self.0.upgrade().map(|it| it.packets(wanted)).unwrap_or_default()
    }
}

/// Returns bytes that do not compress and do not repeat.
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let blocks = (0..bytes as u64 / 32 + 1)
        .map(|at| blake3::hash(&[seed, at].map(u64::to_le_bytes).concat()));
    let mut noise: Vec<u8> = blocks.flat_map(|it| *it.as_bytes()).collect();
    noise.truncate(bytes);
    noise
}

fn meet(from: &Volume, to: &Volume) {
    from.shared.catch_up_all().expect("the disk has room");
    settle(from);
    give(from, to);
}

fn has_all(volume: &Volume, content: &Below) -> bool {
    let packets = volume.packets_of(content).expect("the list is here");
    volume.has(&packets).iter().all(|has| *has)
}

#[test]
fn what_is_below_a_path_is_fetched_once_and_what_nobody_has_is_named() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [1_u8, 2].map(|number| open(dirs[usize::from(number) - 1].path(), number));
    let dir = mkdir(&one, ROOT, b"d");
    write(&one, dir, b"large", &noise(1, 900_000));
    write(&one, dir, b"small", &noise(2, 1000));
    write(&one, ROOT, b"other", &noise(3, 900_000));
    meet(&one, &two);
    let lacking = two.prefetch(b"d", &Progress::default()).expect("the path is there");
    assert_eq!((lacking.files, lacking.lacking, lacking.fetched), (2, 2, 0));
    assert_eq!(lacking.named, [b"/d/large".to_vec(), b"/d/small".to_vec()]);
    two.set_source(Arc::new(Neighbour(Arc::downgrade(&one))));
    let progress = Progress::default();
    progress.cancel();
    assert!(two.prefetch(b"d", &progress).is_err());
    let progress = Progress::default();
    let all = two.prefetch(b"d", &progress).expect("the path is there");
    assert_eq!((all.files, all.bytes, all.fetched, all.lacking), (2, 901_000, 901_000, 0));
    assert_eq!(progress.bytes(), (901_000, 901_000));
    let again = two.prefetch(b"/d/", &Progress::default()).expect("the path is there");
    assert_eq!((again.bytes, again.fetched), (901_000, 0));
    two.set_source(Arc::new(Neighbour(Weak::new())));
    let paths = |path: &[u8]| two.below(path).expect("it is there");
    assert_eq!(paths(b"").len(), 3);
    assert!(paths(b"d").iter().all(|content| has_all(&two, content)));
    assert!(two.packets_of(&paths(b"other")[0]).is_err(), "nobody has the list");
}

/// Flips a bit in every so many bytes of the first pack. Returns how many.
fn flip(dir: &Path, first: u64, every: u64) -> u64 {
    let pack = File::options().read(true).write(true).open(dir.join("packs/0.pack"));
    let pack = pack.expect("there is a pack");
    let end = pack.metadata().expect("it is open").len();
    let places = (first..end).step_by(usize::try_from(every).expect("a small number"));
    let mut flips = 0;
    for at in places {
        let mut byte = [0];
        pack.read_exact_at(&mut byte, at).expect("it is in the pack");
        pack.write_all_at(&[byte[0] ^ 0x10], at).expect("the pack is writable");
        flips += 1;
    }
    flips
}

#[test]
fn damaged_packets_are_mended_from_another_node() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [1_u8, 2].map(|number| open(dirs[usize::from(number) - 1].path(), number));
    let contents = [noise(1, 3_000_000), noise(2, 900), b"text ".repeat(30_000)];
    for (number, content) in contents.iter().enumerate() {
        write(&one, ROOT, format!("{number}").as_bytes(), content);
    }
    // A former content counts as well.
    write(&one, ROOT, b"1", b"changed");
    meet(&one, &two);
    let (of_one, of_two) = (Neighbour(Arc::downgrade(&one)), Neighbour(Arc::downgrade(&two)));
    two.set_source(Arc::new(of_one));
    let fetched = two.prefetch(b"", &Progress::default()).expect("the disk has room");
    assert_eq!(fetched.lacking, 0);
    let scrub = |volume: &Volume| volume.scrub(&Progress::default()).expect("the disk works");
    let intact = scrub(&one);
    assert_eq!((intact.healed, intact.findings.len()), (0, 0));
    // One packet in its body, and one in its head.
    let first = 20_000;
    flip(dirs[0].path(), first, 600_000);
    let found = scrub(&one);
    assert!(found.findings.len() > 3, "nobody has them: {:?}", found.findings);
    one.set_source(Arc::new(of_two));
    let healed = scrub(&one);
    assert_eq!((healed.healed, healed.findings), (found.findings.len() as u64, Vec::new()));
    assert_eq!((scrub(&one).healed, scrub(&one).findings.len()), (0, 0));
    // The digest of the first one.
    flip(dirs[0].path(), 5, u64::MAX);
    assert_eq!((scrub(&one).healed, scrub(&one).findings.len()), (1, 0));
    // A program has met the damage before, so that the packet is in two places.
    flip(dirs[0].path(), first, 600_000);
    one.set_source(Arc::new(Neighbour(Weak::new())));
    let large = one.below(b"0").expect("it is there").remove(0).content;
    let read = || one.shared.library.read(&large, 0, 3_000_000).ok();
    assert_eq!(read(), None);
    one.set_source(Arc::new(Neighbour(Arc::downgrade(&two))));
    assert_eq!(read().as_ref(), Some(&contents[0]));
    assert!(scrub(&one).healed > 3);
    let again = scrub(&one);
    assert_eq!((again.healed, again.findings), (0, Vec::new()));
    assert_eq!(one.check().expect("the disk works").findings, Vec::<String>::new());
    // It is the same after a restart, also without the index.
    drop(one);
    std::fs::remove_file(dirs[0].path().join("packs/index.redb")).expect("the volume is closed");
    let one = open(dirs[0].path(), 1);
    assert_eq!(one.check().expect("the disk works").findings, Vec::<String>::new());
    let ino = one.lookup(ROOT, b"0").expect("it is there").attr.ino;
    assert_eq!(one.read(ino, 0, 3_000_000).as_ref(), Ok(&contents[0]));
}

#[test]
fn the_nearest_directory_says_how_many_nodes_keep_a_content() {
    let dirs = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
    let [one, two] = [1_u8, 2].map(|number| open(dirs[usize::from(number) - 1].path(), number));
    let dir = mkdir(&one, ROOT, b"d");
    let below = mkdir(&one, dir, b"below");
    let apart = mkdir(&one, dir, b"apart");
    write(&one, dir, b"f", &noise(1, 100));
    write(&one, below, b"g", &noise(2, 300_000));
    write(&one, apart, b"h", &noise(3, 100));
    write(&one, ROOT, b"i", &noise(4, 100));
    write(&one, dir, b"empty", b"");
    assert_eq!(one.replicated().expect("the tables work"), []);
    assert_eq!(one.replicas(b"d/f"), Ok((1, None)));
    one.set_replicas(b"d", Some(3)).expect("it is a directory");
    one.set_replicas(b"d/apart", Some(1)).expect("it is a directory");
    meet(&one, &two);
    for volume in [&one, &two] {
        assert_eq!(volume.replicas(b"d/below/g"), Ok((3, Some(b"/d".to_vec()))));
        assert_eq!(volume.replicas(b"d/apart/h"), Ok((1, Some(b"/d/apart".to_vec()))));
        let found = volume.replicated().expect("the tables work");
        let found: Vec<_> = found.iter().map(|(it, count)| (it.path.as_slice(), *count)).collect();
        assert_eq!(found, [(b"/d/below/g".as_slice(), 3), (b"/d/f", 3)]);
    }
    two.set_replicas(b"d", None).expect("it is a directory");
    two.set_replicas(b"d", None).expect("it has none already");
    two.set_replicas(b"", Some(2)).expect("it is a directory");
    let found = two.replicated().expect("the tables work");
    assert_eq!(found.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [2, 2, 2]);
    assert_eq!(two.replicas(b"d"), Ok((2, Some(Vec::new()))));
    assert_eq!(two.set_replicas(b"d", Some(0)), Err(nix::errno::Errno::EINVAL));
    assert_eq!(two.set_replicas(b"d/f", Some(2)), Err(nix::errno::Errno::ENOTDIR));
    assert_eq!(two.set_replicas(b"x", Some(2)), Err(nix::errno::Errno::ENOENT));
}
