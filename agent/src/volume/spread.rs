//! Answers what concerns several nodes' volumes: conflicts between them.

use packetfs::volume::{Conflicted, Version, Volume, moment};
use worknode::history::Author;
use worknode::request::{VolumeConflict, VolumeConflictVersion, VolumePlace, VolumeReply};

use super::failure::shown;
use crate::mesh::Mesh;

/// Returns the conflicts at a path and below it.
pub(super) fn conflicts(
    volume: &Volume,
    mesh: &Mesh,
    place: &VolumePlace,
) -> anyhow::Result<VolumeReply> {
    let found = volume.conflicts(&place.path).map_err(|errno| {
        anyhow::anyhow!("failed to look for conflicts in {}: {}", shown(place), errno.desc())
    })?;
    let names = mesh.names().of_authors(&volume.authors());
    let name = |author: Author| {
        names.get(&author).map_or_else(|| format!("{author:?}"), ToString::to_string)
    };
    let version = |version: Version| VolumeConflictVersion {
        node: name(version.author),
        time: moment::text(version.moment),
        bytes: version.bytes,
        version: version.name,
        present: version.is_present,
    };
    let told = |conflict: Conflicted| {
        // A directory has none. What was chosen meanwhile is in conflict no longer.
        let all = volume.versions(&conflict.path).unwrap_or_default();
        let present = all.into_iter().filter(|version| version.is_present);
        VolumeConflict {
            path: String::from_utf8_lossy(&conflict.path).into_owned(),
            versions: conflict.versions.into_iter().chain(present).map(version).collect(),
        }
    };
    Ok(VolumeReply::Conflicts(found.into_iter().map(told).collect()))
}
