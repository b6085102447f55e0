//! Who belongs to a cluster. A cluster is a set of signed [`Record`]s: its owner's, and those of nodes that
//! the owner allowed to invite others. Each node keeps the whole set, and two sets are merged by union, so
//! the order of records and their senders do not matter.
//!
//! `record` is one record; `roll` decides from a set who is a member; `join_line` is what a user hands to a
//! new node; `succession` is how a member takes a new key.

mod join_line;
mod record;
mod roll;
mod succession;

pub use join_line::{JOIN_LINE_VERSION, JoinLine, JoinLineError};
pub use record::{ClusterId, ClusterName, ClusterNameError, RECORD_VERSION, Record, Statement};
pub use roll::{Member, RECORDS_MAX, RecordError, Roll};
pub use succession::Succession;
