//! `meridian cluster status`.

use std::io::{IsTerminal, Write};

use clap::Args;
use meridian_client::admin::{
    BucketStanding, ClusterDescription, NodeBucket, RegionDescription, RegionReplica, RegionShard,
};
use meridian_client::{Admin, AdminError};
use meridian_types::{NodeId, ShardId};
use serde_json::{Value, json};

use super::broker_status::{BrokerStatus, look_at};
use super::{LOOK_INTERVAL, ids_json, ids_text, is_unsupported};
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, count, moment_text, or_dash, time_text, with_schema};

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Show it again every second, until stopped
    #[arg(long, short)]
    watch: bool,
    /// List every shard, not only those that are not where they should be
    #[arg(long)]
    shards: bool,
}

impl StatusArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        if !self.watch {
            let status = Status::look(&admin).await?;
            return context
                .output
                .document("cluster.status", status.json(), || status.text(self.shards));
        }
        loop {
            let looked = Status::look(&admin).await;
            self.show_again(context, &looked)?;
            tokio::select! {
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
                _ = tokio::signal::ctrl_c() => return Ok(()),
            }
        }
    }

    /// One object per line, or the whole picture in place of the last one. That nobody answers is part of the picture.
    fn show_again(&self, context: &Context, looked: &Result<Status, AdminError>) -> Result<(), CliError> {
        let mut out = std::io::stdout().lock();
        if context.output.is_json() {
            let fields = match looked {
                Ok(status) => status.json(),
                Err(error) => json!({ "error": error.to_string() }),
            };
            writeln!(out, "{}", with_schema("cluster.status", fields))?;
        } else {
            let text = match looked {
                Ok(status) => status.text(self.shards),
                Err(error) => format!("no answer: {error}"),
            };
            // Clears the screen; in a pipe or file, an empty line between pictures does.
            let before = if out.is_terminal() { "\x1b[H\x1b[2J" } else { "" };
            let after = if out.is_terminal() { "" } else { "\n" };
            writeln!(out, "{before}{text}{after}")?;
        }
        out.flush()?;
        Ok(())
    }
}

/// All that is shown. `region` is what only a Meridian tells.
struct Status {
    cluster: ClusterDescription,
    region: Option<RegionDescription>,
    brokers: Vec<BrokerStatus>,
}

impl Status {
    async fn look(admin: &Admin) -> Result<Self, AdminError> {
        let cluster = admin.describe_cluster().await?;
        let region = match admin.describe_region().await {
            Ok(region) => Some(region),
            Err(error) if is_unsupported(&error) => None,
            Err(error) => return Err(error),
        };
        let mut brokers = Vec::new();
        let looks = cluster.brokers.iter().map(|broker| look_at(admin, broker));
        for mut broker in futures::future::join_all(looks).await {
            if let Some(region) = &region {
                broker.add(region);
            }
            brokers.push(broker);
        }
        // Nodes that are away are no brokers that clients are told of.
        let away = region.iter().flat_map(|region| &region.nodes);
        for node in away.filter(|node| cluster.brokers.iter().all(|broker| broker.id != node.id)) {
            let mut broker = BrokerStatus::of_node(node);
            broker.add(region.as_ref().expect("the node is the region's"));
            brokers.push(broker);
        }
        brokers.sort_by_key(|broker| broker.id);
        Ok(Self {
            cluster,
            region,
            brokers,
        })
    }

    fn json(&self) -> Value {
        let cluster = &self.cluster;
        let region = self.region.as_ref().map(|region| {
            json!({
                "name": region.region,
                "copies": region.copies,
                "feature_level": region.feature_level,
                "shards_unsettled": unsettled(region).count(),
                "bucket": bucket_json(region),
                "shards": region.shards.iter().map(shard_status_json).collect::<Vec<_>>(),
            })
        });
        json!({
            "cluster_id": cluster.cluster_id,
            "controller": cluster.controller.map(|id| id.0),
            "brokers": self.brokers.iter().map(BrokerStatus::json).collect::<Vec<_>>(),
            "topics": cluster.topics,
            "partitions": cluster.partitions,
            "partitions_without_leader": cluster.partitions_without_leader,
            "partitions_under_replicated": cluster.partitions_under_replicated,
            "region": region,
        })
    }

    fn text(&self, all_shards: bool) -> String {
        let cluster = &self.cluster;
        let mut text = format!(
            "cluster {}: {}, {}, {} without leader, {} under-replicated (* controller)\n\n{}",
            or_dash(cluster.cluster_id.as_ref()),
            count(cluster.topics, "topic"),
            count(cluster.partitions, "partition"),
            cluster.partitions_without_leader,
            cluster.partitions_under_replicated,
            self.broker_rows().render(),
        );
        if let Some(region) = &self.region {
            let shown: Vec<&RegionShard> = region
                .shards
                .iter()
                .filter(|shard| all_shards || !shard.is_settled())
                .collect();
            let unsettled = unsettled(region).count();
            let summary = match unsettled {
                0 => "each where it should be".to_owned(),
                unsettled => format!("{unsettled} not where they should be"),
            };
            text += &format!(
                "\n\nregion {}: {}, {} wanted of each, {summary}",
                region.region,
                count(region.shards.len(), "shard"),
                count_copies(region.copies),
            );
            for (node, reason) in &region.full_disks {
                text += &format!("\nnode {node} takes no more records: {reason}");
            }
            text += &bucket_text(region);
            if !shown.is_empty() {
                text += &format!("\n\n{}", shard_rows(&shown).render());
            }
        }
        text
    }

    fn broker_rows(&self) -> Rows {
        let has_shards = self.region.is_some();
        let mut rows = Rows::new(match has_shards {
            true => &[
                "NODE", "ADDRESS", "RACK", "LEADS", "HOLDS", "LAG", "SIZE", "STATE",
            ],
            false => &["BROKER", "ADDRESS", "RACK", "PARTITIONS", "SIZE", "STATE"],
        });
        for broker in &self.brokers {
            let is_controller = self.cluster.controller == Some(broker.id);
            let mut row = vec![
                format!("{}{}", broker.id, if is_controller { " *" } else { "" }),
                or_dash(broker.address.as_ref()),
                or_dash(broker.rack.as_ref()),
            ];
            match has_shards {
                true => row.extend([
                    or_dash(broker.leads),
                    or_dash(broker.holds),
                    or_dash(broker.lag_entries),
                ]),
                false => row.push(or_dash(broker.partitions)),
            }
            row.extend([or_dash(broker.size_bytes.map(bytes_text)), broker.state.clone()]);
            rows.push(row);
        }
        rows
    }
}

fn unsettled(region: &RegionDescription) -> impl Iterator<Item = &RegionShard> {
    region.shards.iter().filter(|shard| !shard.is_settled())
}

/// How far the bucket is behind, and how the nodes get on with it; null where no node has one.
fn bucket_json(region: &RegionDescription) -> Value {
    if region.buckets.is_empty() {
        return Value::Null;
    }
    let lag = region.tier_lag();
    let node = |(node, bucket): (&NodeId, &NodeBucket)| {
        let failure = bucket.last_failure.as_ref();
        json!({
            "node": node.0,
            "standing": match bucket.standing {
                BucketStanding::Unknown => "unknown",
                BucketStanding::Ours => "ours",
                BucketStanding::Refused => "refused",
                BucketStanding::Lost => "lost",
            },
            "last_error": failure.map(|(reason, _)| reason),
            "last_error_at_ms": failure.map(|(_, at)| at.0),
        })
    };
    json!({
        "waiting_bytes": lag.map(|lag| lag.bytes),
        "waiting_seconds": lag.map(|lag| lag.age.as_secs_f64()),
        "nodes": region.buckets.iter().map(node).collect::<Vec<_>>(),
    })
}

fn bucket_text(region: &RegionDescription) -> String {
    if region.buckets.is_empty() {
        return String::new();
    }
    let mut text = match region.tier_lag() {
        Some(lag) if lag.bytes > 0 => format!(
            "\nbucket: {} wait for it, the oldest for {}",
            bytes_text(lag.bytes),
            time_text(lag.age)
        ),
        Some(_) => "\nbucket: nothing waits for it".to_owned(),
        None => "\nbucket: no leader tells what waits for it".to_owned(),
    };
    for (node, bucket) in &region.buckets {
        let standing = match bucket.standing {
            BucketStanding::Ours => None,
            BucketStanding::Unknown => Some("does not know yet whose it is, and writes nothing to it"),
            BucketStanding::Refused => Some("finds that it is another region's, and writes nothing to it"),
            BucketStanding::Lost => {
                Some("has lost it to a region that was restored from it: stop this region")
            }
        };
        if let Some(standing) = standing {
            text += &format!("\n  node {node} {standing}");
        }
        if let Some((reason, at)) = &bucket.last_failure {
            text += &format!("\n  last error of node {node}, at {}: {reason}", moment_text(*at));
        }
    }
    text
}

fn count_copies(copies: u32) -> String {
    match copies {
        1 => "1 copy".to_owned(),
        copies => format!("{copies} copies"),
    }
}

/// A shard's name for people.
pub(super) fn shard_text(shard: ShardId) -> String {
    match shard {
        ShardId::CONTROLLER => "controller".to_owned(),
        shard => shard.to_string(),
    }
}

/// A shard's name for programs: its number, or `"controller"`.
pub(super) fn shard_json(shard: ShardId) -> Value {
    match shard {
        ShardId::CONTROLLER => "controller".into(),
        shard => shard.0.into(),
    }
}

fn shard_rows(shards: &[&RegionShard]) -> Rows {
    let mut rows = Rows::new(&[
        "SHARD",
        "LEADER",
        "EPOCH",
        "PLACED",
        "VOTERS",
        "LEARNERS",
        "LAG",
        "PARTITIONS",
        "WAITING",
    ]);
    for shard in shards {
        let of_kind = |is_voter: bool| {
            let of_kind = shard.replicas.iter().filter(move |it| it.is_voter == is_voter);
            ids_text(of_kind.map(|it| it.node))
        };
        let lag = shard.replicas.iter().map(|it| it.lag_entries).max().flatten();
        rows.push([
            shard_text(shard.shard),
            or_dash(shard.leader),
            or_dash(shard.leader_epoch),
            ids_text(shard.placement.iter().copied()),
            of_kind(true),
            of_kind(false),
            or_dash(lag),
            shard.partitions.to_string(),
            or_dash(shard.tier_lag.map(|lag| bytes_text(lag.bytes))),
        ]);
    }
    rows
}

fn shard_status_json(shard: &RegionShard) -> Value {
    let replica = |it: &RegionReplica| json!({ "node": it.node.0, "is_voter": it.is_voter, "lag_entries": it.lag_entries });
    let stopped: Vec<Value> = shard
        .stopped
        .iter()
        .map(|(node, reason)| json!({ "node": node.0, "reason": reason }))
        .collect();
    json!({
        "shard": shard_json(shard.shard),
        "leader": shard.leader.map(|id| id.0),
        "leader_epoch": shard.leader_epoch.map(|epoch| epoch.0),
        "placement": ids_json(shard.placement.iter().copied()),
        "partitions": shard.partitions,
        "replicas": shard.replicas.iter().map(replica).collect::<Vec<_>>(),
        "tier_waiting_bytes": shard.tier_lag.map(|lag| lag.bytes),
        "tier_waiting_seconds": shard.tier_lag.map(|lag| lag.age.as_secs_f64()),
        "stopped": stopped,
        "is_settled": shard.is_settled(),
    })
}
