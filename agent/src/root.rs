//! The composition root: starts all parts of the agent, passes each its dependencies, and ends them.

mod dispatch;
mod upkeep;

use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use broker::{Broker, Event, Matchmaker, NodeInfo, PrivateServer, Takes};
use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use packetfs::commit::Commit;
use packetfs::export::Hidden;
use packetfs::store::Store;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;
use worknode::id::NodeId;
use worknode::request::Settings;

use crate::api::Api;
use crate::budget::Budget;
use crate::cluster::{self, Cluster};
use crate::commits::Commits;
use crate::config::Config;
use crate::door::shares::Shares;
use crate::door::{self, Door, Visit};
use crate::exporter::ExporterHandle;
use crate::holders::Holders;
use crate::link::handshake::Peer;
use crate::links::Links;
use crate::links::dial::Relayed;
use crate::look::{self, Looks};
use crate::membership::{Membership, Place};
use crate::mesh::Mesh;
use crate::mirrors::{Mirrors, WalkMemory};
use crate::own_volume::OwnVolume;
use crate::pages::PagesDir;
use crate::reached_at::ReachedAt;
use crate::ready::{self, Now};
use crate::runner::{Runner, room};
use crate::served::{Heard, Served};
use crate::sessions::Sessions;
use crate::state::{Dirs, State};
use crate::sys::launcher::Launcher;
use crate::sys::outside::Outside;
use crate::sys::realm;
use crate::sys::rights::Rights;
use crate::sys::view::View;
use crate::vital::Vital;
use crate::volume::{VolumeHandle, answer};
use crate::wire::VERSION;
use crate::wire::joining::BrokerPlace;
use crate::{machine, origin, own, random};
use dispatch::Dispatch;
use upkeep::Upkeep;

/// Uncommitted changes of all walks of this origin may take this fraction of the machine's memory,
/// unless `--upper-bytes` says otherwise.
const RETURNED_PART: u64 = 4;
/// Time for sending the reply to the request that ended the agent.
const FAREWELL: Duration = Duration::from_millis(20);

/// Most bytes of packets kept on disk, unless the user chose otherwise.
const STORE_BYTES: u64 = 20 * 1024 * 1024 * 1024;

/// What is set up before the first thread starts.
struct Ground {
    state: State,
    dirs: Dirs,
    /// The mount namespace of users.
    view: View,
    outside: Arc<Outside>,
    launcher: Launcher,
    /// Whether walks can have a user namespace here.
    has_users: bool,
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
    // Without root, the launcher mounts in a user namespace. The agent stays where it sees owners as they are.
    let is_root = nix::unistd::geteuid().is_root();
    // Before this process makes its own mount namespace: these are the mounts of the users that it serves.
    let view = View::own().context("failed to look at /proc/self: oswalkd needs /proc")?;
    let outside = Arc::new(Outside::keep().context("failed to open /proc/self/ns/mnt")?);
    if is_root {
        // The agent's mounts are private to it, and end with it however it ends.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).context(
            "failed to make a mount namespace: root needs CAP_SYS_ADMIN, which a container may lack",
        )?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
            .context("failed to make the mounts private")?;
    }
    let dirs = Dirs::make(&state)?;
    machine::check_fuse()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o077));
    // SAFETY: no thread has been made yet.
    #[expect(unsafe_code, reason = "the check makes a process")]
    let users = unsafe { realm::check(is_root) };
    if let Err(error) = &users {
        tracing::error!(
            %error,
            "no user namespace can be made for walks: this node takes none, and its own walk elsewhere as \
             always. `oswalk doctor` names the remedy"
        );
    }
    // SAFETY: no thread has been made yet.
    #[expect(unsafe_code, reason = "the launcher must be made before the first thread")]
    let launcher = unsafe { Launcher::start() }.context("failed to start the launcher")?;
    Ok(Ground { state, dirs, view, outside, launcher, has_users: users.is_ok() })
}

async fn listen_on(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        let remedy = match error.kind() {
            std::io::ErrorKind::AddrNotAvailable => {
                "it is no address of this machine: join with another --listen"
            }
            _ => "end the program that uses this port, or join with another --listen ADDRESS:PORT",
        };
        anyhow::Error::new(error).context(format!("failed to listen on {address}: {remedy}"))
    })
}

/// Connects to the broker of this node's cluster. Starts it if it is this node's own.
async fn connect(
    membership: Option<&Membership>,
    state: &Path,
    node: &NodeId,
) -> anyhow::Result<(Broker, UnboundedReceiver<Event>, Option<PrivateServer>)> {
    const CELL: &str = "oswalk";
    let place = membership.and_then(|it| Some((it, it.place().broker.as_ref()?)));
    let (connected, server) = match place {
        Some((_, BrokerPlace::Url(url))) => (Broker::connect(url, CELL, node).await, None),
        Some((membership, BrokerPlace::Node { address, .. })) => {
            let relayed = Relayed::new(membership.contacts.clone(), address);
            let relayed = relayed.with_context(|| {
                format!(
                    "'{address}' is not the address of a broker: leave the cluster and join again"
                )
            })?;
            (Broker::connect_through(Arc::new(relayed), CELL, node).await, None)
        }
        None => {
            let server = PrivateServer::start(&state.join("redis")).await?;
            (Broker::connect(server.url(), CELL, node).await, Some(server))
        }
    };
    let (broker, events) = connected?;
    Ok((broker, events, server))
}

async fn serve(config: &Config, ground: Ground) -> anyhow::Result<()> {
    let Ground { state, dirs, view, outside, launcher, has_users } = ground;
    let state = state.dir();
    let membership = Membership::open(state)?.map(Rc::new);
    let node = match &membership {
        Some(membership) => membership.place().node.clone(),
        None => config.name.clone().map_or_else(machine::default_name, Ok)?,
    };
    let listener = match &membership {
        Some(membership) => Some(listen_on(membership.place().listen).await?),
        None => None,
    };
    let listen = listener.as_ref().map(TcpListener::local_addr).transpose()?;
    let (broker, events, server) = connect(membership.as_deref(), state, &node).await?;
    let guest = server.as_ref().map(PrivateServer::guest);
    let runs_broker = guest.is_some();
    let place = membership.as_deref().map(Membership::place);
    let bounds =
        place.map_or_else(|| config.bounds.clone(), |place| config.bounds.or(&place.bounds));
    let store_bytes = bounds.store_bytes.unwrap_or(STORE_BYTES);
    let reached_at = ReachedAt::new(place, listen, broker.host());
    let address = reached_at.now();
    let info = NodeInfo {
        node: node.clone(),
        address,
        version: env!("CARGO_PKG_VERSION").into(),
        slots: if has_users { bounds.slots.unwrap_or_else(machine::processors) } else { 0 },
        cpu: machine::processor(),
        trouble: machine::trouble(&reached_at, address, state),
        takes: if nix::unistd::geteuid().is_root() { Takes::All } else { Takes::CompileSteps },
    };
    if let Some(membership) = &membership {
        membership.set_address(address);
    }
    let cluster = Rc::new(Cluster::new(info.clone(), broker));
    let drains = membership.as_ref().is_some_and(|membership| membership.is_draining());
    cluster.note_draining(drains).await;
    cluster::enter(&cluster).await?;
    let memory_bytes = machine::memory_bytes();
    let settings = Settings {
        advertise: info.address.to_string(),
        slots: info.slots,
        cluster: membership.as_ref().map(|membership| membership.cluster().to_string()),
        store_bytes,
        keep: bounds.keep.unwrap_or_default(),
        upper_bytes: bounds
            .upper_bytes
            .unwrap_or_else(|| room::upper_bytes(memory_bytes, info.slots)),
    };
    let store = Arc::new(Store::open(&state.join("packets"), store_bytes)?);
    let (mesh, mut liars_rx) = Mesh::start()?;
    let (holders, wishes_rx) = Holders::start(&store, &node, mesh.clone())?;
    let pages = PagesDir::make(state)?;
    let door = Rc::new(Door::open(pages.path(), state)?);
    let secrets = membership.as_ref().map(|membership| membership.secrets()).unwrap_or_default();
    let url = server.as_ref().map(PrivateServer::url).or(place.and_then(Place::broker_url));
    let own = own::all(&[state, pages.path()], secrets, url.unwrap_or_default());
    let hidden = Arc::new(Hidden::new(own));
    look::set_root(outside.root())?;
    let (vital, mut ended) = Vital::new();

    let own_volume = OwnVolume::new(mesh.clone());
    let heard = Heard::new(Arc::clone(&hidden), own_volume.clone());
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
        (store, Rc::clone(&holders.claims)),
        vital.clone(),
        dirs,
        WalkMemory {
            upper_bytes: settings.upper_bytes,
            process_bytes: room::memory_bytes(memory_bytes, info.slots),
        },
    ));
    let runner = Rc::new(Runner::new(Rc::clone(&mirrors), launcher, &info, membership.clone()));
    let dispatch = Rc::new(Dispatch {
        mesh: mesh.clone(),
        holders,
        exporter: exporter.clone(),
        served: served.clone(),
        mirrors: Rc::clone(&mirrors),
        runner,
    });
    tokio::task::spawn_local(Rc::clone(&dispatch).ask_servers(unheard_rx));
    let links = Rc::new(Links::new(
        Peer { node: node.clone(), incarnation: random::number(), key: None, speaks: VERSION },
        membership.clone(),
        Rc::clone(&cluster),
        dispatch,
        guest,
    ));
    tokio::task::spawn_local(Rc::clone(&links).serve_claims(wishes_rx));
    let shunning = Rc::clone(&links);
    tokio::task::spawn_local(async move {
        while let Some((node, evidence)) = liars_rx.recv().await {
            shunning.quarantine(&node, evidence);
        }
    });
    let secret = membership.as_ref().map(|membership| membership.secret());
    let id = membership.as_ref().map(|membership| membership.cluster_id());
    let whose = crate::volume::Node { secret, cluster: id, mesh: mesh.clone() };
    let volume = VolumeHandle::start(
        state,
        &outside,
        settings.keep,
        Arc::clone(&hidden),
        whose,
        own_volume.clone(),
    )?;
    tokio::task::spawn_local(volume.clone().collect_hourly());
    let shutdown = Rc::new(Notify::new());
    let looks = Rc::new(Looks::default());
    let shares = Shares::of(machine::descriptors(), memory_bytes);
    let api = Rc::new(Api {
        listen: listen.map(|listen| listen.to_string()),
        membership: membership.clone(),
        settings,
        pages_dir: pages.path().to_owned(),
        door_path: door.path().to_owned(),
        view: view.clone(),
        hidden: Arc::clone(&hidden),
        exporter: exporter.clone(),
        looks: Rc::clone(&looks),
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        mirrors: Rc::clone(&mirrors),
        sessions: Rc::clone(&sessions),
        volume: volume.clone(),
        own_volume: own_volume.clone(),
        share: shares.sessions,
        shutdown: Rc::clone(&shutdown),
    });
    let walks = Rc::new(origin::Shared {
        node: node.clone(),
        hostname: nix::unistd::gethostname()?.into_encoded_bytes(),
        view,
        rights: Rights::own().context("failed to read the privileges of this process")?,
        hidden,
        looks,
        served,
        returned: Budget::new(bounds.upper_bytes.unwrap_or(memory_bytes / RETURNED_PART)),
        exporter,
        commits,
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        sessions: Rc::clone(&sessions),
        near: origin::Near::new(own_volume, node.clone()),
        pipes: Rc::default(),
    });
    let upkeep = Rc::new(Upkeep {
        membership: membership.clone(),
        cluster: Rc::clone(&cluster),
        links: Rc::clone(&links),
        mirrors,
        sessions,
        reached_at,
        state: state.to_owned(),
    });
    let lender = volume.clone();
    let receive = move |visit| {
        let (api, walks, lender) = (Rc::clone(&api), Rc::clone(&walks), lender.clone());
        async move {
            match visit {
                Visit::Hello(visitor, hello) => origin::walk(walks, visitor, hello).await,
                Visit::Request(visitor, first) => api.talk(visitor, first).await,
                Visit::Root(visitor, point) => answer::lend(&lender, visitor, point).await,
            }
        }
    };

    if cluster.broker.is_up() {
        cluster.refresh().await;
    }
    links.begin_greeting(false);
    if runs_broker {
        // Its address may have changed while it was down, and nobody finds the broker then.
        links.begin_telling();
    }
    vital.task("broker's events", Rc::clone(&upkeep).listen(events));
    vital.task("heartbeat", Rc::clone(&upkeep).beat());
    if let Some(membership) = &membership {
        vital.task("tokens", Rc::clone(&upkeep).keep_to_tokens(Rc::clone(membership)));
        vital.task("authors", upkeep::keep_authors(Rc::clone(membership), mesh.clone()));
        vital.task("kept links", Rc::clone(&links).keep(move || mesh.is_open()));
    }
    vital.task("gates", upkeep.keep_gates());
    if let Some(listener) = listener {
        vital.task("links", Rc::clone(&links).accept(listener));
    }
    // Who starts the agent may go on once the door answers.
    volume.is_back().await;
    vital.task("door", door::serve(Rc::clone(&door), node.clone(), shares, receive));
    tracing::info!(%node, ?listen, "ready");
    let mut terminate = signal(SignalKind::terminate())?;
    ready::tell(Now::Ready);
    let died = tokio::select! {
        () = shutdown.notified() => None,
        _ = terminate.recv() => None,
        _ = tokio::signal::ctrl_c() => None,
        name = ended.wait() => Some(name),
    };
    ready::tell(Now::Stopping);
    door.close();
    volume.end().await;
    cluster.leave().await;
    tokio::time::sleep(FAREWELL).await;
    links.close();
    if let Some(membership) = &membership {
        membership.save_addresses().await;
    }
    match died {
        None => Ok(()),
        Some(name) => anyhow::bail!(
            "'{name}' has ended, without which the agent cannot work (its panic is above): \
             start the agent again with `oswalk up`, and report this"
        ),
    }
}
