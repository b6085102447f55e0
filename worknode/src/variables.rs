//! Names of the environment variables by which processes know their session.

/// Where the policy page of a session is.
pub const PAGE: &str = "OSWALK_PAGE";
/// The program for which a stub stands.
pub const WALK: &str = "OSWALK_WALK";
/// Says that the session's variables were added to an environment that was made without them: the program is not to
/// see them.
pub const ADDED: &str = "OSWALK_ADDED";

/// The beginnings of their entries.
pub const PAGE_ENTRY: &[u8] = b"OSWALK_PAGE=";
pub const WALK_ENTRY: &[u8] = b"OSWALK_WALK=";
pub const ADDED_ENTRY: &[u8] = b"OSWALK_ADDED=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_begin_with_names() {
        for (name, entry) in [(PAGE, PAGE_ENTRY), (WALK, WALK_ENTRY), (ADDED, ADDED_ENTRY)] {
            assert_eq!([name.as_bytes(), b"="].concat(), entry);
        }
    }
}
