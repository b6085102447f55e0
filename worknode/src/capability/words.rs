//! What a token allows, in plain words.

use std::fmt;

use super::decision::Capability;

impl Capability {
    /// Returns what people read: a line for each bound. `now_s` is the time, in seconds since 1970.
    #[must_use]
    pub fn words(&self, now_s: u64) -> String {
        let mut lines = Lines(String::new());
        let holder = &self.holder;
        let name = holder.user.as_deref().map_or_else(String::new, |user| format!(" ({user})"));
        let rights = self.bounds.rights.unwrap_or_default();
        lines.add("holder", format!("user {}{name} of node {}", holder.uid, holder.node));
        lines.add("rights", list(rights.iter()));
        let nodes = self.bounds.nodes.as_ref();
        lines.add("nodes", nodes.map_or_else(|| "all".to_owned(), list));
        let paths = self.bounds.paths.as_ref();
        lines.add("writes", paths.map_or_else(|| "what the user may".to_owned(), list));
        let programs = if self.bounds.only_compile_steps { "compile steps only" } else { "all" };
        lines.add("programs", programs.to_owned());
        let slots = self.bounds.slots.map(|slots| format!("{slots} at once"));
        lines.add("walks", slots.unwrap_or_else(|| "as many as there are slots".to_owned()));
        let memory = self.bounds.memory.map(|bytes| format!("{bytes} bytes for each walk"));
        lines.add("memory", memory.unwrap_or_else(|| "what a node gives".to_owned()));
        let network = if self.bounds.no_network { "none" } else { "that of a node" };
        lines.add("network", network.to_owned());
        lines.add("expires", self.expiry(now_s));
        if let Some(sessions) = &self.bounds.sessions {
            lines.add("sessions", list(sessions));
        }
        lines.add("number", self.id().to_string());
        lines.0
    }

    fn expiry(&self, now_s: u64) -> String {
        match self.bounds.until_s {
            None => "never".to_owned(),
            Some(until_s) if until_s < now_s => "it has expired".to_owned(),
            Some(until_s) => format!("in {}", span(until_s - now_s)),
        }
    }
}

struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: String) {
        let value = if value.is_empty() { "none".to_owned() } else { value };
        self.0.push_str(&format!("{name:9} {value}\n"));
    }
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Returns a span of time in its largest unit.
fn span(seconds: u64) -> String {
    let unit = [(86_400, "days"), (3600, "hours"), (60, "minutes")];
    let unit = unit.into_iter().find(|(length, _)| seconds >= 2 * length);
    let (length, name) = unit.unwrap_or((1, "seconds"));
    format!("{} {name}", seconds / length)
}

#[cfg(test)]
mod tests {
    use super::super::bounds::Bounds;
    use super::super::holder::Holder;
    use super::super::number::TokenId;
    use super::super::right::Rights;
    use super::*;

    #[test]
    fn a_token_says_what_it_allows() {
        let holder = Holder {
            node: "laptop".parse().expect("a name"),
            uid: 1000,
            user: Some("alice".to_owned()),
            minted_s: 1,
            rights: Rights::SESSION,
        };
        let bounds = Bounds {
            rights: Some(Rights::SESSION),
            nodes: Some(["n1".parse().expect("a name"), "n2".parse().expect("a name")].into()),
            until_s: Some(7300),
            no_network: true,
            ..Bounds::default()
        };
        let capability = Capability { holder, bounds, ids: vec![TokenId([0; 16])] };
        let said = "\
holder    user 1000 (alice) of node laptop
rights    exec, read, write, signal
nodes     n1, n2
writes    what the user may
programs  all
walks     as many as there are slots
memory    what a node gives
network   none
expires   in 2 hours
number    aaaaaaaaaaaaaaaaaaaaaaaaaa
";
        assert_eq!(capability.words(100), said);
        assert!(capability.words(7301).contains("it has expired"));
    }
}
