//! `meridian mirror status`.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use meridian_client::admin::{MirrorDescription, MirrorShard};
use meridian_types::ShardId;
use serde_json::{Value, json};

use super::partitions;
use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, bytes_text, or_dash, time_text};

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// List every shard of every region
    #[arg(long)]
    shards: bool,
    /// List every partition: how many records each mirror lacks
    #[arg(long)]
    partitions: bool,
}

impl StatusArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mirror = context.admin().await?.describe_mirror(self.partitions).await?;
        let regions = sums(&mirror);
        let partitions = partitions::lags(&mirror);
        let mut fields = json!({
            "cluster_id": mirror.cluster_id,
            "region_epoch": mirror.region_epoch.0,
            "owner": mirror.owner,
            "owner_name": mirror.name_of(mirror.owner),
            "draining_to": mirror.draining_to,
            "regions": regions.iter().map(|sum| sum.json(&mirror)).collect::<Vec<_>>(),
            "shards": mirror.shards.iter().map(shard_json).collect::<Vec<_>>(),
        });
        if self.partitions {
            let told = partitions.iter().map(|it| it.json(&mirror));
            fields["partitions"] = told.collect();
        }
        context.output.document("mirror.status", fields, || {
            let mut text = format!(
                "region {} owns (region epoch {})",
                mirror.name_of(mirror.owner),
                mirror.region_epoch
            );
            if let Some(to) = mirror.draining_to {
                text += &format!(", ownership is being moved to {}", mirror.name_of(to));
            }
            let mut rows = Rows::new(&[
                "REGION",
                "ROLE",
                "SHARDS",
                "LAG",
                "LAG BYTES",
                "STALENESS",
                "TROUBLE",
            ]);
            for sum in &regions {
                rows.push([
                    mirror.name_of(sum.region),
                    sum.roles(),
                    sum.shards.to_string(),
                    or_dash(sum.lag),
                    or_dash(sum.lag_bytes.map(bytes_text)),
                    or_dash(sum.staleness.map(time_text)),
                    or_dash(sum.trouble.first()),
                ]);
            }
            text += &format!("\n\n{}", rows.render());
            if self.shards {
                text += &format!("\n\n{}", shard_rows(&mirror).render());
            }
            if self.partitions {
                text += &format!("\n\n{}", partitions::rows(&mirror, &partitions).render());
            }
            text
        })
    }
}

/// What a region's shards come to together.
struct Sum {
    region: u16,
    roles: BTreeMap<String, usize>,
    shards: usize,
    /// Content commands that its mirrors lack together; `None` where one does not know.
    lag: Option<u64>,
    /// About how many bytes these have.
    lag_bytes: Option<u64>,
    /// The worst of its mirrors; `None` where one does not know, or there is none.
    staleness: Option<Duration>,
    trouble: Vec<String>,
}

impl Sum {
    fn roles(&self) -> String {
        let mut roles = self.roles.iter();
        match (roles.next(), roles.next()) {
            (Some((role, _)), None) => role.clone(),
            _ => {
                let parts = self.roles.iter().map(|(role, count)| format!("{count} {role}"));
                parts.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn json(&self, mirror: &MirrorDescription) -> Value {
        json!({
            "region": self.region,
            "name": mirror.name_of(self.region),
            "roles": self.roles,
            "shards": self.shards,
            "lag_sequences": self.lag,
            "lag_bytes": self.lag_bytes,
            "staleness_ms": self.staleness.map(|it| it.as_millis()),
            "trouble": self.trouble,
        })
    }
}

fn sums(mirror: &MirrorDescription) -> Vec<Sum> {
    let of_region = |number: u16| -> Vec<&MirrorShard> {
        mirror.shards.iter().filter(|it| it.region == number).collect()
    };
    let answered = mirror.regions.iter().filter(|region| region.has_answered);
    let regions = answered.map(|region| (region.number, of_region(region.number)));
    let sum = |(region, shards): (u16, Vec<&MirrorShard>)| {
        let mut roles = BTreeMap::new();
        for shard in &shards {
            *roles.entry(shard.role.clone()).or_insert(0) += 1;
        }
        let mirrors: Vec<_> = shards.iter().filter(|shard| shard.role == "mirror").collect();
        let lags: Option<Vec<u64>> = mirrors.iter().map(|shard| lag(shard)).collect();
        let bytes: Option<Vec<u64>> = mirrors.iter().map(|shard| shard.lag_bytes).collect();
        let staleness: Option<Vec<Duration>> = mirrors.iter().map(|shard| shard.staleness).collect();
        Sum {
            region,
            shards: shards.len(),
            lag: lags.filter(|lags| !lags.is_empty()).map(|lags| lags.iter().sum()),
            lag_bytes: bytes
                .filter(|bytes| !bytes.is_empty())
                .map(|bytes| bytes.iter().sum()),
            staleness: staleness.and_then(|all| all.into_iter().max()),
            trouble: shards.iter().filter_map(|shard| trouble(shard)).collect(),
            roles,
        }
    };
    regions.map(sum).collect()
}

/// Content commands that a mirror lacks of what its source was heard to have.
fn lag(shard: &MirrorShard) -> Option<u64> {
    Some(shard.source_sequence?.saturating_sub(shard.sequence))
}

fn trouble(shard: &MirrorShard) -> Option<String> {
    let what = match (shard.diverged_at, &shard.refusal) {
        (Some(at), _) => format!("differs from its source at sequence {at}"),
        (None, Some(refusal)) => refusal.clone(),
        (None, None) => return None,
    };
    Some(format!("{}: {what}", shard_name(shard.shard)))
}

fn shard_name(shard: ShardId) -> String {
    match shard {
        ShardId::CONTROLLER => "controller".to_owned(),
        shard => format!("shard {shard}"),
    }
}

fn shard_json(shard: &MirrorShard) -> Value {
    json!({
        "shard": match shard.shard {
            ShardId::CONTROLLER => Value::from("controller"),
            shard => Value::from(shard.0),
        },
        "region": shard.region,
        "node": shard.node.0,
        "role": shard.role,
        "region_epoch": shard.region_epoch.0,
        "sequence": shard.sequence,
        "digest": format!("{:016x}", shard.digest),
        "follows": shard.follows,
        "lag_sequences": lag(shard),
        "lag_bytes": shard.lag_bytes,
        "staleness_ms": shard.staleness.map(|it| it.as_millis()),
        "refusal": shard.refusal,
        "diverged_at": shard.diverged_at,
        "acks": shard.acks,
    })
}

fn shard_rows(mirror: &MirrorDescription) -> Rows {
    let mut rows = Rows::new(&[
        "SHARD",
        "REGION",
        "NODE",
        "ROLE",
        "EPOCH",
        "SEQUENCE",
        "LAG",
        "LAG BYTES",
        "STALENESS",
        "TROUBLE",
    ]);
    for shard in &mirror.shards {
        rows.push([
            match shard.shard {
                ShardId::CONTROLLER => "controller".to_owned(),
                shard => shard.to_string(),
            },
            mirror.name_of(shard.region),
            shard.node.to_string(),
            shard.role.clone(),
            shard.region_epoch.to_string(),
            shard.sequence.to_string(),
            or_dash(lag(shard)),
            or_dash(shard.lag_bytes.map(bytes_text)),
            or_dash(shard.staleness.map(time_text)),
            or_dash(trouble(shard)),
        ]);
    }
    rows
}
