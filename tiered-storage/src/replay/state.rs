//! Where an export stands, as a JSON document beside its output. Pure.

use std::collections::BTreeMap;

use meridian_types::{Offset, Partition, TopicId, Uuid};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::plan::{PartitionPlan, Plan};

const SCHEMA: &str = "meridian.replay-state.v1";

/// Where an export stands. Files that it names are whole; others in the directory are not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayState {
    /// The cluster that is read.
    pub cluster: String,
    /// What comes out: the name of a [`super::Format`], or `topic` and a topic's name.
    pub output: String,
    /// Every partition of the plan.
    pub partitions: BTreeMap<Partition, PartitionState>,
}

/// Where an export of one partition stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Name of the topic.
    pub topic: String,
    /// The first offset that was wanted.
    pub from: Offset,
    /// The offset to go on with.
    pub next: Offset,
    /// The offset behind the last that is wanted.
    pub until: Offset,
    /// What is finished.
    pub files: Vec<FinishedFile>,
}

/// A file that is whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedFile {
    /// Its name below the directory of the output, with `/`.
    pub path: String,
    /// Its records.
    pub records: u64,
    /// Its size.
    pub bytes: u64,
    /// The first offset it was made for.
    pub base_offset: u64,
    /// The offset behind the last it was made for.
    pub end_offset: u64,
}

/// What is left of a plan.
#[derive(Clone, Debug)]
pub struct Rest {
    /// What is to be read.
    pub plan: Plan,
    /// Offsets that were to be read too, but were deleted since.
    pub deleted_offsets: u64,
}

impl From<Plan> for Rest {
    fn from(plan: Plan) -> Self {
        Self {
            plan,
            deleted_offsets: 0,
        }
    }
}

/// A state that cannot be used to go on.
#[derive(Debug, Error)]
pub enum StateError {
    /// Not a document of a replay's state, or a damaged one.
    #[error("it is not a document of the schema {SCHEMA}: {0}")]
    Json(#[from] serde_json::Error),
    /// Of another schema.
    #[error("its schema is {found:?}, expected {SCHEMA:?}")]
    Schema {
        /// What it names.
        found: String,
    },
    /// Data that cannot be.
    #[error("{0}")]
    Value(String),
    /// It is about something else than what is wanted now.
    #[error("it belongs to another replay: {0}")]
    Other(String),
}

#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    cluster: String,
    output: String,
    partitions: Vec<DocumentPartition>,
}

#[derive(Serialize, Deserialize)]
struct DocumentPartition {
    topic: String,
    topic_id: String,
    partition: u32,
    from: u64,
    next: u64,
    until: u64,
    files: Vec<FinishedFile>,
}

impl ReplayState {
    /// At the beginning of `plan`.
    pub fn new(plan: &Plan, output: &str) -> Self {
        Self {
            cluster: plan.cluster.clone(),
            output: output.to_owned(),
            partitions: plan
                .partitions
                .iter()
                .map(|it| {
                    let state = PartitionState {
                        topic: it.topic.to_string(),
                        from: it.offsets.start,
                        next: it.offsets.start,
                        until: it.offsets.end,
                        files: Vec::new(),
                    };
                    (it.partition, state)
                })
                .collect(),
        }
    }

    /// What is left of `plan`, which was made from the same wishes now; the offsets are those of the state, so that what
    /// came meanwhile does not count. What was deleted meanwhile counts as done.
    ///
    /// Errors: `Other` when the state is about another cluster, topics that the plan does not have, or offsets that can be
    /// read from brokers only, and the plan has none.
    pub fn rest_of(&mut self, plan: &Plan) -> Result<Rest, StateError> {
        if self.cluster != plan.cluster {
            return Err(StateError::Other(format!(
                "of cluster '{}', not '{}'",
                self.cluster, plan.cluster
            )));
        }
        let mut partitions = Vec::new();
        let mut deleted_offsets = 0;
        for (partition, state) in &mut self.partitions {
            if let Some(start) = plan.starts.get(partition) {
                let start = state.until.min(*start).max(state.next);
                deleted_offsets += start.0 - state.next.0;
                state.next = start;
            }
            if state.next >= state.until {
                continue;
            }
            let planned = plan.partitions.iter().find(|it| it.partition == *partition);
            let rest = planned
                .and_then(|it| it.starting_at(state.next))
                .and_then(|it| it.ending_at(state.until))
                .filter(|it| it.offsets.start == state.next && it.offsets.end == state.until);
            let Some(rest) = rest else {
                return Err(StateError::Other(format!(
                    "offsets {} to {} of topic '{}', partition {} are not selected now, or there are brokers to be named \
                     that have them",
                    state.next, state.until, state.topic, partition.index
                )));
            };
            partitions.push(rest);
        }
        let plan = Plan {
            cluster: plan.cluster.clone(),
            partitions,
            starts: plan.starts.clone(),
        };
        Ok(Rest {
            plan,
            deleted_offsets,
        })
    }

    /// Notes a finished file, or that the offsets up to `next` gave none.
    pub fn advance(&mut self, plan: &PartitionPlan, next: Offset, file: Option<FinishedFile>) {
        if let Some(state) = self.partitions.get_mut(&plan.partition) {
            state.next = state.next.max(next);
            state.files.extend(file);
        }
    }

    /// Whether everything is done.
    pub fn is_done(&self) -> bool {
        self.partitions.values().all(|state| state.next >= state.until)
    }

    /// Every finished file.
    pub fn files(&self) -> impl Iterator<Item = &FinishedFile> {
        self.partitions.values().flat_map(|state| &state.files)
    }

    /// The document's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let document = Document {
            schema: SCHEMA.to_owned(),
            cluster: self.cluster.clone(),
            output: self.output.clone(),
            partitions: self
                .partitions
                .iter()
                .map(|(partition, state)| DocumentPartition {
                    topic: state.topic.clone(),
                    topic_id: partition.topic.to_string(),
                    partition: partition.index,
                    from: state.from.0,
                    next: state.next.0,
                    until: state.until.0,
                    files: state.files.clone(),
                })
                .collect(),
        };
        serde_json::to_vec_pretty(&document).expect("text and numbers make JSON")
    }

    /// Reads a document.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Head {
            schema: String,
        }
        let head: Head = serde_json::from_slice(bytes)?;
        if head.schema != SCHEMA {
            return Err(StateError::Schema { found: head.schema });
        }
        let document: Document = serde_json::from_slice(bytes)?;
        let partitions = document
            .partitions
            .into_iter()
            .map(|it| {
                let id: Uuid = it.topic_id.parse().map_err(|_| {
                    StateError::Value(format!(
                        "it names the topic id {:?}, which is no UUID",
                        it.topic_id
                    ))
                })?;
                let partition = Partition {
                    topic: TopicId(id),
                    index: it.partition,
                };
                let state = PartitionState {
                    topic: it.topic,
                    from: Offset(it.from),
                    next: Offset(it.next),
                    until: Offset(it.until),
                    files: it.files,
                };
                Ok((partition, state))
            })
            .collect::<Result<_, StateError>>()?;
        Ok(Self {
            cluster: document.cluster,
            output: document.output,
            partitions,
        })
    }
}
