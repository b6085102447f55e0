//! `oswalk fs`: the care of the volume.

use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde::Serialize;
use worknode::request::{
    Retention, VolumeChecked, VolumeExported, VolumeGarbage, VolumeReply, VolumeRequest,
    VolumeStatus,
};
use worknode::said::escape;

use crate::cluster::orders::unexpected;
use crate::error::Failure;
use crate::places::Places;
use crate::{history, moment, say, spread, versions, work};

/// Look after the volume of this node; for the agent's user and root
#[derive(Debug, Subcommand)]
pub(crate) enum Fs {
    /// Show the volume in numbers: mounts, files, packets, what is kept
    Status(Json),
    /// Check the log, the tree, and every content
    Fsck(Json),
    /// Remove what is not kept any more; the agent does so every hour
    Gc(Gc),
    /// Keep all of the past of a file or directory
    Pin(Pin),
    /// Keep the past of a file or directory only as long as that of others
    Unpin(Pin),
    /// Read every packet again, to find disk errors in time; damaged ones are fetched again from other nodes
    Scrub(Json),
    /// Write the volume, or a directory in it, into a new directory elsewhere
    Export(Export),
    /// List what nodes have changed at the same time: the versions that lost, until one is chosen or they are dismissed
    Conflicts(Below),
    /// Show which nodes have the bytes of a file, or of all files in a directory
    Where(Below),
    /// Fetch a file, or all files in a directory, from other nodes, so that they can be read without them
    Prefetch(Below),
    /// Show or set on how many nodes each content in a directory is kept
    Replicas(Replicas),
}

#[derive(Debug, Args)]
pub(crate) struct Replicas {
    /// The directory
    path: PathBuf,
    /// How many nodes keep each content below it, the writer among them; 0 for as many as the directory above says
    #[arg(value_name = "N")]
    count: Option<u32>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// A file or a directory with all below it.
#[derive(Debug, Args)]
pub(crate) struct Below {
    /// The file or directory [default: all of the volume in which the current directory is, or of the only one that is mounted]
    path: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Json {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Keep only this much of the past, this once: all of it, full hours, days [default: what 'oswalk up --keep' says]
    ///
    /// What is pinned stays. What is given up cannot be brought back.
    #[arg(long, value_name = "ALL,HOURLY,DAILY")]
    keep: Option<Retention>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// The file or directory
    path: PathBuf,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The new directory
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// A directory in the volume, below its mount or from its root; the volume need not be mounted
    #[arg(long, value_name = "PATH", default_value = "/")]
    from: PathBuf,
    /// The time, such as 14:00, '2026-11-28 14:00', '2h ago' or yesterday [default: now]
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Below {
    fn path(&self) -> PathBuf {
        self.path.clone().unwrap_or_else(crate::mount::usual)
    }
}

pub(crate) fn run(command: &Fs, places: &Places) -> Result<ExitCode, Failure> {
    match command {
        Fs::Status(options) => status(options, places),
        Fs::Fsck(options) => check(options, places, "checking", VolumeRequest::Check),
        Fs::Gc(options) => collect(options, places),
        Fs::Pin(options) => pin(options, places, true),
        Fs::Unpin(options) => pin(options, places, false),
        Fs::Scrub(options) => check(options, places, "reading", VolumeRequest::Scrub),
        Fs::Export(options) => export(options, places),
        Fs::Conflicts(options) => spread::conflicts(options.json, &options.path(), places),
        Fs::Where(options) => spread::find(options.json, &options.path(), places),
        Fs::Prefetch(options) => spread::prefetch(options.json, &options.path(), places),
        Fs::Replicas(Replicas { path, count, json }) => {
            spread::replicas(*json, path, *count, places)
        }
    }
}

/// Prints what was found: as JSON, or as text.
fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    if json { say::json(value) } else { say::out(text()) }
}

fn status(options: &Json, places: &Places) -> Result<ExitCode, Failure> {
    let reply = work::of_volume(places, "counting", VolumeRequest::Stat)?;
    let VolumeReply::Stat(status) = reply else { return Err(unexpected()) };
    print(options.json, &status, || status_text(&status))?;
    Ok(ExitCode::SUCCESS)
}

fn status_text(status: &VolumeStatus) -> String {
    let mut text = format!("volume    {}\n", status.dir);
    for mount in &status.mounts {
        let at = mount.at.as_ref().map(|at| format!(" as it was at {at}")).unwrap_or_default();
        let how = if mount.read_only { ", read-only" } else { "" };
        let point = escape(&mount.point, usize::MAX);
        let _ = match &mount.failed {
            None => writeln!(text, "mounted   {point}{at}{how}"),
            Some(why) => writeln!(
                text,
                "failed    {point}{at}{how}: {}; 'oswalk mount {point}' tries again, 'oswalk umount {point}' gives it up",
                escape(why, usize::MAX)
            ),
        };
    }
    for share in &status.shares {
        let (name, dir) = (escape(&share.name, usize::MAX), escape(&share.dir, usize::MAX));
        let how = if share.writes { "both ways with" } else { "follows" };
        let _ = writeln!(text, "shared    {name}, {how} {dir}");
    }
    let since = status.since.as_deref().unwrap_or("nothing was written yet");
    let garbage = &status.garbage;
    let _ = write!(
        text,
        "since     {since}\n\
         keeps     {} (all, full hours, days)\n\
         files     {} in {} directories, {}, {} of them not in packets yet\n\
         pinned    {}\n\
         past      {} values\n\
         packets   {} in {} packs, {}\n\
         log       {} segments, {}\n\
         garbage   {} values, {} packets, {}\n\
         disk      {}\n\
         conflicts {}\n\
         replicas  {}\n",
        status.keep,
        status.files,
        status.directories,
        HumanBytes(status.bytes),
        status.unpacked,
        pinned_text(status),
        status.former,
        status.packets,
        status.packs,
        HumanBytes(status.pack_bytes),
        status.log_segments,
        HumanBytes(status.log_bytes),
        garbage.values,
        garbage.packets,
        HumanBytes(garbage.bytes),
        disk_text(status),
        conflicts_text(status.conflicts),
        spread::copies_text(&status.copies),
    );
    text
}

fn pinned_text(status: &VolumeStatus) -> String {
    match status.pinned_files {
        0 => "none".to_owned(),
        files => {
            format!("{files} files, {}, with all of their past", HumanBytes(status.pinned_bytes))
        }
    }
}

fn disk_text(status: &VolumeStatus) -> String {
    let free = HumanBytes(status.free_bytes);
    match &status.full {
        None => format!("{free} free"),
        Some(remedy) => format!("full, {free} free: {}", escape(remedy, usize::MAX)),
    }
}

fn conflicts_text(conflicts: u64) -> String {
    match conflicts {
        0 => "none".to_owned(),
        count => format!("{count}: 'oswalk fs conflicts' lists them"),
    }
}

fn check(
    options: &Json,
    places: &Places,
    what: &'static str,
    request: VolumeRequest,
) -> Result<ExitCode, Failure> {
    let VolumeReply::Checked(checked) = work::of_volume(places, what, request)? else {
        return Err(unexpected());
    };
    print(options.json, &checked, || checked_text(&checked))?;
    match checked.findings.len() {
        0 => Ok(ExitCode::SUCCESS),
        faults => Err(Failure::new(format!("the volume has {faults} faults"))
            .hint("'oswalk fs export' saves what is readable; damaged contents are never shown")),
    }
}

fn checked_text(checked: &VolumeChecked) -> String {
    let mut text = String::new();
    let lines = checked.mended.iter().map(|it| ("mended", it));
    for (kind, line) in lines.chain(checked.findings.iter().map(|it| ("fault", it))) {
        let _ = writeln!(text, "{kind}: {}", escape(line, usize::MAX));
    }
    if checked.healed > 0 {
        let _ = writeln!(text, "healed: {} damaged packets, from other nodes", checked.healed);
    }
    let VolumeChecked { events, packets, files, .. } = checked;
    let _ = match (events, files) {
        (0, 0) => writeln!(text, "{packets} packets checked"),
        _ => writeln!(text, "{events} events, {packets} packets, {files} files checked"),
    };
    text
}

fn collect(options: &Gc, places: &Places) -> Result<ExitCode, Failure> {
    let request = VolumeRequest::Collect { keep: options.keep };
    let reply = work::of_volume(places, "removing garbage", request)?;
    let VolumeReply::Collected(garbage) = reply else { return Err(unexpected()) };
    print(options.json, &garbage, || {
        let VolumeGarbage { values, packets, bytes } = garbage;
        format!("removed {values} values, {packets} packets, {}\n", HumanBytes(bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}

fn pin(options: &Pin, places: &Places, pinned: bool) -> Result<ExitCode, Failure> {
    let place = history::place(&options.path)?;
    let reply = work::of_volume(places, "pinning", VolumeRequest::Pin { place, pinned })?;
    let VolumeReply::Done = reply else { return Err(unexpected()) };
    let path = options.path.display().to_string();
    print(options.json, &serde_json::json!({ "path": path, "pinned": pinned }), || match pinned {
        true => format!("the past of {path} is kept for ever\n"),
        false => format!("the past of {path} is kept as long as that of other files\n"),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn export(options: &Export, places: &Places) -> Result<ExitCode, Failure> {
    let to = std::path::absolute(&options.to).map_err(|error| {
        Failure::new(format!("failed to look at {}: {error}", options.to.display()))
    })?;
    // A path in a mount counts, too.
    let mounted = options.from.is_absolute().then(|| versions::volume_of(&options.from).ok());
    let from = mounted.flatten().map_or_else(|| options.from.clone(), |(_, within)| within);
    let request = VolumeRequest::Export {
        dir: to.into_os_string().into_vec(),
        path: from.as_os_str().as_bytes().to_vec(),
        at_ms: options.at.as_deref().map(moment::parse).transpose()?,
    };
    let VolumeReply::Exported(exported) = work::of_volume(places, "exporting", request)? else {
        return Err(unexpected());
    };
    print(options.json, &exported, || exported_text(options, exported))?;
    Ok(ExitCode::SUCCESS)
}

fn exported_text(options: &Export, exported: VolumeExported) -> String {
    let VolumeExported { files, bytes, changed } = exported;
    let to = options.to.display();
    let mut text = format!("{files} files, {} are in {to}\n", HumanBytes(bytes));
    if changed > 0 {
        let _ = writeln!(text, "{changed} of them have other owners or attributes there");
    }
    text
}

#[cfg(test)]
mod tests {
    use worknode::request::VolumeMountStatus;

    use super::*;

    #[test]
    fn a_mount_that_failed_is_shown_with_its_cause_and_what_helps() {
        let mount = |point: &str, failed: Option<&str>| VolumeMountStatus {
            point: point.to_owned(),
            read_only: false,
            at: None,
            failed: failed.map(str::to_owned),
        };
        let why = "/cluster is not empty: move its files away";
        let status = VolumeStatus {
            mounts: vec![mount("/mnt", None), mount("/cluster", Some(why))],
            files: 7,
            directories: 2,
            pinned_files: 3,
            pinned_bytes: 2048,
            free_bytes: 1024,
            full: Some("free space".into()),
            ..VolumeStatus::default()
        };
        let text = status_text(&status);
        for line in [
            "mounted   /mnt",
            "failed    /cluster: /cluster is not empty: move its files away; 'oswalk mount /cluster' tries again, \
             'oswalk umount /cluster' gives it up",
            "files     7 in 2 directories, 0 B, 0 of them not in packets yet",
            "disk      full, 1.00 KiB free: free space",
            "pinned    3 files, 2.00 KiB, with all of their past",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in {text}");
        }
    }
}
