//! Whether every node of every region holds the same, while nobody writes.

use std::fmt;
use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use meridian_cluster::watcher::LATER;
use meridian_compat::process::wait_for;
use meridian_compat::raw::{RawClient, batches};
use serde_json::Value;

use crate::clients::{GROUP, PARTITIONS, TOPIC};
use crate::regions::Regions;

/// How long the mirrors may take to hold everything once nobody writes.
const CAUGHT_UP: Duration = Duration::from_secs(90);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(200);

/// Bytes of one answer.
const BYTES_MAX: i32 = 1 << 20;

/// What was found to be the same everywhere.
#[derive(Clone, Debug, Default)]
pub struct Equality {
    /// Logs of shards, the controller's among them, whose content has the same digest in every region.
    pub logs: usize,
    /// Nodes whose partitions were read whole.
    pub nodes: usize,
    /// Record batches of all partitions, each the same bytes on every node.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Partitions that `mirror verify` proved equal.
    pub verified: u64,
}

impl fmt::Display for Equality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} batches ({} bytes) are the same bytes at the same offsets on all {} nodes; {} logs have equal digests in \
             all regions; mirror verify: {} partitions equal",
            self.batches, self.bytes, self.nodes, self.logs, self.verified
        )
    }
}

/// Waits until all regions hold everything, and compares all of it. Nobody writes meanwhile.
///
/// Errors: what differs, and where.
pub fn compare(regions: &Regions) -> Result<Equality, String> {
    let logs = equal_logs(regions)?;
    let mut equality = Equality {
        logs,
        nodes: regions.kafka_addresses().len(),
        verified: verify(regions)?,
        ..Equality::default()
    };
    for partition in 0..PARTITIONS.cast_signed() {
        let dumped = equal_partition(&regions.kafka_addresses(), partition)?;
        equality.batches += batches(&dumped).len() as u64;
        equality.bytes += dumped.len() as u64;
    }
    Ok(equality)
}

/// The offsets that [`GROUP`] has committed, by partition, as the nodes of a region tell.
///
/// Errors: they do not tell.
pub fn group_offsets(regions: &Regions, asked: usize) -> Result<Vec<(u64, u64)>, String> {
    let told = regions.tool("group", &[asked], &["group", "describe", GROUP])?;
    let partitions = told["partitions"]
        .as_array()
        .ok_or_else(|| format!("no partitions: {told}"))?;
    let mut offsets: Vec<(u64, u64)> = partitions
        .iter()
        .filter_map(|it| Some((it["partition"].as_u64()?, it["committed_offset"].as_u64()?)))
        .collect();
    offsets.sort_unstable();
    Ok(offsets)
}

/// Sequence and digest of each log: equal in all regions, once they hold everything. A digest covers batches, group
/// offsets, producers, topics and settings.
fn equal_logs(regions: &Regions) -> Result<usize, String> {
    let all: Vec<usize> = (0..regions.len()).collect();
    let mut last = String::new();
    wait_for(CAUGHT_UP, || {
        let looked = regions
            .tool("status", &all, &["mirror", "status", "--shards"])
            .and_then(|status| count_equal(&status, regions.len()));
        match looked {
            Ok(logs) => Some(logs),
            Err(reason) => {
                last = reason;
                sleep(LOOK);
                None
            }
        }
    })
    .ok_or_else(|| format!("the regions do not hold the same {CAUGHT_UP:?} after the last write: {last}"))
}

/// How many logs there are, if all of them are in step everywhere. Errors: the first that is not.
fn count_equal(status: &Value, regions: usize) -> Result<usize, String> {
    let rows = status["shards"]
        .as_array()
        .ok_or_else(|| format!("no shards: {status}"))?;
    let mut logs: Vec<&Value> = rows.iter().map(|row| &row["shard"]).collect();
    logs.sort_by_key(|shard| shard.to_string());
    logs.dedup();
    for shard in &logs {
        let of = |row: &&Value| row["shard"] == **shard;
        let mut held: Vec<(String, String, String)> = rows
            .iter()
            .filter(of)
            .map(|row| {
                (
                    row["sequence"].to_string(),
                    row["digest"].to_string(),
                    row["diverged_at"].to_string(),
                )
            })
            .collect();
        let copies = held.len();
        held.dedup();
        if copies != regions || held.len() != 1 || held[0].2 != "null" {
            return Err(format!("log {shard} is led in {copies} regions, as {held:?}"));
        }
    }
    match logs.is_empty() {
        true => Err("there are no logs".to_owned()),
        false => Ok(logs.len()),
    }
}

/// `meridian mirror verify`, whose status is 0 only if nothing differs.
fn verify(regions: &Regions) -> Result<u64, String> {
    let all: Vec<usize> = (0..regions.len()).collect();
    let proof = regions.tool("verify", &all, &["mirror", "verify", "--timeout", "30s"])?;
    let equal = proof["partitions_equal"].as_u64().unwrap_or(0);
    let heard = proof["regions"].as_array().map_or(0, Vec::len);
    match proof["is_equal"] == true && equal >= u64::from(PARTITIONS) && heard == regions.len() {
        true => Ok(equal),
        false => Err(format!("the regions are not proven equal: {proof}")),
    }
}

/// The bytes of a partition, the same on every node. Errors: whose differ.
fn equal_partition(nodes: &[SocketAddr], partition: i32) -> Result<Vec<u8>, String> {
    let mut last = String::new();
    wait_for(CAUGHT_UP, || match equal_now(nodes, partition) {
        Ok(dumped) => Some(Ok(dumped)),
        Err(Unequal::Differs(reason)) => Some(Err(reason)),
        Err(Unequal::Behind(reason)) => {
            last = reason;
            sleep(LOOK);
            None
        }
    })
    .unwrap_or_else(|| Err(format!("{CAUGHT_UP:?} after the last write: {last}")))
}

/// Why a partition is not the same on every node.
enum Unequal {
    /// For good.
    Differs(String),
    /// A node lacks the end, or cannot tell just now: a follower learns a moment after its leader what is committed.
    Behind(String),
}

fn equal_now(nodes: &[SocketAddr], partition: i32) -> Result<Vec<u8>, Unequal> {
    let mut first: Option<Vec<u8>> = None;
    for node in nodes {
        let named = |e: String| format!("partition {partition} of node {node}: {e}");
        let dumped = dump(*node, partition).map_err(|e| match e {
            Unequal::Differs(e) => Unequal::Differs(named(e)),
            Unequal::Behind(e) => Unequal::Behind(named(e)),
        })?;
        match &first {
            None => first = Some(dumped),
            Some(first) if *first == dumped => {}
            Some(first) => {
                let differs = first.iter().zip(&dumped).position(|(one, other)| one != other);
                let reason = format!(
                    "partition {partition}: {} has {} bytes, {node} has {}; the first that differs: {differs:?}",
                    nodes[0],
                    first.len(),
                    dumped.len()
                );
                return Err(match differs {
                    Some(_) => Unequal::Differs(reason),
                    None => Unequal::Behind(reason),
                });
            }
        }
    }
    first.ok_or_else(|| Unequal::Differs("there are no nodes".to_owned()))
}

/// All batches that a node, leader or not, gives of a partition, up to its high watermark.
fn dump(node: SocketAddr, partition: i32) -> Result<Vec<u8>, Unequal> {
    let later = |e: std::io::Error| Unequal::Behind(e.to_string());
    let mut client = RawClient::connect(node).map_err(later)?;
    let (mut dumped, mut next) = (Vec::new(), 0);
    loop {
        let answer = client
            .fetch_from_any(TOPIC, partition, next, BYTES_MAX)
            .map_err(later)?;
        if answer.error != 0 {
            let reason = format!("error {} at offset {next}", answer.error);
            return Err(match LATER.contains(&answer.error) {
                true => Unequal::Behind(reason),
                false => Unequal::Differs(reason),
            });
        }
        if next >= answer.high_watermark {
            return Ok(dumped);
        }
        let mut end = 0;
        for batch in batches(&answer.records) {
            if batch.base_offset != next || !batch.crc_holds {
                return Err(Unequal::Differs(format!("at offset {next} comes {batch:?}")));
            }
            next = batch.base_offset + i64::from(batch.record_count);
            end += batch_bytes(&answer.records[end..]);
        }
        if end == 0 {
            return Err(Unequal::Differs(format!(
                "nothing comes at offset {next}, below the high watermark {}",
                answer.high_watermark
            )));
        }
        dumped.extend_from_slice(&answer.records[..end]);
    }
}

/// The size of the whole batch that stands first: what its length field counts, and what stands before that.
fn batch_bytes(records: &[u8]) -> usize {
    let length: [u8; 4] = records[8..12].try_into().expect("four bytes");
    12 + usize::try_from(i32::from_be_bytes(length)).expect("the batch was parsed")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row(region: u64, shard: &Value, sequence: u64, digest: &str) -> Value {
        json!({ "region": region, "shard": shard, "sequence": sequence, "digest": digest, "diverged_at": null })
    }

    #[test]
    fn logs_that_differ_or_are_led_nowhere_are_not_equal() {
        let count = |rows: Vec<Value>| count_equal(&json!({ "shards": rows }), 2);
        let (zero, controller) = (json!(0), json!("controller"));
        let good = vec![
            row(0, &zero, 5, "a"),
            row(1, &zero, 5, "a"),
            row(0, &controller, 2, "b"),
            row(1, &controller, 2, "b"),
        ];
        assert_eq!(count(good.clone()), Ok(2));
        assert!(count(good[..3].to_vec()).is_err());
        let behind = [&good[..3], &[row(1, &controller, 1, "c")]].concat();
        assert!(count(behind).is_err());
        let other = [&good[..3], &[row(1, &controller, 2, "c")]].concat();
        assert!(count(other).is_err());
        let mut diverged = good;
        diverged[0]["diverged_at"] = json!(3);
        assert!(count(diverged).is_err());
        assert!(count(Vec::new()).is_err());
    }
}
