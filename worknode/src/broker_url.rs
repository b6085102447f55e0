//! A broker's URL without its credentials, for display.

/// Returns the URL without its credentials, even if the password contains unescaped reserved characters.
#[must_use]
pub fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        // Malformed: it may contain a password.
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

#[cfg(test)]
mod tests {
    use super::*;

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
