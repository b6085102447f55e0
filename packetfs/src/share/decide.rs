//! What a share that also writes its directory does with a name, from what both sides have and what they had in common.
//!
//! Each side is compared with what both had. First, what has changed on the disk goes to the volume, beside what has changed
//! there; then the disk gets what the volume has. So each of the two decisions has one side that is as it was.

use worknode::history::Kind;

use super::known::Stamp;
use crate::volume::Seen;

/// How a file of the disk that has changed comes to the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    /// As it is: the name is free, or the same kind of file has it.
    Plain,
    /// In place of another kind of file, which becomes history.
    Over,
    /// In place of a directory that nobody else has changed, as far as that is empty then.
    OverDir,
    /// Not under its name: it gets another one on the disk, since a directory keeps the name.
    Aside,
}

/// Decides that. `before` is what the volume had, and `now` what it has.
pub(super) fn put(disk: &Kind, before: Option<&Seen>, now: Option<&Seen>) -> Put {
    let is_dir = |seen: Option<&Seen>| seen.is_some_and(|seen| seen.kind == Kind::Dir);
    match now {
        None => Put::Plain,
        Some(now) if now.kind == *disk => Put::Plain,
        Some(_) if is_dir(now) && is_dir(before) => Put::OverDir,
        Some(_) if is_dir(now) => Put::Aside,
        Some(_) => Put::Over,
    }
}

/// What the disk is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Back {
    /// What it is.
    Nothing,
    /// The same; the volume wrote once more what it had.
    Note,
    /// It gets a new name.
    Make,
    /// A file gets another content, or other attributes.
    Write,
    /// A directory gets another mode.
    Mode,
    /// Another kind of file gets the name.
    Replace,
    /// The name goes.
    Remove,
}

/// Decides that. `before` is what both sides had, and `now` what the volume has.
pub(super) fn back(before: Option<&Seen>, now: Option<&Seen>) -> Back {
    let (before, now) = match (before, now) {
        (None, None) => return Back::Nothing,
        (Some(_), None) => return Back::Remove,
        (None, Some(_)) => return Back::Make,
        (Some(before), Some(now)) => (before, now),
    };
    if before == now {
        return Back::Nothing;
    }
    let is_same_mode = before.permissions == now.permissions;
    match (&before.kind, &now.kind) {
        (Kind::File, Kind::File) => {
            let is_same = before.is_like(now) && before.modified == now.modified && is_same_mode;
            if is_same { Back::Note } else { Back::Write }
        }
        (Kind::Dir, Kind::Dir) => {
            if is_same_mode {
                Back::Note
            } else {
                Back::Mode
            }
        }
        (before, now) if before == now => Back::Note,
        // A link is replaced at once.
        (Kind::Symlink(_), Kind::Symlink(_)) => Back::Write,
        _ => Back::Replace,
    }
}

/// Tells whether a file of the disk has changed. The times of a directory change with its names.
pub(super) fn has_changed(kind: &Kind, before: Option<(&Stamp, &Seen)>, now: &Stamp) -> bool {
    let Some((stamp, seen)) = before else { return true };
    if *kind == Kind::Dir && seen.kind == Kind::Dir {
        return (stamp.mode, stamp.uid, stamp.gid) != (now.mode, now.uid, now.gid);
    }
    stamp != now
}

#[cfg(test)]
mod tests {
    use worknode::history::Permissions;

    use super::*;
    use crate::volume::{Like, Volume};

    fn link() -> Kind {
        Kind::Symlink(b"target".to_vec())
    }

    /// Returns what a volume says of new files of some kinds.
    fn seen(kinds: &[Kind]) -> Vec<Seen> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let options = crate::volume::Options {
            author: worknode::history::Author([1; 16]),
            signer: None,
            may_pass: false,
            boot: None,
        };
        let volume = Volume::open(dir.path(), &options).expect("a volume");
        let permissions = Permissions { mode: 0o755, uid: 0, gid: 0 };
        let each = kinds.iter().enumerate().map(|(at, kind)| {
            let (name, like) = (at.to_string(), Like { permissions, modified: 0 });
            let what = (kind.clone(), like);
            let made = volume.put_other_beside(crate::volume::ROOT, name.as_bytes(), what, None);
            made.expect("the name is free")
        });
        each.collect()
    }

    #[test]
    fn a_directory_keeps_its_name_and_other_files_are_replaced() {
        let [file, dir, symlink] = [Kind::File, Kind::Dir, link()];
        let all = seen(&[file.clone(), dir.clone(), symlink.clone()]);
        let [a_file, a_dir, a_link] = [0, 1, 2].map(|at| Some(&all[at]));
        for (disk, before, now, expected) in [
            (&file, None, None, Put::Plain),
            (&file, a_file, a_file, Put::Plain),
            (&file, a_file, a_link, Put::Over),
            (&file, a_file, a_dir, Put::Aside),
            (&file, None, a_dir, Put::Aside),
            (&file, a_dir, a_dir, Put::OverDir),
            (&dir, a_dir, a_dir, Put::Plain),
            (&dir, None, a_file, Put::Over),
            (&symlink, a_link, a_link, Put::Plain),
            (&symlink, a_dir, a_dir, Put::OverDir),
            (&symlink, a_file, a_dir, Put::Aside),
        ] {
            assert_eq!(put(disk, before, now), expected, "{disk:?} {before:?} {now:?}");
        }
    }

    #[test]
    fn the_disk_becomes_what_has_changed_in_the_volume() {
        let all = seen(&[Kind::File, Kind::Dir, link(), Kind::Symlink(b"x".to_vec())]);
        let [file, dir, one, two] = [0, 1, 2, 3].map(|at| Some(&all[at]));
        let other = |seen: Option<&Seen>, mode, modified| {
            let mut seen = seen.expect("it is there").clone();
            (seen.permissions.mode, seen.modified) = (mode, modified);
            seen
        };
        let mut again = all[0].clone();
        again.ino = 99;
        for (before, now, expected) in [
            (None, None, Back::Nothing),
            (None, file, Back::Make),
            (file, None, Back::Remove),
            (file, file, Back::Nothing),
            (file, Some(&again), Back::Note),
            (file, Some(&other(file, 0o755, 7)), Back::Write),
            (file, Some(&other(file, 0o700, 0)), Back::Write),
            (dir, Some(&other(dir, 0o700, 0)), Back::Mode),
            (one, two, Back::Write),
            (file, dir, Back::Replace),
            (dir, file, Back::Replace),
        ] {
            assert_eq!(back(before, now), expected, "{before:?} {now:?}");
        }
    }
}
