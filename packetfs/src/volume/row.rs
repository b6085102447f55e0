//! How values stand in rows of the tables.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::VolumeError;

/// A value that a row can have.
pub(super) trait Row: Serialize + DeserializeOwned {
    /// Encodes it for a row.
    fn encode(&self) -> Result<Vec<u8>, VolumeError> {
        postcard::to_extend(self, Vec::new()).map_err(|_| VolumeError::Row)
    }

    /// Decodes it from a row.
    fn decode(row: &[u8]) -> Result<Self, VolumeError> {
        postcard::from_bytes(row).map_err(|_| VolumeError::Row)
    }
}

impl<T: Serialize + DeserializeOwned> Row for T {}
