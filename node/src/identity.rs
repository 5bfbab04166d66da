//! Who the data directory belongs to.
//!
//! A file `identity.json` is made with the directory. It ties the directory to one node id, and tells
//! a restart from another machine that took the same number: the region registers both.

use std::path::Path;

use meridian_shard::Random;
use meridian_types::{NodeId, Uuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::disk;

/// Name of the file.
pub(crate) const NAME: &str = "identity.json";
const FORMAT: u32 = 1;

/// Why the directory cannot be this node's.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// It cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is not what this version writes.
    #[error("{path} cannot be read: {reason}; restore it, or start on an empty data directory")]
    Unreadable {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// It belongs to another node.
    #[error(
        "the data directory belongs to node {stored}, not to node {configured}: set node.id = {stored}, or use another directory"
    )]
    OtherNode {
        /// The node it belongs to.
        stored: u32,
        /// The node that wants it.
        configured: u32,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    node: u32,
    incarnation: String,
    /// The region that it was restored for; one that was not takes the settings' word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    region: Option<String>,
}

/// The node and the region that a directory is of, where it can be told. What is wrong with it is told by [`identify`].
pub(crate) fn look(data: &Path) -> Option<(NodeId, Option<String>)> {
    let text = disk::read_if_there(&data.join(NAME)).ok()??;
    let stored: Stored = serde_json::from_slice(&text).ok()?;
    (stored.format == FORMAT).then_some((NodeId(stored.node), stored.region))
}

/// Makes the directory that of a node of a restored region.
pub(crate) fn give(data: &Path, node: NodeId, incarnation: Uuid, region: &str) -> std::io::Result<()> {
    let stored = Stored {
        format: FORMAT,
        node: node.0,
        incarnation: incarnation.to_string(),
        region: Some(region.to_owned()),
    };
    let text = serde_json::to_vec_pretty(&stored).expect("plain fields");
    disk::write_whole(data, NAME, &text)
}

/// Reads the directory's identity, or gives it one. Returns its incarnation.
pub(crate) fn identify(data: &Path, node: NodeId, random: &Random) -> Result<Uuid, IdentityError> {
    let path = data.join(NAME);
    let shown = || path.display().to_string();
    let io = |source| IdentityError::Io {
        path: shown(),
        source,
    };
    match disk::read_if_there(&path).map_err(io)? {
        Some(text) => {
            let stored: Stored =
                serde_json::from_slice(&text).map_err(|error| IdentityError::Unreadable {
                    path: shown(),
                    reason: error.to_string(),
                })?;
            if stored.format != FORMAT {
                let reason = format!("format {}, this version knows {FORMAT}", stored.format);
                return Err(IdentityError::Unreadable {
                    path: shown(),
                    reason,
                });
            }
            if stored.node != node.0 {
                return Err(IdentityError::OtherNode {
                    stored: stored.node,
                    configured: node.0,
                });
            }
            Uuid::try_parse(&stored.incarnation).map_err(|error| IdentityError::Unreadable {
                path: shown(),
                reason: error.to_string(),
            })
        }
        None => {
            let incarnation = Uuid::from_u128(random());
            let stored = Stored {
                format: FORMAT,
                node: node.0,
                incarnation: incarnation.to_string(),
                region: None,
            };
            let text = serde_json::to_vec_pretty(&stored).expect("three plain fields");
            disk::write_whole(data, NAME, &text).map_err(io)?;
            Ok(incarnation)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_directory_keeps_its_node_and_its_incarnation() {
        let directory = tempfile::tempdir().expect("a directory");
        let random: Random = Arc::new(|| 42_u128);
        let first = identify(directory.path(), NodeId(3), &random).expect("given");
        let other: Random = Arc::new(|| 43_u128);
        assert_eq!(
            identify(directory.path(), NodeId(3), &other).expect("kept"),
            first
        );
        let error = identify(directory.path(), NodeId(4), &other).expect_err("refused");
        assert!(error.to_string().contains("set node.id = 3"), "{error}");
    }

    #[test]
    fn a_damaged_identity_is_refused_with_what_to_do() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(NAME), "{").expect("written");
        let error =
            identify(directory.path(), NodeId(3), &(Arc::new(|| 1_u128) as Random)).expect_err("refused");
        assert!(error.to_string().contains("restore it"), "{error}");
    }
}
