//! Broker URLs as they may be shown.

/// Returns the URL without its credentials.
pub(crate) fn without_password(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(front, _query)| front);
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let host = authority.rsplit_once('@').map_or(authority, |(_credentials, host)| host);
    format!("{scheme}://{host}{path}")
}

#[cfg(test)]
mod tests {
    use super::without_password;

    #[test]
    fn shows_no_password() {
        for (url, shown) in [
            ("redis://:secret@host:6379/", "redis://host:6379/"),
            ("redis://user:s@cret@host/1", "redis://host/1"),
            ("redis://host", "redis://host"),
            ("redis+unix:///run/a@b.sock", "redis+unix:///run/a@b.sock"),
            ("redis+unix:///run/r.sock?pass=secret", "redis+unix:///run/r.sock"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), shown);
        }
    }
}
