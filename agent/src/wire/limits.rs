//! The version and the limits of a link. Both sides rely on them: one that exceeds a limit is refused, or its link is dropped.
//! docs/protocol.md has them in tables, which a test compares with this file.

use packetfs::path::PATH_BYTES_MAX;
use packetfs::tree::NAMES_MAX;
use worknode::capability::TOKEN_BYTES_MAX;

/// Version of all that is in this room; agents of other versions refuse the link by name.
pub const VERSION: u32 = 17;
/// The oldest version that this side still speaks. Two agents come together if each speaks a version of the other.
pub const OLDEST_VERSION: u32 = 15;
/// The version from which on runners give packets of an origin to each other.
pub const HOLDERS_VERSION: u32 = 16;
/// The version from which on locks on files of volumes hold between nodes.
pub const LOCKS_VERSION: u32 = 16;
/// The version from which on a runner takes packets from its own volume, if an origin says so.
pub const OWN_HELD_VERSION: u32 = 17;

/// Most bytes read from a peer that is not known to be a member: TLS takes some 700 bytes, the WebSocket upgrade 250, a
/// hello less than 800. Further bytes stay in the kernel until then.
pub const GREETING_BYTES_MAX: usize = 4096;
/// Longest hello: twice one with the longest name and version and the admissions of a node and of who invited it.
pub const GREETING_MESSAGE_BYTES_MAX: usize = 1536;
/// Longest message of records: a full roll, with the longest names.
pub const RECORDS_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Longest message of lists of revoked tokens: as many as there are, all full.
pub const REVOKED_BYTES_MAX: usize = MESSAGE_BYTES_MAX;
/// Longest token with the number of its session.
pub const INTRODUCTION_BYTES_MAX: usize = 17 * 1024;
const _: () = assert!(INTRODUCTION_BYTES_MAX > TOKEN_BYTES_MAX + 64);
/// Most sessions that a peer may have introduced at once, each of which takes some 300 bytes.
pub const SESSIONS_MAX: usize = 4096;
/// Longest request to join: a word, a name and a version.
pub const JOIN_REQUEST_BYTES_MAX: usize = 512;
/// Longest reply to it: all records, and a broker's URL.
pub const JOIN_REPLY_BYTES_MAX: usize = 2 * RECORDS_BYTES_MAX;
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

/// Most authors of events in one message: as many as a cluster has members, with room.
pub const AUTHORS_MAX: usize = 4096;
/// Most packets of a volume in one request: about a megabyte, four at most.
pub const FETCHED_MAX: usize = 16;
/// Most packets of a volume in one question whether they are there: a read of the index each.
pub const PROBED_MAX: usize = 4096;
/// About how many bytes of events are sent at once, and of small contents with them.
pub const EVENTS_BYTES: usize = 256 * 1024;
/// Most bytes of small contents that are sent with events.
pub const CARRIED_BYTES_MAX: usize = 1024 * 1024;
/// Most messages of events that a side sends before it knows whether they were taken.
pub const EVENTS_AT_ONCE: usize = 8;
/// Most requests for packets that a side has open at once on a link: a keystroke may have to wait for their answers.
pub const FETCHES_AT_ONCE: usize = 8;
/// Most open requests for packets that are accepted from a peer, with room for answers in transit.
pub const FETCHES_MAX: usize = 4 * FETCHES_AT_ONCE;

/// Most packets in one claim: files of one packet each, for some 200 KiB, or a tenth of a compiler.
pub const PACKETS_PER_CLAIM: usize = 32;
/// Most lists of held packets in one message, each of which is a claim.
pub const HELD_MAX: usize = 256;
/// Most claims that a side has open at once on a link.
pub const CLAIMS_AT_ONCE: usize = 16;
/// Most open claims that are accepted from a peer, with room for answers in transit.
pub const CLAIMS_MAX: usize = 4 * CLAIMS_AT_ONCE;

/// Highest compression ratio of a squeezed message, so that a peer cannot make this side allocate much by sending
/// little. Messages with a higher ratio are sent uncompressed.
pub const GROWTH_MAX: usize = 256;
/// Length that a squeezed message may have at any compression ratio.
pub const GROWN_BYTES_MIN: usize = 64 * 1024;
/// Largest dictionary; larger messages do not become one.
pub const DICTIONARY_BYTES_MAX: usize = 64 * 1024;
