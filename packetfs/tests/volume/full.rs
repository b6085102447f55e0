//! A full disk is an error of the call that needs room, and of nothing else. `OSWALK_ROUNDS` sets how many sizes of the disk
//! are tried.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::XattrFlags;

use super::dice::{Dice, number};
use super::mounted::Mounted;

const ROUNDS: u64 = 6;
/// Room for all that the script writes.
const PAGES_MAX: u64 = 700;
const PAGE_BYTES: u64 = 4096;
const ROOMY_BYTES: u64 = 512 << 20;
/// Longer than the volume takes until it tries to make changes durable by itself. On a full disk nothing tells that it has tried.
const PERIOD: Duration = Duration::from_millis(1300);
/// With room again, the volume goes on within this time.
const RESUMED: Duration = Duration::from_secs(20);
/// Pause between two looks at something that nothing else tells.
const POLL: Duration = Duration::from_millis(20);

/// A disk whose size can be changed.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn resize(&self, bytes: u64, flags: MsFlags) {
        let size = format!("size={bytes}");
        mount(Some("tmpfs"), self.0, Some("tmpfs"), flags, Some(size.as_str())).expect("root may");
    }

    fn used(&self) -> u64 {
        let space = rustix::fs::statvfs(self.0).expect("a mounted disk");
        (space.f_blocks - space.f_bfree) * space.f_bsize
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = umount2(self.0, MntFlags::MNT_DETACH);
    }
}

/// What was acknowledged: the least that each file begins with, and its other possible content.
#[derive(Default)]
struct Promised {
    files: BTreeMap<String, Vec<u8>>,
    dirs: Vec<String>,
    refused: u64,
}

impl Promised {
    /// Takes the result of a call: it may only fail for lack of room.
    fn took<T>(&mut self, result: io::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
                self.refused += 1;
                None
            }
        }
    }

    fn script(&mut self, root: &Path, dice: &mut Dice) {
        for number in 0..12 {
            let dir = format!("d{}", number / 4);
            if !self.dirs.contains(&dir) && self.took(fs::create_dir(root.join(&dir))).is_some() {
                self.dirs.push(dir.clone());
            }
            if self.dirs.contains(&dir) {
                self.write(root, &format!("{dir}/f{number}"), dice);
            }
        }
    }

    fn write(&mut self, root: &Path, name: &str, dice: &mut Dice) {
        let path = root.join(name);
        let Some(file) = self.took(File::create_new(&path)) else {
            assert!(!path.exists(), "{name} is there, though its creation failed");
            return;
        };
        let mut written = Vec::new();
        for _ in 0..dice.below(6) {
            let part = vec![u8::try_from(dice.below(256)).unwrap_or(0); dice.index(20_000)];
            let count = self.took(file.write_at(&part, written.len() as u64)).unwrap_or(0);
            written.extend(&part[..count]);
        }
        if dice.below(2) == 0 {
            self.took(file.sync_all());
        }
        drop(file);
        self.files.insert(name.to_owned(), written);
        match dice.below(5) {
            0 => {
                let new = format!("{name}-new");
                if self.took(fs::rename(&path, root.join(&new))).is_some() {
                    let content = self.files.remove(name).expect("just inserted");
                    self.files.insert(new, content);
                }
            }
            1 if self.took(fs::remove_file(&path)).is_some() => {
                self.files.remove(name);
            }
            2 => {
                self.took(
                    rustix::fs::setxattr(&path, "user.a", &[7; 3000], XattrFlags::empty())
                        .map_err(Into::into),
                );
            }
            _ => {}
        }
    }

    fn check(&self, root: &Path, when: &str) {
        for (name, content) in &self.files {
            let found =
                fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name} {when}: {error}"));
            // A write that was refused may have written a part.
            assert!(
                found.starts_with(content),
                "{name} {when}: {} of {} bytes",
                found.len(),
                content.len()
            );
        }
        let mut names = Vec::new();
        for dir in &self.dirs {
            let entries = fs::read_dir(root.join(dir))
                .unwrap_or_else(|error| panic!("{dir} {when}: {error}"));
            names
                .extend(entries.map(|entry| {
                    format!("{dir}/{}", entry.expect("listed").file_name().display())
                }));
        }
        names.sort_unstable();
        assert_eq!(names, self.files.keys().cloned().collect::<Vec<_>>(), "{when}");
    }
}

/// Returns how many backing files are not needed any more: they are emptied when the tables were written.
fn finished(dir: &Path) -> usize {
    let names = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("listed"));
    let done = names.filter(|entry| entry.file_name().to_string_lossy().contains(".done-"));
    done.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 0)).count()
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    let mut dice = Dice::new();
    println!("OSWALK_SEED={}", dice.seed);
    let rounds = number("OSWALK_ROUNDS").unwrap_or(ROUNDS);
    for round in 0..rounds {
        let pages = (PAGES_MAX * round + dice.below(PAGES_MAX)) / rounds;
        println!("{pages} pages");
        trial(pages, &mut dice);
    }
}

fn trial(pages: u64, dice: &mut Dice) {
    let scratch = tempfile::tempdir().expect("a directory");
    let (disk, root) = (scratch.path().join("disk"), scratch.path().join("mount"));
    fs::create_dir(&disk).expect("a writable directory");
    let disk = Disk(&disk);
    disk.resize(ROOMY_BYTES, MsFlags::empty());
    let mut mounted = Mounted::new(&disk.0.join("store"), &root, dice.below(2) == 0);
    disk.resize(disk.used() + pages * PAGE_BYTES, MsFlags::MS_REMOUNT);
    let mut promised = Promised::default();
    promised.script(&root, dice);
    promised.check(&root, "at once");
    std::thread::sleep(PERIOD);
    promised.check(&root, "after a period");
    if dice.below(3) == 0 {
        mounted.kill();
        disk.resize(ROOMY_BYTES, MsFlags::MS_REMOUNT);
        mounted.start();
        promised.check(&root, "after a crash");
    }
    disk.resize(ROOMY_BYTES, MsFlags::MS_REMOUNT);
    let mut file = File::create_new(root.join("more")).expect("there is room again");
    file.write_all(b"more").and_then(|()| file.sync_all()).expect("there is room again");
    drop(file);
    promised.check(&root, "with room again");
    let begin = Instant::now();
    while finished(&disk.0.join("store/open")) > 0 {
        assert!(begin.elapsed() < RESUMED, "the volume makes nothing durable any more");
        std::thread::sleep(POLL);
    }
    mounted.stop();
    mounted.start();
    promised.check(&root, "after a restart");
    assert_eq!(fs::read(root.join("more")).expect("it was synced"), b"more");
    mounted.stop();
}
