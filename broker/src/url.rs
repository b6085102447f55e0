//! Broker URLs as they may be shown.

/// Returns the URL without its credentials, also of one in whose password signs are written as they are.
pub(crate) fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Whatever it is, a password may be in it.
        return if url.contains('@') { "…".to_owned() } else { url.to_owned() };
    };
    if scheme.contains("unix") {
        let path = rest.split_once('?').map_or(rest, |(path, _query)| path);
        return format!("{scheme}://{path}");
    }
    let rest = rest.rsplit_once('@').map_or(rest, |(_credentials, host)| host);
    let rest = rest.split_once(['?', '#']).map_or(rest, |(host, _query)| host);
    format!("{scheme}://{rest}")
}

/// Tells whether a password has signs in it that begin the next part of a URL, or may be none of `%40` and its like.
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
    use super::{is_unescaped, without_password};

    #[test]
    fn signs_that_end_a_password() {
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

    #[test]
    fn shows_no_password() {
        for (url, shown) in [
            ("redis://:secret@host:6379/", "redis://host:6379/"),
            ("redis://user:s@cret@host/1", "redis://host/1"),
            ("redis://host", "redis://host"),
            ("redis+unix:///run/a@b.sock", "redis+unix:///run/a@b.sock"),
            ("redis+unix:///run/r.sock?pass=secret", "redis+unix:///run/r.sock"),
            ("nonsense", "nonsense"),
            ("redis:/:s@host", "…"),
            ("redis://:a/b@host:6379/", "redis://host:6379/"),
            ("redis://:a#b@host:6379/", "redis://host:6379/"),
            ("redis://:a?b@host:6379/", "redis://host:6379/"),
            ("redis://:a%b@host:6379/1?x=@y", "redis://y"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
