//! `oswalk fs conflicts`: what concerns several nodes' volumes.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use indicatif::HumanBytes;
use worknode::request::{VolumeConflict, VolumeReply, VolumeRequest};
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
