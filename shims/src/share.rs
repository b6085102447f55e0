//! `oswalk share`: an ordinary directory that the volume follows.

use std::fmt::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::HumanBytes;
use worknode::request::{ShareRequest, VolumeReply, VolumeRequest, VolumeShare};
use worknode::said::escape;

use crate::cluster::orders::unexpected;
use crate::error::Failure;
use crate::places::Places;
use crate::{say, work};

/// Have the volume follow an ordinary directory, or list what it follows; for the agent's user and root
///
/// The files are copied into the volume and kept the same there from now on. With --write, what others change there is written to
/// the directory, too, so that several machines have the same directory; each of them says the same name. Secrets, and what
/// .oswalkignore files name in the syntax of .gitignore, are left out; so are pipes, sockets, devices and other file systems below
/// the directory.
#[derive(Debug, Args)]
pub(crate) struct Share {
    /// The directory; without one, all shares are listed
    #[arg(conflicts_with = "stop")]
    dir: Option<PathBuf>,
    /// Its path in the volume [default: the directory's name]
    #[arg(long = "as", value_name = "NAME", requires = "dir")]
    name: Option<PathBuf>,
    /// Write what changes in the volume to the directory, too: members of the cluster can change its files
    #[arg(long, requires = "dir")]
    write: bool,
    /// On how many nodes each content is kept, this one among them
    #[arg(long, value_name = "N", requires = "dir")]
    replicas: Option<u32>,
    /// Follow the directory no longer; the files stay in the volume
    #[arg(long, value_name = "NAME")]
    stop: Option<PathBuf>,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn share(options: &Share, places: &Places) -> Result<ExitCode, Failure> {
    let ask = |request| work::of_volume(places, "sharing", VolumeRequest::Share(request));
    if let Some(stop) = &options.stop {
        ask(ShareRequest::Stop { name: stop.as_os_str().as_bytes().to_vec() })?;
        if !options.json {
            let shown = stop.display();
            say::out(format_args!("{shown} follows its directory no longer; what it has stays\n"))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(dir) = &options.dir {
        let (dir, name) = plan(dir, options.name.as_deref())?;
        let (dir, replicas) = (dir.into_os_string().into_vec(), options.replicas);
        let shown = [&name, &dir].map(|bytes| escape(&String::from_utf8_lossy(bytes), usize::MAX));
        ask(ShareRequest::Start { dir, name, replicas, writes: options.write })?;
        if !options.json {
            let how = match options.write {
                true => "in the volume is kept the same as",
                false => "in the volume follows",
            };
            say::out(format_args!(
                "{} {how} {} from now on; 'oswalk share' lists how far it is\n",
                shown[0], shown[1]
            ))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let VolumeReply::Shares(shares) = ask(ShareRequest::List)? else { return Err(unexpected()) };
    if options.json {
        say::json(&shares)?
    } else {
        say::out(lines(&shares))?
    }
    Ok(ExitCode::SUCCESS)
}

/// Returns the directory without symbolic links, and its path in the volume.
fn plan(dir: &Path, name: Option<&Path>) -> Result<(PathBuf, Vec<u8>), Failure> {
    let failed = |error| Failure::new(format!("failed to look at {}: {error}", dir.display()));
    let real = std::fs::canonicalize(dir).map_err(failed)?;
    if !real.is_dir() {
        return Err(Failure::new(format!("{} is not a directory", dir.display())));
    }
    let name = name.map(Path::as_os_str).or_else(|| real.file_name());
    let name = name.ok_or_else(|| Failure::new("/ has no name: choose one with --as"))?;
    let name = name.as_bytes().to_vec();
    Ok((real, name))
}

fn lines(shares: &[VolumeShare]) -> String {
    let mut text = String::new();
    for share in shares {
        let state = match (&share.trouble, share.is_up_to_date) {
            (Some(trouble), _) => escape(trouble, usize::MAX),
            (None, true) => "up to date".to_owned(),
            (None, false) => "being compared".to_owned(),
        };
        let (name, dir) = (escape(&share.name, usize::MAX), escape(&share.dir, usize::MAX));
        let (taken, bytes) = (share.taken, HumanBytes(share.bytes));
        let _ = match share.writes {
            true => writeln!(
                text,
                "{name}  {dir}  both ways, {state}; {taken} files taken over, {} written back, {bytes}",
                share.written
            ),
            false => writeln!(text, "{name}  {dir}  {state}; {taken} files taken over, {bytes}"),
        };
        for left in &share.left {
            let _ = writeln!(text, "  left out: {}", escape(left, usize::MAX));
        }
    }
    text
}
