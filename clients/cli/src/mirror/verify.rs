//! `meridian mirror verify`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::Args;
use meridian_client::admin::MirrorDescription;
use meridian_types::{Offset, Uuid};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, count};

/// Pause between looks at partitions that are still being written.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Where two regions hold the same end offset of a partition, their digests over every batch that it ever held must be
/// equal. Partitions that are being written are looked at again for the time of --timeout.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {}

impl VerifyArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let deadline = Instant::now() + context.timeout();
        let mut proof = Proof::default();
        let mirror = loop {
            let mirror = admin.describe_mirror(true).await?;
            proof.look(&mirror);
            if proof.is_done() || Instant::now() + LOOK_INTERVAL >= deadline {
                break mirror;
            }
            sleep(LOOK_INTERVAL).await;
        };
        let silent: Vec<String> = mirror
            .regions
            .iter()
            .filter(|region| !region.has_answered)
            .map(|region| mirror.name_of(region.number))
            .collect();
        let differing: Vec<&Row> = proof.rows.values().filter(|row| row.differs.is_some()).collect();
        let moving = proof
            .rows
            .values()
            .filter(|row| !row.is_equal && row.differs.is_none())
            .count();
        let equal = proof
            .rows
            .values()
            .filter(|row| row.is_equal && row.differs.is_none())
            .count();
        let fields = json!({
            "regions": proof.regions.iter().map(|number| mirror.name_of(*number)).collect::<Vec<_>>(),
            "regions_silent": silent,
            "partitions_equal": equal,
            "partitions_not_compared": moving,
            "partitions_differing": differing.iter().map(|row| row.json(&mirror)).collect::<Vec<_>>(),
            "is_equal": differing.is_empty(),
        });
        context.output.document("mirror.verify", fields, || {
            let mut text = match proof.regions.len() {
                0 | 1 => "only one region answers: there is nothing to compare".to_owned(),
                regions => format!(
                    "{} equal in {regions} regions, {} differ, {} had no equal end within --timeout",
                    count(equal, "partition"),
                    differing.len(),
                    moving,
                ),
            };
            if !silent.is_empty() {
                text += &format!("\nwithout an answer: {}", silent.join(", "));
            }
            if !differing.is_empty() {
                let mut rows = Rows::new(&["TOPIC", "PARTITION", "END", "REGIONS"]);
                for row in &differing {
                    let (end, regions) = row.told(&mirror);
                    rows.push([row.topic.clone(), row.partition.to_string(), end, regions]);
                }
                text += &format!("\n\n{}", rows.render());
            }
            text
        })?;
        match differing.len() {
            0 => Ok(()),
            differ => Err(CliError::check(format!(
                "{} not equal in all regions",
                match differ {
                    1 => "1 partition is".to_owned(),
                    differ => format!("{differ} partitions are"),
                }
            ))
            .advise("see docs/runbooks/mirror-diverged.md")),
        }
    }
}

/// What has been seen of all partitions so far.
#[derive(Default)]
struct Proof {
    regions: BTreeSet<u16>,
    rows: BTreeMap<(Uuid, u32), Row>,
}

#[derive(Default)]
struct Row {
    topic: String,
    partition: u32,
    /// All regions had one end and one digest at once.
    is_equal: bool,
    /// An end at which two regions had different digests.
    differs: Option<(Offset, BTreeMap<u16, u64>)>,
}

impl Proof {
    fn look(&mut self, mirror: &MirrorDescription) {
        self.regions = mirror.shards.iter().map(|shard| shard.region).collect();
        let mut held: BTreeMap<(Uuid, u32), BTreeMap<u16, (Offset, u64)>> = BTreeMap::new();
        for it in &mirror.partitions {
            let row = self.rows.entry((it.topic_id, it.partition)).or_default();
            (row.topic, row.partition) = (it.topic.clone(), it.partition);
            held.entry((it.topic_id, it.partition))
                .or_default()
                .insert(it.region, (it.end_offset, it.digest));
        }
        for (key, regions) in held {
            let Some(row) = self.rows.get_mut(&key) else {
                continue;
            };
            let mut by_end: BTreeMap<Offset, BTreeMap<u16, u64>> = BTreeMap::new();
            for (region, (end, digest)) in &regions {
                by_end.entry(*end).or_default().insert(*region, *digest);
            }
            let differing = by_end
                .iter()
                .find(|(_, digests)| digests.values().collect::<BTreeSet<_>>().len() > 1);
            if let Some((end, digests)) = differing {
                row.differs = Some((*end, digests.clone()));
            }
            row.is_equal |= by_end.len() == 1 && regions.len() == self.regions.len();
        }
    }

    fn is_done(&self) -> bool {
        self.rows
            .values()
            .all(|row| row.is_equal || row.differs.is_some())
    }
}

impl Row {
    /// The end at which it differs, and what each region holds there.
    fn told(&self, mirror: &MirrorDescription) -> (String, String) {
        let Some((end, digests)) = &self.differs else {
            return ("-".to_owned(), "-".to_owned());
        };
        let digests = digests
            .iter()
            .map(|(region, digest)| format!("{} {digest:016x}", mirror.name_of(*region)));
        (end.to_string(), digests.collect::<Vec<_>>().join(", "))
    }

    fn json(&self, mirror: &MirrorDescription) -> Value {
        let digests = self.differs.iter().flat_map(|(_, digests)| digests);
        let digests: serde_json::Map<String, Value> = digests
            .map(|(region, digest)| (mirror.name_of(*region), format!("{digest:016x}").into()))
            .collect();
        json!({
            "topic": self.topic,
            "partition": self.partition,
            "end_offset": self.differs.as_ref().map(|(end, _)| end.0),
            "digests": digests,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mirror::testing;

    fn mirror(held: &[(u16, u64, u64)]) -> MirrorDescription {
        let partition =
            |(region, end, digest): &(u16, u64, u64)| testing::partition(*region, 0, *end, *digest);
        let shards = vec![testing::shard(0, 0), testing::shard(0, 1)];
        testing::mirror(shards, held.iter().map(partition).collect())
    }

    #[test]
    fn equal_ends_with_equal_digests_prove_equal_partitions() {
        let mut proof = Proof::default();
        proof.look(&mirror(&[(0, 10, 7), (1, 9, 5)]));
        assert!(!proof.is_done(), "the ends differ");
        proof.look(&mirror(&[(0, 10, 7)]));
        assert!(!proof.is_done(), "one region has nothing of it");
        proof.look(&mirror(&[(0, 12, 8), (1, 12, 8)]));
        assert!(proof.is_done());
        assert!(proof.rows.values().all(|row| row.differs.is_none()));
    }

    #[test]
    fn equal_ends_with_other_digests_are_a_difference_for_good() {
        let mut proof = Proof::default();
        proof.look(&mirror(&[(0, 10, 7), (1, 10, 6)]));
        proof.look(&mirror(&[(0, 12, 8), (1, 12, 8)]));
        let row = proof.rows.values().next().expect("a row");
        assert_eq!(row.differs, Some((Offset(10), BTreeMap::from([(0, 7), (1, 6)]))));
    }
}
