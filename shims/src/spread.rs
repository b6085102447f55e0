//! `oswalk fs conflicts`, `where`, `prefetch` and `replicas`: what concerns several nodes' volumes.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use indicatif::HumanBytes;
use worknode::request::{
    VolumeConflict, VolumeCopies, VolumeHolder, VolumePrefetched, VolumeReplicas, VolumeReply,
    VolumeRequest, VolumeWhere,
};
use worknode::said::escape;

use crate::cluster::orders::unexpected;
use crate::error::Failure;
use crate::places::Places;
use crate::{history, say, work};

pub(crate) fn conflicts(json: bool, path: &Path, places: &Places) -> Result<ExitCode, Failure> {
    let place = history::place(path)?;
    let point = String::from_utf8_lossy(&place.point).into_owned();
    let request = VolumeRequest::Conflicts { place };
    let reply = work::of_volume(places, "looking for conflicts", request)?;
    let VolumeReply::Conflicts(found) = reply else { return Err(unexpected()) };
    if json {
        say::json(&found)?
    } else {
        say::out(conflicts_text(&point, &found))?
    }
    Ok(ExitCode::SUCCESS)
}

fn conflicts_text(point: &str, found: &[VolumeConflict]) -> String {
    let mut text = String::new();
    for VolumeConflict { path, versions } in found {
        let _ = writeln!(text, "{}", escape(&format!("{point}{path}"), usize::MAX));
        for version in versions {
            let (node, bytes) = (&version.node, HumanBytes(version.bytes));
            let present = if version.present { "  present" } else { "" };
            let (name, time) = (&version.version, &version.time);
            let _ = writeln!(text, "  {name}  {node}  {time}  {bytes}{present}");
        }
    }
    if !found.is_empty() {
        text += "'oswalk choose FILE VERSION' makes a version the content; 'oswalk choose --dismiss FILE VERSION' says \
                 that it is not wanted\n";
    }
    text
}

pub(crate) fn find(json: bool, path: &Path, places: &Places) -> Result<ExitCode, Failure> {
    let request = VolumeRequest::Where { place: history::place(path)? };
    let reply = work::of_volume(places, "asking all nodes", request)?;
    let VolumeReply::Where(found) = reply else { return Err(unexpected()) };
    if json {
        say::json(&found)?
    } else {
        say::out(where_text(&found))?
    }
    Ok(ExitCode::SUCCESS)
}

fn where_text(found: &VolumeWhere) -> String {
    let VolumeWhere { files, bytes, nodes } = found;
    let mut text = format!("{files} files, {}\n", HumanBytes(*bytes));
    let width = nodes.iter().map(|it| it.node.len() + usize::from(it.this)).max().unwrap_or(0);
    for VolumeHolder { node, this, bytes: has, trouble } in nodes {
        let name = format!("{node}{}", if *this { "*" } else { "" });
        let _ = match trouble {
            Some(trouble) => writeln!(text, "{name:width$}  {trouble}"),
            None => {
                let (has, percent) = (HumanBytes(*has).to_string(), percent(*has, *bytes));
                writeln!(text, "{name:width$}  {has:>10}  {percent:>3} %")
            }
        };
    }
    text
}

/// Returns a part in percent: 100 only if that is all.
fn percent(part: u64, all: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(all.max(1));
    if part >= all { 100 } else { u64::try_from(percent).unwrap_or(100) }
}

pub(crate) fn prefetch(json: bool, path: &Path, places: &Places) -> Result<ExitCode, Failure> {
    let place = history::place(path)?;
    let point = String::from_utf8_lossy(&place.point).into_owned();
    let reply = work::of_volume(places, "fetching", VolumeRequest::Prefetch { place })?;
    let VolumeReply::Prefetched(done) = reply else { return Err(unexpected()) };
    if json {
        say::json(&done)?
    } else {
        say::out(prefetched_text(&point, &done))?
    }
    match done.lacking {
        0 => Ok(ExitCode::SUCCESS),
        files => Err(Failure::new(format!("no reachable node has all of {files} files"))
            .hint("'oswalk fs where' says which nodes are not reachable")),
    }
}

fn prefetched_text(point: &str, done: &VolumePrefetched) -> String {
    let VolumePrefetched { files, bytes, fetched, lacking, named } = done;
    let mut text = String::new();
    for path in named {
        let _ = writeln!(text, "nobody has: {}", escape(&format!("{point}{path}"), usize::MAX));
    }
    let here = files - lacking;
    let (fetched, bytes) = (HumanBytes(*fetched), HumanBytes(*bytes));
    let _ = writeln!(text, "{here} of {files} files are here; {fetched} of {bytes} were fetched");
    text
}

pub(crate) fn replicas(
    json: bool,
    path: &Path,
    count: Option<u32>,
    places: &Places,
) -> Result<ExitCode, Failure> {
    let place = history::place(path)?;
    let point = String::from_utf8_lossy(&place.point).into_owned();
    let request = VolumeRequest::Replicas { place, count };
    let reply = work::of_volume(places, "setting replicas", request)?;
    let VolumeReply::Replicas(replicas) = reply else { return Err(unexpected()) };
    if json {
        say::json(&replicas)?;
        return Ok(ExitCode::SUCCESS);
    }
    let VolumeReplicas { count, by } = replicas;
    let says = by.as_ref().map_or_else(
        || "no directory says more".to_owned(),
        |by| format!("{} says so", escape(&format!("{point}{by}"), usize::MAX)),
    );
    let nodes = if count == 1 { "1 node keeps" } else { &format!("{count} nodes keep") };
    say::out(format_args!("{nodes} each content in {}: {says}\n", path.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how many contents have the copies that are asked for.
pub(crate) fn copies_text(copies: &VolumeCopies) -> String {
    let VolumeCopies { contents, bytes, .. } = *copies;
    if contents == 0 {
        return "none are asked for".to_owned();
    }
    let mut text = format!("{contents} contents, {}", HumanBytes(bytes));
    if copies.under_replicated == 0 {
        return text + ": all have their copies";
    }
    let (under, bytes) = (copies.under_replicated, HumanBytes(copies.under_replicated_bytes));
    let _ = write!(text, "; under-replicated: {under} contents, {bytes}");
    match copies.missing {
        0 => text += "; nothing is missing",
        missing => {
            let bytes = HumanBytes(copies.missing_bytes);
            let _ = write!(text, "; on no reachable node: {missing} contents, {bytes}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_percent_are_all() {
        assert_eq!([percent(0, 0), percent(999, 1000), percent(7, 7)], [100, 99, 100]);
        let node = |node: &str, this, bytes, trouble: Option<&str>| {
            let (node, trouble) = (node.to_owned(), trouble.map(str::to_owned));
            VolumeHolder { node, this, bytes, trouble }
        };
        let nodes = vec![
            node("a", true, 1024, None),
            node("long", false, 512, None),
            node("b", false, 0, Some("not reachable")),
        ];
        let text = where_text(&VolumeWhere { files: 2, bytes: 1024, nodes });
        assert_eq!(
            text,
            "2 files, 1.00 KiB\na*      1.00 KiB  100 %\nlong       512 B   50 %\nb     not reachable\n"
        );
    }
}
