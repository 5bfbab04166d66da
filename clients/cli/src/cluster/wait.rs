//! Waiting until shards have moved, with progress.

use std::time::Duration;

use meridian_client::Admin;
use meridian_client::admin::{RegionDescription, RegionReplica, RegionShard};
use meridian_types::NodeId;
use tokio::time::{Instant, sleep};

use super::LOOK_INTERVAL;
use crate::context::Context;
use crate::error::CliError;

/// Without any movement for so long, something is in the way that will not go by itself.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// What is in the way for so long is taken at its word: plans are made every second.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Looks again and again until no shard is left over, and gives how many there were at first.
///
/// `is_left` says of a shard whether there is something to be done about it; `stuck` says why nothing will be, if that is
/// so. Errors: it is stuck; nothing has moved for two minutes; the servers do not answer for as long.
pub(super) async fn until_done(
    context: &Context,
    admin: &Admin,
    verb: &str,
    is_left: impl Fn(&RegionDescription, &RegionShard) -> bool,
    stuck: impl Fn(&RegionDescription) -> Option<String>,
) -> Result<usize, CliError> {
    let mut begun_with = None;
    let mut seen = None;
    let mut moved_at = Instant::now();
    let mut bar = None;
    loop {
        let looked = admin.describe_region().await;
        let stalled = moved_at.elapsed() >= STALLED_AFTER;
        match looked {
            Ok(region) => {
                let left = region
                    .shards
                    .iter()
                    .filter(|shard| is_left(&region, shard))
                    .count();
                let total = *begun_with.get_or_insert(left);
                let bar = bar.get_or_insert_with(|| context.output.progress(Some(total as u64), "shards"));
                // Shards may be found unsettled later; the bar never goes back.
                bar.set_position(total.saturating_sub(left) as u64);
                if left == 0 {
                    bar.finish_and_clear();
                    return Ok(total);
                }
                let present = trace(&region);
                if seen.as_ref() != Some(&present) {
                    (seen, moved_at) = (Some(present), Instant::now());
                } else if moved_at.elapsed() >= STUCK_AFTER
                    && let Some(reason) = stuck(&region)
                {
                    return Err(CliError::failed(reason).advise(
                        "start another node first, or set default.replication.factor lower for the cluster",
                    ));
                } else if stalled {
                    return Err(CliError::failed(format!(
                        "{left} of {total} shards are still to be {verb}, and nothing has moved for {} seconds",
                        STALLED_AFTER.as_secs()
                    ))
                    .advise("`meridian cluster status --shards` shows where they are and which nodes are away"));
                }
            }
            // In the middle of a move the servers may be busy with it.
            Err(error) if stalled => return Err(error.into()),
            Err(error) if super::is_unsupported(&error) => return Err(error.into()),
            Err(error) => tracing::debug!(%error, "looking again"),
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// What changes while shards move: for each one its leader, and its replicas with their kind and lag.
type Trace = Vec<(Option<NodeId>, Vec<(NodeId, bool, Option<u64>)>)>;

fn trace(region: &RegionDescription) -> Trace {
    let replica = |it: &RegionReplica| (it.node, it.is_voter, it.lag_entries);
    let shard = |shard: &RegionShard| (shard.leader, shard.replicas.iter().map(replica).collect());
    region.shards.iter().map(shard).collect()
}
