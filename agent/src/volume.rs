//! Mounts this node's volume, in the mount namespace of users, and mounts it again when the agent starts.
//!
//! A thread of its own does so, because opening a volume and mounting wait for disks and the kernel. [`work`] does what takes
//! long, on other threads; [`point`] checks where the volume is to be mounted.

pub(crate) mod answer;
mod copies;
mod ended;
mod failure;
mod lend;
mod point;
mod seal;
mod shares;
mod spread;
mod work;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak, mpsc};
use std::time::Duration;

use anyhow::Context;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use packetfs::export::Hidden;
use packetfs::fuse::volume::VolumeMount;
use packetfs::mounts::Mounts;
use packetfs::volume::{Options, Statement, Volume, author_of, moment};
use packetfs::whole;
use serde::{Deserialize, Serialize};
use tokio::sync::{RwLock, oneshot};
use worknode::history::Hlc;
use worknode::key::SecretKey;
use worknode::request::{Retention, VolumeMountStatus, VolumeShare};

use crate::mesh::Mesh;
use crate::own_volume::OwnVolume;
use crate::random;
use crate::sys::outside::Outside;
use lend::{Borrower, Lent};
use seal::{Below, Former};
use shares::Shares;

/// The files of the volume's directory that are not the volume's own.
const KEY: &str = "key";
const MOUNTS: &str = "mounts.json";
/// The id of the cluster with whose nodes it is shared.
const CLUSTER: &str = "cluster";
/// Only the agent may look into the volume's directory.
const DIR_MODE: u32 = 0o700;

/// Longest wait for the mounts of the last time: shorter than that of `oswalk up` for an answer.
const BACK_MAX: Duration = Duration::from_secs(4);
/// Longest wait for the end of mounts and shares.
const ENDING_MAX: Duration = Duration::from_secs(5);

/// Why a mount is not there that the agent has made.
const UNMOUNTED: &str = "somebody has unmounted it by other means than 'oswalk umount'";

/// A mount that the user has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Wish {
    is_read_only: bool,
    /// The moment that is shown, in milliseconds; the present if there is none.
    #[serde(default)]
    at_ms: Option<u64>,
    /// The directory below, before nobody could write there any more.
    #[serde(default)]
    former: Option<Former>,
}

/// What the thread is asked for, and where it answers.
enum Job {
    Mount(PathBuf, Wish, oneshot::Sender<anyhow::Result<()>>),
    Unmount(PathBuf, oneshot::Sender<anyhow::Result<()>>),
    /// The volume; if a place is given, only if it is mounted there.
    Volume(Option<PathBuf>, oneshot::Sender<anyhow::Result<Arc<Volume>>>),
    /// Starts a share.
    Share(shares::Wish, oneshot::Sender<anyhow::Result<()>>),
    /// Ends the share of a name.
    Unshare(Vec<u8>, oneshot::Sender<anyhow::Result<Arc<ended::Ended>>>),
    Shares(oneshot::Sender<anyhow::Result<Vec<VolumeShare>>>),
    /// Unmounts and closes everything.
    End(oneshot::Sender<anyhow::Result<()>>),
    /// The volume if it is open, and its mounts.
    Mounts(oneshot::Sender<anyhow::Result<Mounted>>),
    /// The root of the mount at a path, for a user.
    Lend(PathBuf, Borrower, oneshot::Sender<anyhow::Result<OwnedFd>>),
}

/// The volume if it is open, and where it is mounted.
type Mounted = (Option<Arc<Volume>>, Vec<VolumeMountStatus>);

/// This node's place in a cluster.
pub(crate) struct Node {
    /// Its key, if it belongs to one: it states whose the volume's events are.
    pub(crate) secret: Option<SecretKey>,
    /// The cluster's id.
    pub(crate) cluster: Option<Vec<u8>>,
    /// Exchanges events with other nodes' volumes.
    pub(crate) mesh: Mesh,
}

/// The thread that mounts.
#[derive(Debug, Clone)]
pub(crate) struct VolumeHandle {
    jobs: mpsc::Sender<Job>,
    dir: PathBuf,
    outside: Arc<Outside>,
    keep: Retention,
    /// Exchanges with other nodes' volumes.
    mesh: Mesh,
    /// The volume, once it was opened.
    opened: Arc<OnceLock<Weak<Volume>>>,
    /// Held for writing while garbage is removed, so that nobody waits for packets behind that.
    turns: Arc<RwLock<()>>,
    lent: Lent,
}

impl VolumeHandle {
    /// Starts the thread, which first mounts what was mounted when the agent ended.
    pub(crate) fn start(
        state: &Path,
        outside: &Arc<Outside>,
        keep: Retention,
        hidden: Arc<Hidden>,
        node: Node,
        own: OwnVolume,
    ) -> anyhow::Result<Self> {
        let (jobs, jobs_rx) = mpsc::channel();
        let dir = state.join("volume");
        let (turns, opened) = (Arc::default(), Arc::<OnceLock<Weak<Volume>>>::default());
        let (outside, mesh) = (Arc::clone(outside), node.mesh.clone());
        let handle = Self {
            jobs,
            dir: dir.clone(),
            outside: Arc::clone(&outside),
            keep,
            mesh,
            opened: Arc::clone(&opened),
            turns,
            lent: Lent::default(),
        };
        let lent = handle.lent.clone();
        let serve = move || match outside.enter() {
            Ok(()) => Keeper::new(dir, hidden, node, own, (opened, lent)).serve(&jobs_rx),
            Err(error) => {
                tracing::error!(%error, "failed to enter the mount namespace of users: nothing is mounted")
            }
        };
        std::thread::Builder::new().name("volume".into()).spawn(serve)?;
        Ok(handle)
    }

    /// Mounts the volume at a directory.
    pub(crate) async fn mount(
        &self,
        point: PathBuf,
        is_read_only: bool,
        at_ms: Option<u64>,
    ) -> anyhow::Result<()> {
        self.ask(|done| Job::Mount(point, Wish { is_read_only, at_ms, former: None }, done)).await
    }

    /// Unmounts it there.
    pub(crate) async fn unmount(&self, point: PathBuf) -> anyhow::Result<()> {
        self.ask(|done| Job::Unmount(point, done)).await
    }

    /// Waits until what was mounted when the agent ended is mounted again, but not for ever: until then programs would write into
    /// the directories below.
    pub(crate) async fn is_back(&self) {
        if tokio::time::timeout(BACK_MAX, self.ask(Job::Mounts)).await.is_err() {
            tracing::warn!("the volume is not mounted again yet: the agent goes on");
        }
    }

    /// Unmounts and closes the volume, and waits for that, but not long: nothing is lost if it is interrupted.
    pub(crate) async fn end(&self) {
        if tokio::time::timeout(ENDING_MAX, self.ask(Job::End)).await.is_err() {
            tracing::warn!("the volume is not closed yet: the agent ends without waiting");
        }
    }

    /// Returns how many paths are in conflict, as far as that is known without waiting.
    pub(crate) fn conflicts(&self) -> u64 {
        self.mesh.conflicts()
    }

    /// Returns the directory of the volume, if its disk is full as far as that is known without waiting.
    pub(crate) fn full(&self) -> Option<String> {
        let volume = self.opened.get()?.upgrade()?;
        volume.is_full().then(|| self.dir.display().to_string())
    }

    /// Returns the root of the volume mounted at a point.
    async fn lend(&self, point: PathBuf, to: Borrower) -> anyhow::Result<OwnedFd> {
        if let Some(known) = self.lent.known(&point, to) {
            return Ok(known);
        }
        let _waiting = self.lent.wait(to.uid).with_context(|| {
            format!("too many processes of user {} ask for {}", to.uid, point.display())
        })?;
        self.ask(|done| Job::Lend(point, to, done)).await
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<anyhow::Result<T>>) -> Job,
    ) -> anyhow::Result<T> {
        const GONE: &str = "the thread that mounts has ended: see the agent's log, oswalkd.log";
        let (done, done_rx) = oneshot::channel();
        self.jobs.send(job(done)).ok().context(GONE)?;
        done_rx.await.context(GONE)?
    }
}

/// The volume and its mounts.
struct Keeper {
    dir: PathBuf,
    node: Node,
    /// Open from the first mount on, also after restarts.
    volume: Option<Arc<Volume>>,
    /// Keeper --opened--> status
    opened: Arc<OnceLock<Weak<Volume>>>,
    mounts: BTreeMap<PathBuf, (Wish, VolumeMount)>,
    /// Mounts of the last time that failed, and why. They are tried again when the agent starts.
    failed: BTreeMap<PathBuf, (Wish, String)>,
    shares: Shares,
    lent: Lent,
    /// Keeper --open, mounted--> exporter
    own: OwnVolume,
}

impl Keeper {
    fn new(
        dir: PathBuf,
        hidden: Arc<Hidden>,
        node: Node,
        own: OwnVolume,
        (opened, lent): (Arc<OnceLock<Weak<Volume>>>, Lent),
    ) -> Self {
        let shares = Shares::new(&dir, hidden);
        let (mounts, failed) = (BTreeMap::new(), BTreeMap::new());
        Self { dir, node, volume: None, opened, mounts, failed, shares, lent, own }
    }

    fn serve(mut self, jobs: &mpsc::Receiver<Job>) {
        // Others may want what it has, also while it is not mounted.
        if self.dir.join(KEY).exists()
            && let Err(error) = self.volume()
        {
            tracing::error!("failed to open the volume: {error:#}");
        }
        for (point, wish) in self.wishes() {
            if let Err(error) = self.mount(&point, wish) {
                tracing::error!(point = %point.display(), "failed to mount the volume again: {error:#}");
                self.failed.insert(point, (wish, format!("{error:#}")));
            }
        }
        if self.shares.are_wished() {
            match self.volume() {
                Ok(volume) => self.shares.start_again(&volume),
                Err(error) => tracing::error!("failed to start the shares: {error:#}"),
            }
        }
        let mut ended = None;
        while let Ok(job) = jobs.recv() {
            // The asker may be gone.
            let _ = match job {
                Job::Mount(point, wish, done) => {
                    let mounted = self.share_with_cluster().and_then(|()| self.mount(&point, wish));
                    done.send(mounted.and_then(|()| self.note())).is_ok()
                }
                Job::Unmount(point, done) => {
                    done.send(self.unmount(&point).and_then(|()| self.note())).is_ok()
                }
                Job::Volume(point, done) => done.send(self.volume_at(point.as_deref())).is_ok(),
                Job::Share(wish, done) => done.send(self.share(wish)).is_ok(),
                Job::Unshare(name, done) => done.send(self.shares.stop(&name)).is_ok(),
                Job::Shares(done) => done.send(Ok(self.shares.list())).is_ok(),
                Job::End(done) => {
                    ended = Some(done);
                    break;
                }
                Job::Mounts(done) => {
                    self.forget_unmounted();
                    done.send(Ok((self.volume.clone(), self.status()))).is_ok()
                }
                Job::Lend(point, to, done) => {
                    done.is_closed() || done.send(self.lend(&point, to)).is_ok()
                }
            };
        }
        for point in std::mem::take(&mut self.mounts).into_keys() {
            // Programs that still use it find the connection closed.
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
        self.shares.end();
        if let Some(volume) = self.volume.take()
            && let Err(error) = volume.sync()
        {
            tracing::error!(%error, "failed to make the volume durable");
        }
        if let Some(ended) = ended {
            // The agent may have stopped waiting.
            let _ = ended.send(Ok(()));
        }
    }

    fn mount(&mut self, point: &Path, mut wish: Wish) -> anyhow::Result<()> {
        let shown = point.display();
        self.forget_unmounted();
        anyhow::ensure!(
            !self.mounts.contains_key(point),
            "the volume is mounted at {shown} already: 'oswalk umount {shown}' unmounts it"
        );
        let within = self.mounts.keys().find(|above| point.starts_with(above));
        anyhow::ensure!(
            within.is_none(),
            "{shown} is in the volume itself: choose an empty directory outside"
        );
        point::prepare(point)?;
        let volume = self.volume()?;
        // One that failed before is known.
        wish.former = wish.former.or(self.failed.get(point).and_then(|(wish, _)| wish.former));
        let below = self.below(point, &mut wish)?;
        let mount = match wish.at_ms {
            Some(ms) => {
                let moment = volume.known_moment(Hlc::end_of_ms(ms))?;
                VolumeMount::at(volume, point, moment)
            }
            None => VolumeMount::new(volume, point, wish.is_read_only),
        };
        let mount = mount.map_err(|error| failure::of_mount(point, &error))?;
        if wish.at_ms.is_none() {
            let data = fs::metadata(point);
            let data = data.with_context(|| format!("failed to look at the mount {shown}"))?;
            self.own.mounted(point, data.dev());
        }
        below.seal();
        self.failed.remove(point);
        self.mounts.insert(point.to_owned(), (wish, mount));
        tracing::info!(point = %shown, "the volume is mounted");
        Ok(())
    }

    /// Opens the directory that is to be mounted on, and notes what it is.
    fn below(&self, point: &Path, wish: &mut Wish) -> anyhow::Result<Below> {
        let mut look = || -> io::Result<Below> {
            let below = Below::open(point)?;
            let former = wish.former.filter(|former| below.was(*former));
            match former {
                None => wish.former = Some(below.former()?),
                // To mount there, an ordinary user has to be able to write there.
                Some(former) if !nix::unistd::geteuid().is_root() => below.open_again(former)?,
                Some(_) => {}
            }
            Ok(below)
        };
        look().with_context(|| format!("failed to look at the directory {}", point.display()))
    }

    /// Lets the directory below a former mount be written again.
    fn give_up(&self, point: &Path, wish: &Wish) {
        let Some(former) = wish.former else { return };
        // What somebody else has mounted there is left alone.
        let is_mount = mounts_here().is_none_or(|it| it.is_point(point.as_os_str().as_bytes()));
        let opened = || Below::open(point).and_then(|below| below.open_again(former));
        if !is_mount && let Err(error) = opened() {
            tracing::warn!(point = %point.display(), %error, "failed to let the directory below a mount be written again");
        }
    }

    fn lend(&mut self, point: &Path, to: Borrower) -> anyhow::Result<OwnedFd> {
        self.forget_unmounted();
        anyhow::ensure!(
            self.mounts.contains_key(point),
            "the volume is not mounted at {}: mount it with 'oswalk mount'",
            point.display()
        );
        self.lent.root(point, to)
    }

    fn share(&mut self, wish: shares::Wish) -> anyhow::Result<()> {
        self.share_with_cluster()?;
        let volume = self.volume()?;
        self.shares.start(&volume, wish)
    }

    fn volume(&mut self) -> anyhow::Result<Arc<Volume>> {
        if let Some(volume) = &self.volume {
            return Ok(Arc::clone(volume));
        }
        let volume = Arc::new(open(&self.dir, self.node.secret.as_ref())?);
        if self.is_shared() {
            self.node.mesh.open(&volume);
        }
        self.own.open(&volume);
        // It is opened once.
        let _ = self.opened.set(Arc::downgrade(&volume));
        Ok(Arc::clone(self.volume.insert(volume)))
    }

    /// Tells whether the volume belongs to this node's cluster. An error is told: programs here would see only their own files.
    fn is_shared(&self) -> bool {
        let Some(cluster) = &self.node.cluster else { return false };
        let path = self.dir.join(CLUSTER);
        match fs::read(&path) {
            Ok(known) => known == *cluster,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "failed to read whose the volume is: it is not shared with other nodes");
                false
            }
        }
    }

    /// Shares the volume with the nodes of this node's cluster from now on. Only who mounts it here does that: what it had before
    /// the node joined, or in another cluster, is not given to others by itself.
    fn share_with_cluster(&mut self) -> anyhow::Result<()> {
        let Some(cluster) = self.node.cluster.clone() else { return Ok(()) };
        let volume = self.volume()?;
        let path = self.dir.join(CLUSTER);
        match fs::read(&path) {
            Ok(known) if known == cluster => Ok(()),
            Ok(_) => anyhow::bail!(
                "the volume in {} belongs to another cluster: use another state directory here (oswalk up --state DIR)",
                self.dir.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let noted = whole::write(&path, &cluster);
                noted.with_context(|| format!("failed to write {}", path.display()))?;
                self.node.mesh.open(&volume);
                Ok(())
            }
            Err(error) => anyhow::bail!("failed to read {}: {error}", path.display()),
        }
    }

    fn volume_at(&mut self, point: Option<&Path>) -> anyhow::Result<Arc<Volume>> {
        if let Some(point) = point {
            let (wish, _) = self.mounts.get(point).with_context(|| {
                format!(
                    "{} is not a mount of this agent's volume: name the agent that has mounted it with --state DIR",
                    point.display()
                )
            })?;
            anyhow::ensure!(
                wish.at_ms.is_none(),
                "{} shows the past, which does not change: name the file where the volume is mounted as it is",
                point.display()
            );
            anyhow::ensure!(
                !wish.is_read_only,
                "{} is mounted read-only: unmount it, and mount it without --read-only",
                point.display()
            );
        }
        self.volume()
    }

    /// Forgets what somebody has unmounted by other means.
    fn forget_unmounted(&mut self) {
        let Some(mounts) = mounts_here() else { return };
        let is_gone = |point: &&PathBuf| !mounts.is_point(point.as_os_str().as_bytes());
        let gone: Vec<PathBuf> = self.mounts.keys().filter(is_gone).cloned().collect();
        for point in gone {
            tracing::info!(point = %point.display(), "the volume was unmounted by other means");
            self.lent.forget(&point);
            self.own.unmounted(&point);
            if let Some((wish, _)) = self.mounts.remove(&point) {
                self.failed.insert(point, (wish, UNMOUNTED.to_owned()));
            }
        }
    }

    fn status(&self) -> Vec<VolumeMountStatus> {
        let at = |wish: &Wish| wish.at_ms.map(|ms| moment::text(Hlc::at_ms(ms)));
        let mounted = |(point, (wish, _)): (&PathBuf, &(Wish, VolumeMount))| VolumeMountStatus {
            point: point.display().to_string(),
            read_only: wish.is_read_only || wish.at_ms.is_some(),
            at: at(wish),
            failed: None,
        };
        let failed = |(point, (wish, why)): (&PathBuf, &(Wish, String))| VolumeMountStatus {
            point: point.display().to_string(),
            read_only: wish.is_read_only || wish.at_ms.is_some(),
            at: at(wish),
            failed: Some(why.clone()),
        };
        self.mounts.iter().map(mounted).chain(self.failed.iter().map(failed)).collect()
    }

    fn unmount(&mut self, point: &Path) -> anyhow::Result<()> {
        let shown = point.display();
        if let Some((wish, _)) = self.failed.remove(point) {
            self.give_up(point, &wish);
            return Ok(());
        }
        anyhow::ensure!(
            self.mounts.contains_key(point),
            "nothing is mounted at {shown} by this agent: 'oswalk fs status' lists what is"
        );
        match umount2(point, MntFlags::empty()) {
            Err(Errno::EBUSY) => anyhow::bail!(
                "{shown} is in use: end the programs that have files open or their directory there ('fuser -vm {shown}' lists them)"
            ),
            // It was unmounted by other means.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(error) => anyhow::bail!("failed to unmount {shown}: {error}"),
        }
        let removed = self.mounts.remove(point);
        self.lent.forget(point);
        self.own.unmounted(point);
        if let Some((wish, _)) = removed {
            self.give_up(point, &wish);
        }
        tracing::info!(point = %shown, "the volume is unmounted");
        Ok(())
    }

    /// Notes what is mounted, for the next start.
    fn note(&self) -> anyhow::Result<()> {
        let mounted = self.mounts.iter().map(|(point, (wish, _))| (point, wish));
        let failed = self.failed.iter().map(|(point, (wish, _))| (point, wish));
        let wishes: Vec<_> = mounted.chain(failed).collect();
        let path = self.dir.join(MOUNTS);
        whole::write(&path, &serde_json::to_vec(&wishes)?)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    fn wishes(&self) -> Vec<(PathBuf, Wish)> {
        let path = self.dir.join(MOUNTS);
        let wishes = fs::read(&path).map(|json| serde_json::from_slice(&json));
        match wishes {
            Ok(Ok(wishes)) => wishes,
            Ok(Err(error)) => {
                tracing::error!(%error, "{} is damaged: mount the volume again with 'oswalk mount'", path.display());
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }
}

/// Returns the mounts of the calling thread's namespace, if they can be read.
fn mounts_here() -> Option<Mounts> {
    Some(Mounts::parse(&fs::read("/proc/thread-self/mountinfo").ok()?))
}

fn open(dir: &Path, node: Option<&SecretKey>) -> anyhow::Result<Volume> {
    let made = fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
    made.with_context(|| format!("failed to make {}", dir.display()))?;
    let key = key(&dir.join(KEY))?;
    let (author, statement) =
        (author_of(&key.key()), node.map(|node| Statement::sign(key.key(), node)));
    // The kernel lets only root of the machine use files directly.
    let may_pass = nix::unistd::geteuid().is_root();
    let options = Options { author, signer: Some(key), may_pass, boot: None };
    let volume = Volume::open(dir, &options).map_err(failure::of_volume)?;
    if let Some(statement) = statement {
        volume.set_statement(statement);
    }
    Ok(volume)
}

/// Returns the key of the volume, which is made with it.
fn key(path: &Path) -> anyhow::Result<SecretKey> {
    let context = || format!("failed to read the volume's key {}", path.display());
    match fs::read(path) {
        Ok(seed) => {
            let seed: [u8; 32] = seed.try_into().ok().with_context(|| {
                format!(
                    "{} is damaged: without it nothing can be added to the volume",
                    path.display()
                )
            })?;
            Ok(SecretKey::from_seed(&seed))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = random::secret_key();
            whole::write(path, key.seed()).with_context(context)?;
            Ok(key)
        }
        Err(error) => Err(error).with_context(context),
    }
}
