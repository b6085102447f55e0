//! The directory `cluster` in the state directory. Each file is replaced as a whole, so that a power cut leaves the old
//! one or the new one.

use std::fs::{DirBuilder, File};
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use worknode::capability::{RevocationList, Revocations};
use worknode::id::NodeId;
use worknode::key::{Key, SecretKey};
use worknode::membership::{ClusterId, RECORD_VERSION, Record, Roll};

use super::addresses::Addresses;
use super::invites::Invites;
use crate::config::Bounds;
use crate::random;
use crate::wire::joining::BrokerPlace;

const DIR: &str = "cluster";
/// The key of a node that asks to be admitted, in the state directory.
const JOINING: &str = "joining";
/// The key that this node is going to have.
const SUCCESSOR: &str = "successor";
/// Present while this node is to get no walks of others.
const DRAINING: &str = "draining";
const DIR_MODE: u32 = 0o700;
/// The version of the files: that of the records in them.
const FORMAT: u8 = RECORD_VERSION;

/// What was chosen when the node joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    /// This node's name.
    pub(crate) node: NodeId,
    /// Where its agent listens.
    pub(crate) listen: SocketAddr,
    /// What other agents are told to call, if it is not that.
    pub(crate) advertise: Option<SocketAddr>,
    /// What its agent may use of the machine.
    #[serde(default)]
    pub(crate) bounds: Bounds,
    /// Where the broker is; absent on the node that runs it.
    pub(crate) broker: Option<BrokerPlace>,
}

impl Place {
    /// Returns the URL of a broker that is a server of its own.
    pub(crate) fn broker_url(&self) -> Option<&str> {
        match &self.broker {
            Some(BrokerPlace::Url(url)) => Some(url),
            _ => None,
        }
    }

    /// Returns the key of the node that ran the broker when this one joined, if that is another one.
    pub(super) fn broker_key(&self) -> Option<Key> {
        match &self.broker {
            Some(BrokerPlace::Node { key, .. }) => Some(*key),
            _ => None,
        }
    }
}

/// The directory.
#[derive(Debug, Clone)]
pub(super) struct Files(PathBuf);

impl Files {
    /// Names the directory of the agent with a state directory.
    pub(super) fn of(state: &Path) -> Self {
        Self(state.join(DIR))
    }

    /// Tells whether the node belongs to a cluster.
    pub(super) fn exist(&self) -> bool {
        self.0.exists()
    }

    /// Succeeds if the node belongs to no cluster.
    pub(super) fn check_absent(&self) -> anyhow::Result<()> {
        if !self.exist() {
            return Ok(());
        }
        let name =
            self.roll().map_or_else(|_| "another".to_owned(), |roll| roll.name().to_string());
        anyhow::bail!(
            "this node belongs to the cluster '{name}' already: 'oswalk cluster leave' ends that"
        )
    }

    /// Creates the directory with all files, or nothing.
    pub(super) fn create(
        &self,
        key: &SecretKey,
        owner: Option<&SecretKey>,
        roll: &Roll,
        place: &Place,
    ) -> anyhow::Result<()> {
        self.check_absent()?;
        let fresh = Self(self.0.with_extension("new"));
        let failed = || format!("failed to write {}", fresh.0.display());
        let _ = std::fs::remove_dir_all(&fresh.0);
        DirBuilder::new().recursive(true).mode(DIR_MODE).create(&fresh.0).with_context(failed)?;
        fresh.write("key", key.seed())?;
        if let Some(owner) = owner {
            fresh.write("owner", owner.seed())?;
        }
        fresh.save_roll(roll)?;
        fresh.save_place(place)?;
        std::fs::rename(&fresh.0, &self.0).with_context(failed)?;
        sync_dir(&self.0).with_context(failed)
    }

    /// Returns the key with which this node asks to be admitted. It stays until the node is answered, so that a node
    /// whose answer was lost asks again under the same key.
    pub(super) fn joining_key(&self) -> anyhow::Result<SecretKey> {
        let state = self.state();
        if let Ok(Some(key)) = state.secret(JOINING) {
            return Ok(key);
        }
        let key = random::secret_key();
        state.write(JOINING, key.seed())?;
        Ok(key)
    }

    /// Removes that key.
    pub(super) fn forget_joining_key(&self) {
        // One that stays is used by the next attempt to join.
        let _ = std::fs::remove_file(self.state().0.join(JOINING));
    }

    /// Returns the key that this node is going to have. It stays until the node has it.
    pub(super) fn successor(&self) -> anyhow::Result<SecretKey> {
        if let Ok(Some(key)) = self.secret(SUCCESSOR) {
            return Ok(key);
        }
        let key = random::secret_key();
        self.write(SUCCESSOR, key.seed())?;
        Ok(key)
    }

    /// Makes that key this node's.
    pub(super) fn use_successor(&self) -> anyhow::Result<()> {
        let key = self.0.join("key");
        let used = std::fs::rename(self.0.join(SUCCESSOR), &key).and_then(|()| sync_dir(&key));
        used.with_context(|| format!("failed to write {}", key.display()))
    }

    /// Completes a rotation that was interrupted after the new key was admitted.
    pub(super) fn complete_rotation(&self, roll: &Roll) -> anyhow::Result<()> {
        match self.secret(SUCCESSOR) {
            Ok(Some(key)) if roll.member(&key.key()).is_some() => self.use_successor(),
            _ => Ok(()),
        }
    }

    /// Tells whether this node is to get no walks of others.
    pub(super) fn is_draining(&self) -> bool {
        self.0.join(DRAINING).exists()
    }

    /// Writes whether it is.
    pub(super) fn set_draining(&self, draining: bool) -> anyhow::Result<()> {
        if draining {
            return self.write(DRAINING, b"");
        }
        let path = self.0.join(DRAINING);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("failed to remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Returns the state directory.
    fn state(&self) -> Self {
        Self(self.0.parent().map_or_else(PathBuf::new, Path::to_owned))
    }

    /// Reads this node's key.
    pub(super) fn key(&self) -> anyhow::Result<SecretKey> {
        self.secret("key")?.with_context(|| self.damaged("key"))
    }

    /// Reads the owner's key, which the founding node has.
    pub(super) fn owner(&self) -> anyhow::Result<Option<SecretKey>> {
        self.secret("owner")
    }

    fn secret(&self, name: &str) -> anyhow::Result<Option<SecretKey>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        let seed = <[u8; 32]>::try_from(bytes).ok().with_context(|| self.damaged(name))?;
        Ok(Some(SecretKey::from_seed(&seed)))
    }

    /// Reads what was chosen.
    pub(super) fn place(&self) -> anyhow::Result<Place> {
        let bytes = self.read("place")?.with_context(|| self.damaged("place"))?;
        serde_json::from_slice(&bytes).with_context(|| self.damaged("place"))
    }

    /// Writes it.
    pub(super) fn save_place(&self, place: &Place) -> anyhow::Result<()> {
        self.write("place", &serde_json::to_vec_pretty(place)?)
    }

    /// Reads the roll.
    pub(super) fn roll(&self) -> anyhow::Result<Roll> {
        let (cluster, records): (ClusterId, Vec<Record>) =
            self.decoded("records")?.with_context(|| self.damaged("records"))?;
        Roll::of(cluster, records).with_context(|| self.damaged("records"))
    }

    /// Writes the roll.
    pub(super) fn save_roll(&self, roll: &Roll) -> anyhow::Result<()> {
        let records: Vec<_> = roll.records().collect();
        self.encode("records", &(roll.cluster(), records))
    }

    /// Reads the invitations of this node.
    pub(super) fn invites(&self) -> anyhow::Result<Invites> {
        Ok(self.decoded("invites")?.unwrap_or_default())
    }

    /// Writes them.
    pub(super) fn save_invites(&self, invites: &Invites) -> anyhow::Result<()> {
        self.encode("invites", invites)
    }

    /// Reads the lists of revoked tokens.
    pub(super) fn revocations(&self) -> anyhow::Result<Vec<RevocationList>> {
        Ok(self.decoded("revoked")?.unwrap_or_default())
    }

    /// Writes them.
    pub(super) fn save_revocations(&self, revocations: &Revocations) -> anyhow::Result<()> {
        self.encode("revoked", &revocations.lists().collect::<Vec<_>>())
    }

    /// Reads where the members were last seen; nothing if that is not known.
    pub(super) fn addresses(&self) -> Addresses {
        self.decoded("addresses").ok().flatten().unwrap_or_default()
    }

    /// Writes it.
    pub(super) fn save_addresses(&self, addresses: &Addresses) -> anyhow::Result<()> {
        self.encode("addresses", addresses)
    }

    fn encode(&self, name: &str, value: &impl Serialize) -> anyhow::Result<()> {
        self.write(name, &postcard::to_allocvec(&(FORMAT, value))?)
    }

    fn decoded<T: DeserializeOwned>(&self, name: &str) -> anyhow::Result<Option<T>> {
        let Some(bytes) = self.read(name)? else { return Ok(None) };
        match bytes.split_first() {
            Some((&FORMAT, bytes)) => {
                postcard::from_bytes(bytes).map(Some).with_context(|| self.damaged(name))
            }
            Some((format, _)) => anyhow::bail!(
                "{} has format {format}, and this OS Walk reads {FORMAT}: install the version that wrote it",
                self.0.join(name).display()
            ),
            None => anyhow::bail!(self.damaged(name)),
        }
    }

    fn read(&self, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.0.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.0.join(name);
        packetfs::whole::write(&path, bytes)
            .with_context(|| format!("failed to write {}", path.display()))
    }

    fn damaged(&self, name: &str) -> String {
        format!(
            "{} is missing or damaged: remove {} with 'oswalk cluster leave', and join again",
            self.0.join(name).display(),
            self.0.display()
        )
    }
}

/// Has the directory of a path reach the disk.
fn sync_dir(path: &Path) -> std::io::Result<()> {
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}
