//! A data directory made from a bucket: what `meridian region restore` does.
//!
//! A file `restoring.json` stands in the directory from before the first change until everything is there. A node refuses
//! to start on it, and a restore that finds it goes on as the same node.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use meridian_journal::{Disk, RealDisk};
use meridian_shard::restore::{self, RestoreError, RestoreProgress, RestoreReport, RestoreRequest};
use meridian_tiered_storage::store::Store;
use meridian_types::{NodeId, TimestampMs, Uuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::identity;
use crate::{disk, driver};

const MARKER: &str = "restoring.json";
const FORMAT: u32 = 1;

/// What a restore makes below the data directory, and begins anew with when it is repeated.
const MADE: &[&str] = &["checkpoints", "journal", "cold-cache", identity::NAME];

/// A region that still writes is looked at again so many times after its bucket was taken over.
const LOOKS_MAX: usize = 10;

/// What to restore, and where to.
pub struct RestoreOptions {
    /// The bucket.
    pub store: Store,
    /// The data directory to make: a new or empty one, or that of a restore which was interrupted.
    pub data: PathBuf,
    /// The cluster, where the bucket holds several.
    pub cluster: Option<String>,
    /// The new node's id; one that was never given unless it is named.
    pub node: Option<NodeId>,
    /// The region that owns the bucket is gone, or must not write to it any more.
    pub take_over: bool,
}

/// Why a data directory was not made.
#[derive(Debug, Error)]
pub enum RestoreDirectoryError {
    /// The bucket cannot be restored from.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Something is there that a restore would write over. Name a new directory.
    #[error("{directory} is not empty: name a new directory for --data")]
    NotEmpty {
        /// The directory.
        directory: String,
    },
    /// A restore into the directory was interrupted that was to make another node. Name the same, or a new directory.
    #[error(
        "{directory} holds the beginning of node {present}: restore it as that one, or into a new directory"
    )]
    OtherNode {
        /// The directory.
        directory: String,
        /// The node that it was to be.
        present: NodeId,
    },
    /// The mark of an interrupted restore cannot be read. Name a new directory.
    #[error("{path} cannot be read: {reason}; name a new directory for --data")]
    Marker {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The region wrote on and on after its bucket was taken over. Stop it, then restore again.
    #[error("the region that owned the bucket still writes to it; stop its nodes, then restore again")]
    Busy,
    /// The directory cannot be written.
    #[error("{directory}: {source}")]
    Io {
        /// The directory.
        directory: String,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The directory holds only a part of what a node needs.
#[derive(Debug, Error)]
#[error(
    "{directory} is half restored: run `meridian region restore` with it again, with the same bucket, until it says that it is done"
)]
pub struct HalfRestored {
    directory: String,
}

#[derive(Serialize, Deserialize)]
struct Marker {
    format: u32,
    cluster: String,
    node: u32,
    incarnation: String,
    began_at_ms: i64,
}

/// Whether a node may start on the directory.
pub(crate) fn check_whole(data: &Path) -> Result<(), HalfRestored> {
    match disk::read_if_there(&data.join(MARKER)) {
        Ok(None) => Ok(()),
        _ => Err(HalfRestored {
            directory: data.display().to_string(),
        }),
    }
}

/// Makes the data directory of a region's first new node from the region's bucket, and takes the bucket over.
///
/// May be repeated after an interruption at any place. When it returns, the directory is whole.
pub fn restore<'a>(
    options: &'a RestoreOptions,
    progress: &'a (dyn Fn(RestoreProgress) + Send + Sync),
) -> BoxFuture<'a, Result<RestoreReport, RestoreDirectoryError>> {
    // Boxed as `Server::start` is.
    Box::pin(async move {
        let (data, store) = (&options.data, &options.store);
        let io = |source| RestoreDirectoryError::Io {
            directory: data.display().to_string(),
            source,
        };
        let earlier = read_marker(data)?;
        let mut request = match &earlier {
            Some(marker) => resume(options, marker)?,
            None if disk::is_free(data).map_err(io)? => RestoreRequest {
                cluster: options.cluster.clone(),
                node: options.node,
                incarnation: Uuid::from_u128(driver::randomness(None)()),
                now: driver::wall_clock()(),
                take_over: options.take_over,
            },
            None => {
                return Err(RestoreDirectoryError::NotEmpty {
                    directory: data.display().to_string(),
                });
            }
        };
        let mut plan = restore::look(store, &request, progress).await?;
        request.node = Some(plan.node());
        let marker = Marker {
            format: FORMAT,
            cluster: plan.report().cluster.clone(),
            node: plan.node().0,
            incarnation: request.incarnation.to_string(),
            began_at_ms: request.now.0,
        };
        let text = serde_json::to_vec_pretty(&marker).expect("plain fields");
        disk::write_whole(data, MARKER, &text).map_err(io)?;
        let mut looks = 1;
        while !plan.claim(store).await? {
            if looks == LOOKS_MAX {
                return Err(RestoreDirectoryError::Busy);
            }
            looks += 1;
            plan = restore::look(store, &request, progress).await?;
        }
        disk::remove_all(data, MADE).map_err(io)?;
        let checkpoints: Arc<dyn Disk> = Arc::new(RealDisk::open(data.join("checkpoints")).map_err(io)?);
        let plan = tokio::task::spawn_blocking(move || plan.write(&checkpoints).map(|()| plan))
            .await
            .expect("writing does not panic")?;
        let region = &plan.report().region;
        identity::give(data, plan.node(), request.incarnation, region).map_err(io)?;
        disk::remove_durably(data, MARKER).map_err(io)?;
        Ok(plan.report().clone())
    })
}

fn read_marker(data: &Path) -> Result<Option<Marker>, RestoreDirectoryError> {
    let path = data.join(MARKER);
    let unreadable = |reason: String| RestoreDirectoryError::Marker {
        path: path.display().to_string(),
        reason,
    };
    let Some(text) = disk::read_if_there(&path).map_err(|error| unreadable(error.to_string()))? else {
        return Ok(None);
    };
    let marker: Marker = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    match marker.format {
        FORMAT => Ok(Some(marker)),
        format => Err(unreadable(format!(
            "format {format}, this version knows {FORMAT}"
        ))),
    }
}

fn resume(options: &RestoreOptions, marker: &Marker) -> Result<RestoreRequest, RestoreDirectoryError> {
    let present = NodeId(marker.node);
    if options.node.is_some_and(|node| node != present) {
        return Err(RestoreDirectoryError::OtherNode {
            directory: options.data.display().to_string(),
            present,
        });
    }
    let incarnation =
        Uuid::try_parse(&marker.incarnation).map_err(|error| RestoreDirectoryError::Marker {
            path: options.data.join(MARKER).display().to_string(),
            reason: error.to_string(),
        })?;
    Ok(RestoreRequest {
        cluster: Some(options.cluster.clone().unwrap_or_else(|| marker.cluster.clone())),
        node: Some(present),
        incarnation,
        now: TimestampMs(marker.began_at_ms),
        take_over: options.take_over,
    })
}

#[cfg(test)]
mod tests {
    use meridian_tiered_storage::store::StoreSettings;

    use super::*;

    fn options(data: &Path) -> RestoreOptions {
        RestoreOptions {
            store: Store::open(&StoreSettings::new("memory:///")).expect("a store"),
            data: data.to_owned(),
            cluster: None,
            node: None,
            take_over: false,
        }
    }

    async fn refused(options: &RestoreOptions) -> String {
        let restored = restore(options, &|_| {}).await;
        restored.map(|_| ()).expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn a_directory_with_something_in_it_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(
            refused(&options(directory.path()))
                .await
                .contains("no region has written")
        );
        std::fs::write(directory.path().join("precious"), "x").expect("written");
        assert!(refused(&options(directory.path())).await.contains("not empty"));
        assert!(directory.path().join("precious").exists());
    }

    #[tokio::test]
    async fn a_half_restored_directory_is_refused_by_the_server_and_goes_on_as_the_same_node() {
        let directory = tempfile::tempdir().expect("a directory");
        check_whole(directory.path()).expect("nothing was begun");
        let marker = Marker {
            format: FORMAT,
            cluster: "c".to_owned(),
            node: 4,
            incarnation: Uuid::from_u128(7).to_string(),
            began_at_ms: 12,
        };
        let write = |text: &str| std::fs::write(directory.path().join(MARKER), text).expect("written");
        write(&serde_json::to_string(&marker).expect("json"));
        let error = check_whole(directory.path()).expect_err("half").to_string();
        assert!(error.contains("region restore"), "{error}");
        let request = resume(&options(directory.path()), &marker).expect("it goes on");
        assert_eq!((request.node, request.now), (Some(NodeId(4)), TimestampMs(12)));
        assert_eq!(request.incarnation, Uuid::from_u128(7));
        let other = RestoreOptions {
            node: Some(NodeId(5)),
            ..options(directory.path())
        };
        assert!(refused(&other).await.contains("node 4"));
        write("{");
        assert!(
            refused(&options(directory.path()))
                .await
                .contains("name a new directory")
        );
    }
}
