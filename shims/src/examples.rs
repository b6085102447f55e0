//! What an agent answers, as an example: for tests.

use worknode::request::{
    FuseCounts, MachineStatus, NodeCondition, NodeStatus, NodeTakes, Retention, Settings, Status,
};

/// Returns a node that is in this state.
pub(crate) fn node(name: &str, state: NodeCondition) -> NodeStatus {
    NodeStatus {
        node: name.parse().expect("a sound name"),
        address: ([10, 0, 0, 11], 7700).into(),
        version: "0.1.0".into(),
        slots: 4,
        running: 0,
        state,
        why: None,
        remedy: None,
        last_seen: 0,
        left: false,
        takes: NodeTakes::All,
        load_percent: 0,
    }
}

/// Returns what the agent of `n1` says of two nodes.
pub(crate) fn cluster() -> Status {
    Status {
        node: "n1".parse().expect("a sound name"),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: 4711,
        listen: Some("10.0.0.11:7700".to_owned()),
        broker: "redis://hub:6379/".to_owned(),
        broker_up: true,
        removed: None,
        settings: Settings {
            advertise: "10.0.0.11:7700".to_owned(),
            slots: 4,
            cluster: Some("lab".to_owned()),
            store_bytes: 20 << 30,
            keep: Retention::default(),
            upper_bytes: 1 << 30,
        },
        machine: MachineStatus { processors: 4, load: 1.5, store_bytes: 3_200_000_000 },
        sessions: 1,
        fuse: FuseCounts::default(),
        other_mounts: false,
        conflicts: 0,
        full_volume: None,
        nodes: vec![node("n1", NodeCondition::Alive), node("n2", NodeCondition::Alive)],
    }
}
