//! Cold data in a bucket.
//!
//! Pure: [`manifest`] says what of a shard is committed to lie in the bucket, [`bundle`] is the format of the objects,
//! [`merge`] plans which small extents to join, [`compact`] keeps the latest record of each key. Drivers, with time by
//! tokio's clock only: [`store`] is the bucket with deadlines, retries and counters, [`probe`] tells what is wrong
//! with it, [`upload`] writes a bundle and reads it back, [`cold`] reads for fetches, [`replay`] exports history, [`verify`]
//! proves a bucket, [`inventory`] says what lies in it. [`aside`] are threads for what
//! computes long.

mod codec;
#[cfg(test)]
mod fixture;

pub mod aside;
pub mod bundle;
pub mod cold;
pub mod compact;
pub mod inventory;
pub mod manifest;
pub mod manifest_file;
pub mod merge;
pub mod probe;
pub mod relocate;
pub mod replay;
#[cfg(any(test, feature = "testing"))]
pub mod sample;
pub mod state_file;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod topics_file;
pub mod upload;
pub mod verify;

pub use manifest::{
    Extent, Manifest, ManifestError, ManifestRejection, NewExtent, NewObject, Object, ObjectId, ObjectName,
    Replacement, Totals, Unlinked,
};
pub use manifest_file::{ManifestFile, ManifestFileError};
pub use state_file::{StateFile, StateFileError, StateKey};
pub use topics_file::{NamedTopic, TopicsFile, TopicsFileError};
