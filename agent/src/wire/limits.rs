//! The version and the limits of a link. Both sides rely on them: one that exceeds a limit is refused, or its link is dropped.
//! docs/protocol.md has them in tables, which a test compares with this file.

use packetfs::path::PATH_BYTES_MAX;
use packetfs::tree::NAMES_MAX;

/// Version of all that is in this room; agents of other versions refuse the link by name.
pub const VERSION: u32 = 12;

/// Bytes read from a side that has not proved who it is: the upgrade to a WebSocket takes some 250 bytes, a hello
/// and a proof less than 350. What follows stays in the kernel until then.
pub const GREETING_BYTES_MAX: usize = 2048;
/// Bytes of one message of the greeting: twice a hello with the longest name and version.
pub const GREETING_MESSAGE_BYTES_MAX: usize = 256;
/// Seconds by which two clocks may differ: `make` and its like compare times of two machines to the second at best,
/// and NTP keeps to a fraction of that.
pub const CLOCKS_APART_MAX_S: u64 = 10;

/// Bytes of one WebSocket message that are accepted.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of the payload of one frame: what a keystroke may have to wait behind.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a payload in all its frames: a directory of a million names.
pub const ASSEMBLED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Bytes of a payload that holds no directory: a spec, what is told ahead of a walk, or packets of changed files.
pub const LONG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of every other payload: a question names a path and 16 packets.
pub const SHORT_BYTES_MAX: usize = 1024 * 1024;

/// Packets asked for in one question: an answer of about a megabyte.
pub const PACKETS_PER_ASK: usize = 16;
/// Bytes of a question: a path, and for each packet an offset, a digest and a number in their longest form.
pub const ASK_BYTES_MAX: usize = PATH_BYTES_MAX + PACKETS_PER_ASK * 48 + 16;
/// Questions of one side that are on their way at once; more wait there. At a megabyte each that fills any network.
pub const QUESTIONS_AT_ONCE: usize = 128;
/// Questions of the other side that wait for their answers. It keeps to half of that; the other half is for answers
/// that are on their way to it.
pub const QUESTIONS_MAX: usize = 2 * QUESTIONS_AT_ONCE;
/// Answers that are told in one message: three times what an origin tells ahead of any walk.
pub const TOLD_MAX: usize = 8192;
/// Bytes told ahead of a walk, in all. An origin tells 4 MiB as it estimates them.
pub const TOLD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Changes in one message, and names in all of them: those of a directory.
pub const CHANGES_MAX: usize = NAMES_MAX;
/// Bytes of a message of changes: of a million names, with all their attributes.
pub const CHANGES_BYTES_MAX: usize = ASSEMBLED_BYTES_MAX;
/// Exits of the other side's walks that wait to go out: those of all slots of a large node, and refusals of as many
/// more. A side that opens walks and does not read how they end has no use for them.
pub const EXITS_MAX: usize = 4096;
/// Bytes that wait in one stream. The largest that an honest side sends without having been asked are the packets of
/// changed files, which are taken in as they come.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How many times as long as its body a squeezed message may be: a side that sends little makes nobody keep much.
/// Messages that are more alike are sent as they are.
pub const GROWTH_MAX: usize = 256;
/// Bytes that a squeezed message may have whatever its body has.
pub const GROWN_BYTES_MIN: usize = 64 * 1024;
/// Bytes of a dictionary; larger messages never are one.
pub const DICTIONARY_BYTES_MAX: usize = 64 * 1024;
