//! The rows of the result, printed as they come.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use crate::sides::Values;

/// What a figure must reach.
pub(crate) enum Must {
    /// At most this much itself.
    Own(f64),
    /// At most this much times the other side.
    Over(f64),
    /// Nothing.
    Stated,
}

/// Prints rows, and adds them to a file.
pub(crate) struct Table {
    json: Option<PathBuf>,
}

impl Table {
    pub(crate) fn new(json: Option<PathBuf>) -> Self {
        println!(
            "{:<52} {:>10} {:<6} {:>10} {:>8}  must reach",
            "what", "measured", "unit", "ext4", "ratio"
        );
        Self { json }
    }

    /// A figure beside that of the disk's file system.
    pub(crate) fn beside(&mut self, what: &str, unit: &str, values: &Values, must: &Must) {
        let ratios = values.own.iter().zip(&values.beside).map(|(own, beside)| own / beside);
        let ratio = median(&ratios.collect::<Vec<_>>());
        self.row(what, unit, &values.own, Some((&values.beside, ratio)), must);
    }

    /// A figure that has nothing beside it.
    pub(crate) fn alone(&mut self, what: &str, unit: &str, values: &[f64], must: &Must) {
        self.row(what, unit, values, None, must);
    }

    fn row(
        &mut self,
        what: &str,
        unit: &str,
        own: &[f64],
        peer: Option<(&[f64], f64)>,
        must: &Must,
    ) {
        let measured = median(own);
        let (limit, is_met) = match *must {
            Must::Own(limit) => (format!("<= {limit} {unit}"), Some(measured <= limit)),
            Must::Over(limit) => (format!("<= {limit} x"), peer.map(|(_, ratio)| ratio <= limit)),
            Must::Stated => ("-".into(), None),
        };
        let mut line = format!("{what:<52} {measured:>10.2} {unit:<6}");
        let _ = match peer {
            Some((values, ratio)) => write!(line, " {:>10.2} {ratio:>6.2} x", median(values)),
            None => write!(line, " {:>10} {:>8}", "-", "-"),
        };
        println!(
            "{line}  {limit}{}",
            match is_met {
                Some(true) => " met",
                Some(false) => " MISSED",
                None => "",
            }
        );
        self.note(what, unit, own, peer, must, is_met);
    }

    /// Adds the row as `scripts/bench` has them.
    fn note(
        &self,
        what: &str,
        unit: &str,
        own: &[f64],
        peer: Option<(&[f64], f64)>,
        must: &Must,
        is_met: Option<bool>,
    ) {
        let Some(path) = &self.json else { return };
        let (of, limit) = match must {
            Must::Own(limit) => ("own", limit.to_string()),
            Must::Over(limit) => ("over", limit.to_string()),
            Must::Stated => ("own", "null".into()),
        };
        let null = || "null".to_owned();
        let row = format!(
            r#"{{"name":"fs","what":"{what}","unit":"{unit}","measured":{},"peer":"{}","beside":{},"operator":"/","over":{},"limit_on":"{of}","limit":{limit},"met":{},"values":{own:?},"peer_values":{}}}"#,
            median(own),
            if peer.is_some() { "ext4" } else { "" },
            peer.map_or_else(null, |(values, _)| median(values).to_string()),
            peer.map_or_else(null, |(_, ratio)| ratio.to_string()),
            is_met.map_or_else(null, |is_met| is_met.to_string()),
            peer.map_or_else(null, |(values, _)| format!("{values:?}")),
        );
        let file = std::fs::File::options().append(true).create(true).open(path);
        let written = file.and_then(|mut file| writeln!(file, "{row}"));
        written.expect("the file for the rows is writable");
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the value below which a part of the values is.
pub(crate) fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let at = (0..=last).find(|&at| crate::sides::count(at) >= part * crate::sides::count(last));
    sorted[at.unwrap_or(last)]
}
