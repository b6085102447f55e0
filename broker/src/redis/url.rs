//! Detects broker URLs with unescaped passwords.

/// Tells whether the password contains an unescaped delimiter, or a `%` that does not begin an escape.
pub(crate) fn is_unescaped(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    let Some((login, _)) = rest.rsplit_once('@') else { return false };
    let escapes = login.split('%').skip(1);
    let is_escape =
        |text: &str| text.len() >= 2 && text.bytes().take(2).all(|byte| byte.is_ascii_hexdigit());
    !scheme.contains("unix")
        && (login.contains(['/', '?', '#', '@']) || !escapes.into_iter().all(is_escape))
}

#[cfg(test)]
mod tests {
    use super::is_unescaped;

    #[test]
    fn characters_that_end_a_password() {
        for (url, expected) in [
            ("redis://:secret@host:6379/", false),
            ("redis://:p%40s%2F@host/", false),
            ("redis://host/1", false),
            ("redis+unix:///r@x?pass=a@b", false),
            ("redis://:p@ss@host/", true),
            ("redis://:p/ss@host/", true),
            ("redis://:p#ss@host/", true),
            ("redis://:p?ss@host/", true),
            ("redis://:p%ss@host/", true),
            ("redis://:p%@host/", true),
        ] {
            assert_eq!(is_unescaped(url), expected, "{url}");
        }
    }
}
