//! The keys of the tables. A former value has its key, marked as past, followed by the end of its time.

use worknode::history::{Dot, Hlc};

/// The extended attribute of files whose past is kept for ever.
pub(super) const PIN: &[u8] = b"trusted.oswalk.pin";

/// The extended attribute that says how many nodes keep what is in a directory.
pub(super) const REPLICAS: &[u8] = b"trusted.oswalk.replicas";

/// An encoded key.
pub(super) type Key = Vec<u8>;

const NODE: u8 = b'n';
const ENTRY: u8 = b'e';
const XATTR: u8 = b'x';
const ORPHAN: u8 = b'o';
const STATE: u8 = b's';
const KEPT: u8 = b'k';
const REMOVED: u8 = b'r';
const OTHERS: u8 = b'c';
const LOST: u8 = b'l';
const LOSERS: u8 = b'f';
const BASE: u8 = b'b';
const PAST: u8 = b'~';
/// Ends a name, which may contain any other byte. So the keys of one name are together.
const END: u8 = 0;

/// The key of a file's attributes.
pub(super) fn node(ino: u64) -> Key {
    numbered(NODE, ino)
}

/// The key of a name in a directory.
pub(super) fn entry(dir: u64, name: &[u8]) -> Key {
    named(entries(dir), name)
}

/// The prefix of all names in a directory.
pub(super) fn entries(dir: u64) -> Key {
    numbered(ENTRY, dir)
}

/// The key of an extended attribute.
pub(super) fn xattr(ino: u64, name: &[u8]) -> Key {
    named(xattrs(ino), name)
}

/// The prefix of all extended attributes of a file.
pub(super) fn xattrs(ino: u64) -> Key {
    numbered(XATTR, ino)
}

/// The key of a file that is in use without a name.
pub(super) fn orphan(ino: u64) -> Key {
    numbered(ORPHAN, ino)
}

/// The key of the event that removed an extended attribute.
pub(super) fn removed_xattr(ino: u64, name: &[u8]) -> Key {
    named(removed_xattrs(ino), name)
}

/// The prefix of all of a file.
pub(super) fn removed_xattrs(ino: u64) -> Key {
    numbered(REMOVED, ino)
}

/// The key of the files that lost a name against a concurrent one.
pub(super) fn others(dir: u64, name: &[u8]) -> Key {
    named(numbered(OTHERS, dir), name)
}

/// The key of the files that ever lost a name against a concurrent one.
pub(super) fn losers(dir: u64, name: &[u8]) -> Key {
    named(numbered(LOSERS, dir), name)
}

/// The key of a content that was never a file's present one, or lost against a concurrent one.
pub(super) fn lost(ino: u64, version: Dot) -> Key {
    [losts(ino).as_slice(), &version.author.0, &version.seq.to_be_bytes()].concat()
}

/// The prefix of all of a file.
pub(super) fn losts(ino: u64) -> Key {
    numbered(LOST, ino)
}

/// The key of the event whose content programs have changed since, if another content came meanwhile.
pub(super) fn base(ino: u64) -> Key {
    numbered(BASE, ino)
}

/// The prefix of the names that several files have.
pub(super) const ALL_OTHERS: [u8; 1] = [OTHERS];
/// The prefix of all contents that lost.
pub(super) const ALL_LOST: [u8; 1] = [LOST];
/// The prefix of all such events.
pub(super) const BASES: [u8; 1] = [BASE];
/// The prefix of all such files.
pub(super) const ORPHANS: [u8; 1] = [ORPHAN];
/// The prefix of all files.
pub(super) const NODES: [u8; 1] = [NODE];

/// The prefix of all names.
pub(super) const ENTRIES: [u8; 1] = [ENTRY];
/// The prefix of all extended attributes.
pub(super) const XATTRS: [u8; 1] = [XATTR];
/// The prefix of all former values.
pub(super) const PASTS: [u8; 1] = [PAST];

/// The key of what is kept of the past.
pub(super) fn kept() -> Key {
    vec![KEPT]
}

/// The first bytes of the keys of what the tree is now.
pub(super) const PRESENT: [u8; 3] = [NODE, ENTRY, XATTR];

/// The key of the volume's own state.
pub(super) fn state() -> Key {
    vec![STATE]
}

/// Returns the number in a key of a file.
pub(super) fn number(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*key.get(1..)?.first_chunk()?))
}

/// Returns the name in the key of an entry or an extended attribute.
pub(super) fn name(key: &[u8]) -> &[u8] {
    key.get(9..key.len().saturating_sub(1)).unwrap_or_default()
}

/// The key of the value that a key had until a moment.
pub(super) fn past(key: &[u8], until: Hlc) -> Key {
    [&[PAST], key, &until.0.to_be_bytes()].concat()
}

/// The end of the former values of a key.
pub(super) fn past_end(key: &[u8]) -> Key {
    [&[PAST], key, &[0xff; 9]].concat()
}

/// The prefix of the former values of all keys with a prefix.
pub(super) fn past_prefix(prefix: &[u8]) -> Key {
    [&[PAST], prefix].concat()
}

/// Returns the key that a past key is of.
pub(super) fn present(past: &[u8]) -> Option<Key> {
    Some(past.get(1..past.len().checked_sub(8)?)?.to_vec())
}

/// Returns the end of the time of a past key.
pub(super) fn until(past: &[u8]) -> Option<Hlc> {
    Some(Hlc(u64::from_be_bytes(*past.last_chunk()?)))
}

fn numbered(kind: u8, number: u64) -> Key {
    [&[kind][..], &number.to_be_bytes()].concat()
}

fn named(mut key: Key, name: &[u8]) -> Key {
    key.extend(name);
    key.push(END);
    key
}
