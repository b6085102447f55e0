//! The text and the name of the library of Redis functions in `functions/`.

use std::sync::OnceLock;

/// Part of every key and of the library's name. Raised when the meaning of keys changes, so that functions never read
/// an older version's keys, which a server may restore from its log.
pub(crate) const LAYOUT: u32 = 6;

/// The files of the library in the order in which they are joined: each uses only earlier ones.
const TEMPLATE: &str = concat!(
    include_str!("functions/library.lua"),
    include_str!("functions/limits.lua"),
    include_str!("functions/call.lua"),
    include_str!("functions/nodes.lua"),
    include_str!("functions/walks.lua"),
    include_str!("functions/reply.lua"),
    include_str!("functions/placement.lua"),
    include_str!("functions/slots.lua"),
    include_str!("functions/queue.lua"),
    include_str!("functions/losses.lua"),
    include_str!("functions/sessions.lua"),
    include_str!("functions/leases.lua"),
    include_str!("functions/walk_words.lua"),
    include_str!("functions/node_words.lua"),
    include_str!("functions/say.lua"),
    include_str!("functions/entries.lua"),
);

/// Returns the library's name, with which the names of its functions begin. It contains the layout and
/// a digest of the text, so that agents of different versions never replace each other's functions.
pub fn library() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| format!("oswalk_{LAYOUT}_{:016x}", fnv1a(TEMPLATE)))
}

/// Returns the library's text.
pub(crate) fn text() -> String {
    TEMPLATE.replace("@LIBRARY@", library())
}

fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
