//! Reads back what a run has written, and holds it against what was acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use meridian_client::admin::OffsetSpec;
use meridian_client::{Admin, Cluster, Consumer, ConsumerSettings, StartAt};
use meridian_types::Offset;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::content::{Verdict, Verifier};
use super::produce::Plan;
use crate::context::Context;
use crate::error::CliError;

/// How long nothing may come before reading is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What reading back has shown.
#[derive(Clone, Debug)]
pub(super) struct ReadBack {
    verdict: Verdict,
    acknowledged: u64,
    lost: u64,
}

/// The ends of the logs of a topic's first `partitions`.
pub(super) async fn ends(
    cluster: &Cluster,
    topic: &str,
    partitions: u32,
) -> Result<BTreeMap<u32, Offset>, CliError> {
    let wanted: Vec<_> = (0..partitions)
        .map(|index| (topic.to_owned(), index, OffsetSpec::Latest))
        .collect();
    let found = Admin::new(cluster).list_offsets(&wanted).await?;
    Ok(found
        .into_iter()
        .map(|((_, index), listed)| (index, listed.offset.unwrap_or_default()))
        .collect())
}

/// Reads from `before` to the end. `acknowledged` holds how many records of each producer must be there.
pub(super) async fn read_back(
    cluster: &Cluster,
    plan: &Plan,
    before: &BTreeMap<u32, Offset>,
    acknowledged: &BTreeMap<u32, u64>,
    context: &Context,
) -> Result<ReadBack, CliError> {
    let after = ends(cluster, &plan.topic, plan.partitions).await?;
    let mut left: BTreeMap<u32, Offset> = after
        .into_iter()
        .filter(|(index, end)| before.get(index).is_some_and(|start| start < end))
        .collect();
    let mut consumer = Consumer::start(cluster, ConsumerSettings::default());
    let assignment: Vec<_> = left
        .keys()
        .map(|index| (plan.topic.clone(), *index, StartAt::Offset(before[index])))
        .collect();
    consumer.assign(&assignment).await?;
    let total: u64 = acknowledged.values().sum();
    let progress = context.output.progress(Some(total), "records read back");
    let mut verifier = Verifier::new(Some(plan.run));
    while !left.is_empty() {
        let fetched = timeout(SILENCE_MAX, consumer.next()).await.map_err(|_| {
            CliError::failed(format!(
                "reading back: nothing came for {SILENCE_MAX:?}, with {} partitions left",
                left.len()
            ))
        })??;
        for record in fetched.records() {
            let record = record?;
            verifier.take(fetched.partition(), record.value.as_deref().unwrap_or_default());
        }
        progress.set_position(verifier.verdict().records);
        if left
            .get(&fetched.partition())
            .is_some_and(|end| *end <= fetched.next_offset())
        {
            left.remove(&fetched.partition());
        }
    }
    progress.finish_and_clear();
    Ok(ReadBack {
        verdict: verifier.verdict(),
        acknowledged: total,
        lost: acknowledged
            .iter()
            .map(|(producer, count)| verifier.missing(*producer, *count))
            .sum(),
    })
}

impl ReadBack {
    pub(super) fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "read": self.verdict.records,
            "lost": self.lost,
            "duplicates": self.verdict.duplicates,
            "reordered": self.verdict.reordered,
            "corrupt": self.verdict.corrupt,
            "foreign": self.verdict.foreign,
        })
    }

    pub(super) fn text(&self) -> String {
        format!(
            "read back {} of {} acknowledged: {} lost, {} duplicates, {} reordered, {} corrupt",
            self.verdict.records,
            self.acknowledged,
            self.lost,
            self.verdict.duplicates,
            self.verdict.reordered,
            self.verdict.corrupt
        )
    }

    /// Errors: a check does not hold.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let verdict = &self.verdict;
        if self.lost + verdict.duplicates + verdict.reordered + verdict.corrupt == 0 {
            return Ok(());
        }
        Err(CliError::check(format!(
            "what was read back is not what was acknowledged: {}",
            self.text()
        )))
    }
}
