//! How far a bucket is behind, as the metrics of the nodes tell, and whether it is whole.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use meridian_compat::process::wait_for;
use meridian_compat::s3::BucketAddress;
use meridian_compat::{program, workspace};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::view;

/// A lag of less is none: rounds come every 300 ms.
const LAG_NONE_S: f64 = 3.0;

/// How long the bucket may take to catch up after faults: rounds that fail pause for up to 32 s.
pub const CATCH_UP: Duration = Duration::from_secs(90);

/// How long what failed rounds left in the bucket may stay: the grace period, and some sweeps.
const ORPHANS: Duration = Duration::from_secs(120);

/// Waits until no node shows a lag any more; gives how long that took.
pub fn caught_up(cluster: &Cluster) -> Result<Duration, String> {
    let began = Instant::now();
    wait_for(CATCH_UP, || (longest_lag(cluster) <= LAG_NONE_S).then_some(())).ok_or_else(|| {
        format!(
            "the bucket lags by {:.1} s, {CATCH_UP:?} after the faults",
            longest_lag(cluster)
        )
    })?;
    Ok(began.elapsed())
}

/// Waits until nothing waits for the bucket, when nobody writes any more.
pub fn drained(cluster: &Cluster) -> Result<(), String> {
    let waiting = || sum(cluster, "meridian_tier_waiting_bytes", "");
    wait_for(CATCH_UP, || (waiting() == 0.0).then_some(())).ok_or_else(|| {
        format!(
            "{} bytes wait for the bucket, {CATCH_UP:?} after the last record",
            waiting()
        )
    })
}

/// The longest time, in seconds, that records of a shard have waited for the bucket.
pub fn longest_lag(cluster: &Cluster) -> f64 {
    let of_node = |node| {
        let metrics = cluster.metrics(node).unwrap_or_default();
        let name = "meridian_tier_waiting_seconds";
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with([' ', '{'])
                .then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.fold(0.0, f64::max)
    };
    (0..cluster.len()).map(of_node).fold(0.0, f64::max)
}

/// The sum of a metric over all nodes, and over those of its lines that hold `label`.
pub fn sum(cluster: &Cluster, metric: &str, label: &str) -> f64 {
    let of_node = |node| view::labelled(&cluster.metrics(node)?, metric, label);
    (0..cluster.len()).filter_map(of_node).sum()
}

/// `meridian tier verify`, past the proxy, until it finds nothing that no manifest names. Errors: something is wrong with the
/// bucket, or stays in it.
pub fn verify(bucket: &BucketAddress, directory: &Path) -> Result<String, String> {
    let mut last = Err("it was not asked".to_owned());
    let found = wait_for(ORPHANS, || {
        let mut command = Command::new(workspace::meridian_binary().ok()?);
        command
            .args(["tier", "verify", "--output", "json"])
            .args(bucket.arguments());
        let report = program::run("tier-verify", command, directory, None, Duration::from_secs(120));
        last = report.and_then(|report| {
            let text = report.lines.join("\n");
            serde_json::from_str::<Value>(&text).map_err(|e| format!("tier verify printed '{text}': {e}"))
        });
        let document = last.as_ref().ok()?;
        let is_clean =
            document["is_whole"] == true && document["orphans"].as_array().is_some_and(Vec::is_empty);
        if !is_clean {
            thread::sleep(Duration::from_millis(500));
        }
        is_clean.then_some(())
    });
    match (found, last) {
        (Some(()), Ok(document)) => Ok(format!(
            "tier verify: {} records in {} objects, all whole, and no bundle that no manifest names",
            document["records"], document["objects"]
        )),
        (_, last) => Err(format!(
            "the bucket is not as it should be {ORPHANS:?} after the last record: {last:?}"
        )),
    }
}
