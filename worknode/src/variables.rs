//! Names of the session's environment variables.

/// Path of the session's policy page.
pub const PAGE: &str = "OSWALK_PAGE";
/// Path of the program that a stub replaces.
pub const WALK: &str = "OSWALK_WALK";
/// Marks an environment to which the preload library added the session's variables although the caller
/// had left them out. The program must not see them.
pub const ADDED: &str = "OSWALK_ADDED";
/// The [`PAGE`] of a session that an interactive shell has opened for itself. A shell below opens one of its own, but leaves alone
/// a session of `oswalk exec`.
pub const SHELL_PAGE: &str = "OSWALK_SHELL_PAGE";

/// Prefix of the environment entry of [`PAGE`].
pub const PAGE_ENTRY: &[u8] = b"OSWALK_PAGE=";
/// Prefix of the environment entry of [`WALK`].
pub const WALK_ENTRY: &[u8] = b"OSWALK_WALK=";
/// Prefix of the environment entry of [`ADDED`].
pub const ADDED_ENTRY: &[u8] = b"OSWALK_ADDED=";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_prefixes_of_their_variables() {
        for (name, entry) in [(PAGE, PAGE_ENTRY), (WALK, WALK_ENTRY), (ADDED, ADDED_ENTRY)] {
            assert_eq!([name.as_bytes(), b"="].concat(), entry);
        }
    }
}
