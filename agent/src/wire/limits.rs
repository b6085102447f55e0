//! The version and the limits of a link. Both sides rely on them: one that exceeds a limit is refused, or its link is dropped.
//! docs/protocol.md has them in tables, which a test compares with this file.

use packetfs::path::PATH_BYTES_MAX;
use packetfs::tree::NAMES_MAX;

/// Version of all that is in this room; agents of other versions refuse the link by name.
pub const VERSION: u32 = 13;

/// Most bytes read from an unauthenticated peer: the WebSocket upgrade takes some 250 bytes, a hello and a proof less
/// than 350. Further bytes stay in the kernel until then.
pub const GREETING_BYTES_MAX: usize = 2048;
/// Longest message of the greeting: twice a hello with the longest name and version.
pub const GREETING_MESSAGE_BYTES_MAX: usize = 256;
/// Largest difference between two clocks. `make` and its like compare times of two machines at a resolution of a second
/// at best, and NTP is far more accurate.
pub const CLOCKS_APART_MAX_S: u64 = 10;

/// Longest WebSocket message that is accepted.
pub const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Longest payload of one frame. A keystroke may have to wait behind one.
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Longest assembled payload: a directory of a million names.
pub const ASSEMBLED_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Longest payload without a directory: a spec, answers sent ahead of a walk, or packets of changed files.
pub const LONG_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Longest payload of all other kinds: a question names a path and 16 packets.
pub const SHORT_BYTES_MAX: usize = 1024 * 1024;

/// Most packets in one question, for an answer of about a megabyte.
pub const PACKETS_PER_ASK: usize = 16;
/// Longest question: a path, and for each packet an offset, a digest and a length in their longest encoding.
pub const ASK_BYTES_MAX: usize = PATH_BYTES_MAX + PACKETS_PER_ASK * 48 + 16;
/// Most open questions that a side sends at once. At a megabyte each, they saturate any network.
pub const QUESTIONS_AT_ONCE: usize = 128;
/// Most open questions that are accepted from a peer. An honest peer keeps to half of it; the other half allows for
/// answers in transit.
pub const QUESTIONS_MAX: usize = 2 * QUESTIONS_AT_ONCE;
/// Most answers in one message sent ahead of a walk: three times what an origin sends.
pub const TOLD_MAX: usize = 8192;
/// Most bytes sent ahead of a walk. An origin sends up to 4 MiB by its own estimate.
pub const TOLD_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Most changes in one message, and most names in all of them: as many as in a directory.
pub const CHANGES_MAX: usize = NAMES_MAX;
/// Longest message of changes: a million names with all their attributes.
pub const CHANGES_BYTES_MAX: usize = ASSEMBLED_BYTES_MAX;
/// Most exits that wait to be sent: those of all slots of a large node, and as many refusals. A peer that opens walks
/// but does not read their exits has its link dropped.
pub const EXITS_MAX: usize = 4096;
/// Most bytes that wait in one stream. The largest unrequested payloads of an honest peer are packets of changed
/// files, which are consumed as they arrive.
pub const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Highest compression ratio of a squeezed message, so that a peer cannot make this side allocate much by sending
/// little. Messages with a higher ratio are sent uncompressed.
pub const GROWTH_MAX: usize = 256;
/// Length that a squeezed message may have at any compression ratio.
pub const GROWN_BYTES_MIN: usize = 64 * 1024;
/// Largest dictionary; larger messages do not become one.
pub const DICTIONARY_BYTES_MAX: usize = 64 * 1024;
