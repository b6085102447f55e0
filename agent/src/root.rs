//! The composition root: starts all parts of the agent, passes each its dependencies, and ends them.

mod dispatch;
mod upkeep;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::{Broker, NodeInfo, PrivateServer};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use packetfs::commit::Commit;
use packetfs::export::Hidden;
use packetfs::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use worknode::request::Settings;

use crate::api::Api;
use crate::budget::Budget;
use crate::cluster::{self, Cluster};
use crate::commits::Commits;
use crate::config::Config;
use crate::door::{self, Visit};
use crate::exporter::ExporterHandle;
use crate::link::handshake::Peer;
use crate::links::Links;
use crate::look::{self, Looks};
use crate::mirrors::{Mirrors, WalkMemory};
use crate::pages::PagesDir;
use crate::reached_at::{ReachedAt, check_private};
use crate::runner::{Runner, room};
use crate::served::{Heard, Served};
use crate::sessions::Sessions;
use crate::state::{Dirs, State};
use crate::sys::launcher::Launcher;
use crate::sys::outside::Outside;
use crate::sys::rights::Rights;
use crate::sys::view::View;
use crate::vital::Vital;
use crate::wire::greeting::Secret;
use crate::{devices, machine, origin, own, random, secret};
use dispatch::Dispatch;
use upkeep::Upkeep;

/// Uncommitted changes of all walks of this origin may take this fraction of the machine's memory,
/// unless `--upper-bytes` says otherwise.
const RETURNED_PART: u64 = 4;
/// Time for sending the reply to the request that ended the agent.
const FAREWELL: Duration = Duration::from_millis(20);

/// What is set up before the first thread starts.
struct Ground {
    state: State,
    dirs: Dirs,
    /// The mount namespace of users.
    view: View,
    outside: Arc<Outside>,
    launcher: Launcher,
}

/// Runs the agent until it is told to end.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let ground = prepare(config)?;
    // A `LocalRuntime`: a `LocalSet` would wake itself with a system call for each event.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(serve(config, ground))
}

fn prepare(config: &Config) -> anyhow::Result<Ground> {
    // SAFETY: nothing has been opened yet.
    #[expect(unsafe_code, reason = "inherited descriptors have no owner in this process")]
    unsafe { crate::sys::fds::keep_only(&[]) }
        .context("failed to close inherited descriptors: oswalkd needs Linux 5.11 or newer")?;
    machine::raise_descriptors();
    let state = State::take(&config.state)?;
    // Before this process makes its own mount namespace: these are the mounts of the users that it serves.
    let view = View::own().context("failed to look at /proc/self: oswalkd needs /proc")?;
    let outside = Arc::new(Outside::keep().context("failed to open /proc/self/ns/mnt")?);
    // The agent's mounts are private to it, and end with it however it ends.
    nix::sched::unshare(CloneFlags::CLONE_NEWNS).context(
        "failed to make a mount namespace: oswalkd needs root (or CAP_SYS_ADMIN) on this machine",
    )?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .context("failed to make the mounts private")?;
    let dirs = Dirs::make(&state)?;
    devices::prepare(&dirs.dev)?;
    machine::check_fuse()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // SAFETY: no thread has been made yet.
    #[expect(unsafe_code, reason = "the launcher must be made before the first thread")]
    let launcher = unsafe { Launcher::start() }.context("failed to start the launcher")?;
    Ok(Ground { state, dirs, view, outside, launcher })
}

async fn serve(config: &Config, ground: Ground) -> anyhow::Result<()> {
    let Ground { state, dirs, view, outside, launcher } = ground;
    let state = state.dir();
    let node = config.name.clone().map_or_else(machine::default_name, Ok)?;
    check_private(config.listen.ip())?;
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("failed to listen on {}: choose another --listen address or port", config.listen)
    })?;
    let listen = listener.local_addr()?;
    let secret_path = config.secret.clone().unwrap_or_else(|| state.join("secret"));
    let secret = secret::read(&secret_path, config.secret.is_none())?;
    let server;
    let url = match &config.broker {
        Some(url) => url.clone(),
        None => {
            server = PrivateServer::start(&state.join("redis")).await?;
            server.url().to_owned()
        }
    };
    let (broker, events) = Broker::connect(&url, "oswalk", &node).await?;
    let reached_at = ReachedAt::new(config, listen, broker.host())?;
    let address = reached_at.now();
    let info = NodeInfo {
        node: node.clone(),
        address,
        version: env!("CARGO_PKG_VERSION").into(),
        slots: config.slots.unwrap_or_else(machine::processors),
        cpu: machine::processor(),
        trouble: machine::trouble(&reached_at, address, state),
    };
    let cluster = Rc::new(Cluster::new(info.clone(), broker));
    cluster::enter(&cluster).await?;
    let memory_bytes = machine::memory_bytes();
    let settings = Settings {
        advertise: info.address.to_string(),
        slots: info.slots,
        secret: std::fs::canonicalize(&secret_path)?,
        store_bytes: config.store_bytes,
        upper_bytes: config
            .upper_bytes
            .unwrap_or_else(|| room::upper_bytes(memory_bytes, info.slots)),
    };
    let store = Store::open(&state.join("packets"), config.store_bytes)?;
    let pages = PagesDir::make(state)?;
    let door_path = state.join("door");
    let door = door::open(&door_path)?;
    let hidden = Arc::new(Hidden::new(own::all(config, &[state, pages.path()], &secret, &url)));
    look::set_root(outside.root())?;
    let (vital, mut ended) = Vital::new();

    let heard = Heard::new(Arc::clone(&hidden));
    let served = Served::new(heard.clone());
    let (exporter, unheard_rx) =
        ExporterHandle::start(&vital, heard.clone(), Arc::clone(&hidden), &outside)?;
    let may_begin = move |commit: &Commit| {
        origin::concerned(&commit.changes).all(|path| heard.may_be_asked(path))
    };
    let commits = Commits::start(&vital, &state.join("journal"), &outside, may_begin)?;
    let launcher = Rc::new(launcher);
    let sessions = Rc::new(Sessions::new(Rc::clone(&cluster)));
    let mirrors = Rc::new(Mirrors::new(
        Rc::clone(&cluster),
        Rc::clone(&launcher),
        store,
        vital.clone(),
        dirs,
        WalkMemory {
            upper_bytes: settings.upper_bytes,
            process_bytes: room::memory_bytes(memory_bytes, info.slots),
        },
    ));
    let runner = Rc::new(Runner::new(Rc::clone(&mirrors), launcher, info.slots));
    let dispatch = Rc::new(Dispatch {
        exporter: exporter.clone(),
        served: served.clone(),
        mirrors: Rc::clone(&mirrors),
        runner,
    });
    tokio::task::spawn_local(Rc::clone(&dispatch).ask_servers(unheard_rx));
    let links = Rc::new(Links::new(
        Peer { node: node.clone(), incarnation: random::number() },
        Secret::new(&secret),
        Rc::clone(&cluster),
        dispatch,
    ));
    let shutdown = Rc::new(Notify::new());
    let api = Rc::new(Api {
        listen: listen.to_string(),
        settings,
        pages_dir: pages.path().to_owned(),
        door_path: door_path.clone(),
        view: view.clone(),
        hidden: Arc::clone(&hidden),
        exporter: exporter.clone(),
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        mirrors: Rc::clone(&mirrors),
        sessions: Rc::clone(&sessions),
        shutdown: Rc::clone(&shutdown),
    });
    let walks = Rc::new(origin::Shared {
        node: node.clone(),
        hostname: nix::unistd::gethostname()?.into_encoded_bytes(),
        view,
        rights: Rights::own().context("failed to read the privileges of this process")?,
        hidden,
        looks: Looks::default(),
        served,
        returned: Budget::new(config.upper_bytes.unwrap_or(memory_bytes / RETURNED_PART)),
        exporter,
        commits,
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        sessions: Rc::clone(&sessions),
    });
    let upkeep = Rc::new(Upkeep {
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        mirrors,
        sessions,
        reached_at,
        state: state.to_owned(),
    });
    let receive = move |visit| {
        let (api, walks) = (Rc::clone(&api), Rc::clone(&walks));
        async move {
            match visit {
                Visit::Hello(visitor, hello) => origin::walk(walks, visitor, &hello).await,
                Visit::Request(visitor, first) => api.talk(visitor, first).await,
            }
        }
    };

    cluster.refresh().await;
    links.begin_greeting(false);
    vital.task("broker's events", Rc::clone(&upkeep).listen(events));
    vital.task("heartbeat", Rc::clone(&upkeep).beat());
    vital.task("gates", upkeep.keep_gates());
    vital.task("links", Rc::clone(&links).accept(listener));
    vital.task("door", door::serve(door, node.clone(), receive));
    tracing::info!(%node, %listen, "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    let died = tokio::select! {
        () = shutdown.notified() => None,
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        name = ended.wait() => Some(name),
    };
    let _ = std::fs::remove_file(&door_path);
    cluster.leave().await;
    tokio::time::sleep(FAREWELL).await;
    links.close();
    match died {
        None => Ok(()),
        Some(name) => anyhow::bail!(
            "'{name}' has ended, without which the agent cannot work (its panic is above): \
             start the agent again with `oswalk up`, and report this"
        ),
    }
}
