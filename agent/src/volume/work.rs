//! What takes long: looking at the volume as a whole, restoring, exporting, and removing garbage. Each piece of work has a thread
//! of its own; the agent's main loop only waits for it.

use std::collections::HashMap;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use packetfs::progress::Progress;
use packetfs::volume::{Checked, Garbage, Policy, Record, Volume, VolumeStat, moment};
use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use worknode::history::{Author, Hlc};
use worknode::id::NodeId;
use worknode::notice::REMEDY_OF_FULL_VOLUME;
use worknode::request::{
    Retention, ShareRequest, VolumeChecked, VolumeCopies, VolumeExported, VolumeGarbage,
    VolumeMountStatus, VolumePlace, VolumeRecord, VolumeReply, VolumeRequest, VolumeRestored,
    VolumeStatus,
};

use super::failure::{of_volume, shown};
use super::shares::Wish;
use super::{Job, VolumeHandle, copies, spread};
use crate::mesh::Mesh;

/// Time between removals of garbage: what is kept for hours need not go sooner.
const COLLECT_PERIOD: Duration = Duration::from_secs(3600);
/// Time from the agent's start to the first one, so that a start is not slowed down.
const COLLECT_FIRST: Duration = Duration::from_secs(600);
/// Longest wait for the end of a share that was stopped.
const UNSHARE_MAX: Duration = Duration::from_secs(5);

/// Ends the work when nobody waits for it any more.
struct Waiting(Arc<Progress>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl VolumeHandle {
    /// Does what was asked for. If this is dropped, the work ends.
    pub(crate) async fn work(
        &self,
        request: VolumeRequest,
        progress: Arc<Progress>,
    ) -> anyhow::Result<VolumeReply> {
        let _waiting = Waiting(Arc::clone(&progress));
        if let VolumeRequest::Share(request) = request {
            return self.of_share(request).await;
        }
        let volume = self.ask(|done| Job::Volume(point(&request), done)).await;
        if let (VolumeRequest::Check, Err(error)) = (&request, &volume) {
            return self.check_log(&format!("{error:#}")).await;
        }
        let volume = volume?;
        if let VolumeRequest::Collect { keep } = request {
            return self.collect(volume, keep.unwrap_or(self.keep)).await;
        }
        let (_, mounts) = self.ask(Job::Mounts).await?;
        let shares = self.ask(Job::Shares).await?;
        if let VolumeRequest::Export { dir, .. } = &request {
            check_outside(&path(dir.clone()), &mounts)?;
        }
        let turn = Arc::clone(&self.turns).read_owned().await;
        let (keep, mesh) = (self.keep, self.mesh.clone());
        let work = move || {
            // As long as the work, also if nobody waits for it any more.
            let _turn = turn;
            match request {
                VolumeRequest::Conflicts { place } => spread::conflicts(&volume, &mesh, &place),
                VolumeRequest::Where { place } => spread::find(&volume, &mesh, &place, &progress),
                VolumeRequest::Prefetch { place } => spread::prefetch(&volume, &place, &progress),
                VolumeRequest::Replicas { place, count } => {
                    copies::replicas(&volume, &place, count)
                }
                VolumeRequest::Stat => {
                    let stat = volume.stat(&policy(keep)).map_err(of_volume)?;
                    let mut status = status(&volume, stat, keep, mounts)?;
                    status.copies = copies::count(&volume, &mesh, &progress)?;
                    status.shares = shares;
                    Ok(VolumeReply::Stat(Box::new(status)))
                }
                request => work(&volume, &mesh, request, &progress),
            }
        };
        self.apart(work).await
    }

    async fn of_share(&self, request: ShareRequest) -> anyhow::Result<VolumeReply> {
        match request {
            ShareRequest::Start { dir, name, replicas, writes } => {
                replicas.map_or(Ok(()), copies::check)?;
                self.ask(|done| Job::Share(Wish { dir, name: name.clone(), writes }, done)).await?;
                let Some(count) = replicas else { return Ok(VolumeReply::Done) };
                let volume = self.ask(|done| Job::Volume(None, done)).await?;
                self.apart(move || copies::of_share(&volume, &name, count)).await
            }
            ShareRequest::Stop { name } => {
                let shown = String::from_utf8_lossy(&name).into_owned();
                let ended = self.ask(|done| Job::Unshare(name, done)).await?;
                let wait = move || {
                    anyhow::ensure!(
                        ended.wait(UNSHARE_MAX),
                        "the share {shown} ends as soon as the disk answers: nothing begins any more"
                    );
                    Ok(VolumeReply::Done)
                };
                self.apart(wait).await
            }
            ShareRequest::List => Ok(VolumeReply::Shares(self.ask(Job::Shares).await?)),
        }
    }

    /// Removes garbage every hour, as long as the volume is open.
    pub(crate) async fn collect_hourly(self) {
        let mut ticks = interval_at(Instant::now() + COLLECT_FIRST, COLLECT_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Ok((Some(volume), _)) = self.ask(Job::Mounts).await else { continue };
            match self.collect(volume, self.keep).await {
                Ok(VolumeReply::Collected(VolumeGarbage { values, packets, bytes })) => {
                    tracing::info!(values, packets, bytes, "garbage of the volume is removed");
                }
                Ok(_) => {}
                Err(error) => tracing::error!("failed to remove garbage of the volume: {error:#}"),
            }
        }
    }

    /// Checks the log of a volume that cannot be opened, for this reason.
    async fn check_log(&self, why: &str) -> anyhow::Result<VolumeReply> {
        let (dir, why) = (self.dir.clone(), why.to_owned());
        let check = move || {
            let mut found = Volume::check_log(&dir).map_err(of_volume)?;
            found.findings.insert(0, format!("the volume cannot be opened: {why}"));
            Ok(VolumeReply::Checked(checked(found)))
        };
        self.apart(check).await
    }

    async fn collect(&self, volume: Arc<Volume>, keep: Retention) -> anyhow::Result<VolumeReply> {
        let alone = Arc::clone(&self.turns).write_owned().await;
        let policy = policy(keep);
        let collect = move || {
            let _alone = alone;
            let garbage = volume.gc(&policy).map_err(of_volume)?;
            Ok(VolumeReply::Collected(garbage_of(garbage)))
        };
        self.apart(collect).await
    }

    /// Works on a thread of its own, where paths mean what they mean to users.
    async fn apart(
        &self,
        work: impl FnOnce() -> anyhow::Result<VolumeReply> + Send + 'static,
    ) -> anyhow::Result<VolumeReply> {
        let (done, done_rx) = oneshot::channel();
        let outside = Arc::clone(&self.outside);
        let run = move || {
            let entered = outside.enter().context("failed to enter the mount namespace of users");
            // The asker may be gone.
            let _ = done.send(entered.and_then(|()| work()));
        };
        std::thread::Builder::new().name("volume work".into()).spawn(run)?;
        done_rx
            .await
            .context("the work on the volume has failed: see the agent's log, oswalkd.log")?
    }
}

/// Returns where the volume must be mounted for a request.
fn point(request: &VolumeRequest) -> Option<PathBuf> {
    match request {
        VolumeRequest::Log { place, .. }
        | VolumeRequest::Restore { place, .. }
        | VolumeRequest::Conflicts { place }
        | VolumeRequest::Where { place }
        | VolumeRequest::Prefetch { place }
        | VolumeRequest::Replicas { place, .. }
        | VolumeRequest::Pin { place, .. } => Some(path(place.point.clone())),
        _ => None,
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    std::ffi::OsString::from_vec(bytes).into()
}

fn work(
    volume: &Volume,
    mesh: &Mesh,
    request: VolumeRequest,
    progress: &Progress,
) -> anyhow::Result<VolumeReply> {
    match request {
        VolumeRequest::Log { place, limit } => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let shown = shown(&place);
            let records = volume.log(&place.path, limit).map_err(of_volume);
            let records = records.with_context(|| format!("failed to read the log of {shown}"))?;
            let names = mesh.names().of_authors(&volume.authors());
            let record = |it| record(it, &names);
            Ok(VolumeReply::Log(records.into_iter().map(record).collect()))
        }
        VolumeRequest::Restore { place, at_ms } => restore(volume, &place, at_ms),
        VolumeRequest::Pin { place, pinned } => {
            let shown = shown(&place);
            let what = if pinned { "pin" } else { "unpin" };
            volume
                .pin(&place.path, pinned)
                .map_err(|errno| anyhow::anyhow!("failed to {what} {shown}: {}", errno.desc()))?;
            Ok(VolumeReply::Done)
        }
        VolumeRequest::Check => {
            Ok(VolumeReply::Checked(checked(volume.check_with(progress).map_err(of_volume)?)))
        }
        VolumeRequest::Scrub => {
            Ok(VolumeReply::Checked(checked(volume.scrub(progress).map_err(of_volume)?)))
        }
        VolumeRequest::Export { dir, path: from, at_ms } => {
            let moment = at_ms.map(|ms| volume.known_moment(Hlc::end_of_ms(ms))).transpose()?;
            let exported = volume.export(&from, moment, &path(dir), progress).map_err(of_volume)?;
            let packetfs::volume::Exported { files, bytes, changed } = exported;
            Ok(VolumeReply::Exported(VolumeExported { files, bytes, changed }))
        }
        VolumeRequest::Collect { .. }
        | VolumeRequest::Share(_)
        | VolumeRequest::Conflicts { .. }
        | VolumeRequest::Where { .. }
        | VolumeRequest::Prefetch { .. }
        | VolumeRequest::Replicas { .. }
        | VolumeRequest::Stat => {
            anyhow::bail!("the request is answered elsewhere")
        }
    }
}

/// Refuses a directory in the volume itself: the export would be part of what it exports.
fn check_outside(dir: &Path, mounts: &[VolumeMountStatus]) -> anyhow::Result<()> {
    let shown = dir.display();
    let mut mounts = mounts.iter().filter(|mount| mount.failed.is_none());
    let within = mounts.find(|mount| dir.starts_with(&mount.point));
    anyhow::ensure!(
        within.is_none(),
        "{shown} is in the volume itself: choose a directory outside"
    );
    Ok(())
}

fn restore(volume: &Volume, place: &VolumePlace, at_ms: u64) -> anyhow::Result<VolumeReply> {
    let moment = volume.known_moment(Hlc::end_of_ms(at_ms))?;
    let restored = volume.restore(&place.path, moment).map_err(|errno| {
        let (shown, when) = (shown(place), moment::text(moment));
        match errno {
            nix::errno::Errno::ENOENT => anyhow::anyhow!(
                "there was no {shown} at {when}: 'oswalk versions {shown}' says when it was there"
            ),
            errno => anyhow::anyhow!("failed to restore {shown}: {}", errno.desc()),
        }
    })?;
    volume.wait_told();
    let packetfs::volume::Restored { placed, removed, changed } = restored;
    Ok(VolumeReply::Restored(VolumeRestored { placed, removed, changed }))
}

fn status(
    volume: &Volume,
    stat: VolumeStat,
    keep: Retention,
    mounts: Vec<VolumeMountStatus>,
) -> anyhow::Result<VolumeStatus> {
    Ok(VolumeStatus {
        dir: volume.dir().display().to_string(),
        mounts,
        since: volume.first_moment().map_err(of_volume)?.map(moment::text),
        keep,
        files: stat.files,
        directories: stat.directories,
        bytes: stat.bytes,
        pinned_files: stat.pinned_files,
        pinned_bytes: stat.pinned_bytes,
        unpacked: stat.unpacked,
        former: stat.former,
        packets: stat.packets,
        packs: stat.packs,
        pack_bytes: stat.pack_bytes,
        log_segments: stat.log_segments,
        log_bytes: stat.log_bytes,
        garbage: garbage_of(stat.garbage),
        copies: VolumeCopies::default(),
        shares: Vec::new(),
        free_bytes: volume.free_bytes(),
        full: volume.is_full().then(|| REMEDY_OF_FULL_VOLUME.to_owned()),
        conflicts: volume.conflicts(b"").map_err(anyhow::Error::from)?.len() as u64,
    })
}

fn policy(keep: Retention) -> Policy {
    Policy {
        all: Duration::from_secs(keep.all_s),
        hourly: Duration::from_secs(keep.hourly_s),
        daily: Duration::from_secs(keep.daily_s),
    }
}

fn garbage_of(Garbage { values, packets, bytes }: Garbage) -> VolumeGarbage {
    VolumeGarbage { values, packets, bytes }
}

fn checked(checked: Checked) -> VolumeChecked {
    let Checked { events, packets, files, healed, mended, findings } = checked;
    VolumeChecked { events, packets, files, healed, mended, findings }
}

fn record(
    Record { moment, author, seq, path, what, .. }: Record,
    names: &HashMap<Author, NodeId>,
) -> VolumeRecord {
    VolumeRecord {
        time: moment::text(moment),
        author: format!("{author:?}"),
        node: names.get(&author).map(ToString::to_string),
        seq,
        path: String::from_utf8_lossy(&path).into_owned(),
        what,
    }
}
