//! `meridian topic ...`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use meridian_client::admin::{
    ConfigChange, ConfigResource, ConfigSource, ListedOffset, NewTopic, OffsetSpec,
};
use meridian_client::metadata::TopicMetadata;
use meridian_client::{Admin, AdminError};
use meridian_types::{NodeId, Offset};
use meridian_wire::ErrorCode;
use serde_json::json;

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, count, or_dash};
use crate::parse::parse_setting;

#[derive(Debug, Subcommand)]
pub(crate) enum TopicCommand {
    /// Create topics
    Create(CreateArgs),
    /// List topics
    List(ListArgs),
    /// Show a topic's partitions and settings
    Describe(DescribeArgs),
    /// Change a topic's settings or add partitions
    Alter(AlterArgs),
    /// Delete topics and all their records
    Delete(DeleteArgs),
    /// Delete a topic's oldest records
    Trim(TrimArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// How many partitions; the server's default if not given
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// How many copies of each partition; the server's default if not given
    #[arg(long, short, value_parser = clap::value_parser!(u16).range(1..))]
    replicas: Option<u16>,
    /// A setting of the topic; may be given several times
    #[arg(long = "config", short, value_name = "NAME=VALUE", value_parser = parse_setting)]
    configs: Vec<(String, String)>,
    /// Accept a topic that is there already, as it is
    #[arg(long)]
    if_not_exists: bool,
    /// Only check whether it could be created
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// List the server's own topics too
    #[arg(long)]
    internal: bool,
    /// Count the records between start and end of the logs
    #[arg(long)]
    records: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Name of the topic
    topic: String,
    /// Show every setting, not only those that were set on the topic
    #[arg(long)]
    all_configs: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    /// Name of the topic
    topic: String,
    /// Raise the number of partitions to this
    #[arg(long, short, value_parser = clap::value_parser!(u32).range(1..))]
    partitions: Option<u32>,
    /// Give a setting a value; may be given several times
    #[arg(long = "config", short, value_name = "NAME=VALUE", value_parser = parse_setting)]
    configs: Vec<(String, String)>,
    /// Take a setting back to its default; may be given several times
    #[arg(long = "reset", value_name = "NAME")]
    resets: Vec<String>,
    /// Only check whether it could be changed
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Names of the topics
    #[arg(required = true, value_name = "TOPIC")]
    topics: Vec<String>,
    /// Accept a topic that is not there
    #[arg(long)]
    if_exists: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TrimArgs {
    /// Name of the topic
    topic: String,
    /// The partition; all of them if not given
    #[arg(long)]
    partition: Option<u32>,
    /// Delete what lies before this offset
    #[arg(long, required_unless_present = "all", conflicts_with = "all")]
    before: Option<u64>,
    /// Delete all records
    #[arg(long)]
    all: bool,
}

impl TopicCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Create(args) => args.run(context).await,
            Self::List(args) => args.run(context).await,
            Self::Describe(args) => args.run(context).await,
            Self::Alter(args) => args.run(context).await,
            Self::Delete(args) => args.run(context).await,
            Self::Trim(args) => args.run(context).await,
        }
    }
}

impl CreateArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let mut created = Vec::new();
        let mut lines = Vec::new();
        for name in &self.topics {
            let topic = NewTopic {
                name: name.clone(),
                partitions: self.partitions,
                replicas: self.replicas,
                configs: self.configs.clone(),
            };
            match admin.create_topic(&topic, self.dry_run).await {
                Ok(topic) => {
                    let verb = if self.dry_run {
                        "could be created"
                    } else {
                        "created"
                    };
                    let partitions = topic.partitions.or(self.partitions);
                    let size = partitions.map_or(String::new(), |it| {
                        format!(" with {}", count(it as usize, "partition"))
                    });
                    lines.push(format!("topic '{name}' {verb}{size}"));
                    created.push(json!({
                        "name": name,
                        "id": topic.id.map(|id| id.0.to_string()),
                        "partitions": partitions,
                        "replicas": topic.replicas.or(self.replicas),
                        "is_created": !self.dry_run,
                    }));
                }
                Err(error) if self.if_not_exists && error.code() == Some(ErrorCode::TopicAlreadyExists) => {
                    lines.push(format!("topic '{name}' was there already"));
                    created.push(json!({ "name": name, "is_created": false }));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let fields = json!({ "topics": created, "is_dry_run": self.dry_run });
        context
            .output
            .document("topic.create", fields, || lines.join("\n"))
    }
}

impl ListArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let topics = admin.list_topics().await?;
        let shown: Vec<_> = topics
            .iter()
            .filter(|it| self.internal || !it.is_internal)
            .collect();
        let mut ends = BTreeMap::new();
        if self.records {
            for topic in &shown {
                ends.insert(topic.name.clone(), record_counts(&admin, topic).await?);
            }
        }
        let mut rows = Rows::new(if self.records {
            &["TOPIC", "PARTITIONS", "REPLICAS", "RECORDS"]
        } else {
            &["TOPIC", "PARTITIONS", "REPLICAS"]
        });
        let mut list = Vec::new();
        for topic in &shown {
            let replicas = topic
                .partitions
                .iter()
                .map(|it| it.replicas.len())
                .max()
                .unwrap_or(0);
            let records = ends.get(&topic.name).copied();
            let mut row = vec![
                topic.name.clone(),
                topic.partitions.len().to_string(),
                replicas.to_string(),
            ];
            row.extend(records.map(|records| records.to_string()));
            rows.push(row);
            list.push(json!({
                "name": topic.name,
                "id": topic.id.map(|id| id.0.to_string()),
                "partitions": topic.partitions.len(),
                "replicas": replicas,
                "is_internal": topic.is_internal,
                "records": records,
            }));
        }
        context
            .output
            .document("topic.list", json!({ "topics": list }), || {
                if shown.is_empty() {
                    "no topics; create one with `meridian topic create NAME`".to_owned()
                } else {
                    rows.render()
                }
            })
    }
}

/// Start and end of every partition's log.
pub(crate) async fn log_ranges(
    admin: &Admin,
    topic: &TopicMetadata,
) -> Result<Vec<(Option<Offset>, Option<Offset>)>, AdminError> {
    let spec = |spec: OffsetSpec| -> Vec<(String, u32, OffsetSpec)> {
        topic
            .partitions
            .iter()
            .filter(|partition| partition.leader.is_some())
            .map(|partition| (topic.name.clone(), partition.index, spec))
            .collect()
    };
    let starts = admin.list_offsets(&spec(OffsetSpec::Earliest)).await?;
    let ends = admin.list_offsets(&spec(OffsetSpec::Latest)).await?;
    let at = |found: &BTreeMap<(String, u32), ListedOffset>, index: u32| {
        found.get(&(topic.name.clone(), index)).and_then(|it| it.offset)
    };
    Ok(topic
        .partitions
        .iter()
        .map(|partition| (at(&starts, partition.index), at(&ends, partition.index)))
        .collect())
}

async fn record_counts(admin: &Admin, topic: &TopicMetadata) -> Result<u64, AdminError> {
    let ranges = log_ranges(admin, topic).await?;
    Ok(ranges
        .into_iter()
        .filter_map(|(start, end)| Some(end?.0.saturating_sub(start?.0)))
        .sum())
}

impl DescribeArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let topic = admin.describe_topic(&self.topic).await?;
        let ranges = log_ranges(&admin, &topic).await?;
        let configs = admin
            .describe_configs(&ConfigResource::Topic(self.topic.clone()))
            .await?;
        let shown: Vec<_> = configs
            .iter()
            .filter(|config| self.all_configs || config.source == ConfigSource::Topic)
            .collect();
        let ids = |nodes: &[NodeId]| -> Vec<u32> { nodes.iter().map(|node| node.0).collect() };
        let text = |nodes: &[NodeId]| {
            let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            names.join(",")
        };
        let mut rows = Rows::new(&[
            "PARTITION",
            "LEADER",
            "EPOCH",
            "REPLICAS",
            "IN SYNC",
            "START",
            "END",
            "RECORDS",
        ]);
        let mut partitions = Vec::new();
        for (partition, (start, end)) in topic.partitions.iter().zip(&ranges) {
            let records = start.zip(*end).map(|(start, end)| end.0.saturating_sub(start.0));
            rows.push([
                partition.index.to_string(),
                or_dash(partition.leader),
                or_dash(partition.leader_epoch),
                text(&partition.replicas),
                text(&partition.in_sync_replicas),
                or_dash(*start),
                or_dash(*end),
                or_dash(records),
            ]);
            partitions.push(json!({
                "partition": partition.index,
                "leader": partition.leader.map(|it| it.0),
                "leader_epoch": partition.leader_epoch.map(|it| it.0),
                "replicas": ids(&partition.replicas),
                "in_sync_replicas": ids(&partition.in_sync_replicas),
                "offline_replicas": ids(&partition.offline_replicas),
                "log_start_offset": start.map(|it| it.0),
                "log_end_offset": end.map(|it| it.0),
            }));
        }
        let fields = json!({
            "name": topic.name,
            "id": topic.id.map(|id| id.0.to_string()),
            "is_internal": topic.is_internal,
            "partitions": partitions,
            "configs": shown.iter().map(|config| json!({
                "name": config.name,
                "value": config.value,
                "source": config.source.name(),
                "is_read_only": config.is_read_only,
            })).collect::<Vec<_>>(),
        });
        context.output.document("topic.describe", fields, || {
            let id = topic.id.map_or(String::new(), |id| format!(", id {}", id.0));
            let mut settings = Rows::new(&["SETTING", "VALUE", "SOURCE"]);
            for config in &shown {
                settings.push([
                    config.name.clone(),
                    or_dash(config.value.as_ref()),
                    config.source.name().to_owned(),
                ]);
            }
            let settings = if shown.is_empty() {
                "every setting has its default; --all-configs shows them".to_owned()
            } else {
                settings.render()
            };
            format!(
                "topic {}: {}{id}\n\n{}\n\n{settings}",
                topic.name,
                count(topic.partitions.len(), "partition"),
                rows.render()
            )
        })
    }
}

impl AlterArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let mut changes: Vec<ConfigChange> = self
            .configs
            .iter()
            .map(|(name, value)| ConfigChange::Set(name.clone(), value.clone()))
            .collect();
        changes.extend(self.resets.iter().cloned().map(ConfigChange::Reset));
        if changes.is_empty() && self.partitions.is_none() {
            return Err(CliError::usage("nothing to change")
                .advise("give --partitions N, --config NAME=VALUE or --reset NAME"));
        }
        let admin = context.admin().await?;
        let mut done = Vec::new();
        if !changes.is_empty() {
            let resource = ConfigResource::Topic(self.topic.clone());
            admin.alter_configs(&resource, &changes, self.dry_run).await?;
            done.push(count(changes.len(), "setting"));
        }
        if let Some(partitions) = self.partitions {
            admin
                .create_partitions(&self.topic, partitions, self.dry_run)
                .await?;
            done.push(format!("number of partitions to {partitions}"));
        }
        let fields = json!({
            "name": self.topic,
            "is_dry_run": self.dry_run,
            "settings_changed": changes.len(),
            "partitions": self.partitions,
        });
        context.output.document("topic.alter", fields, || {
            let verb = if self.dry_run {
                "could be changed"
            } else {
                "changed"
            };
            format!("topic '{}' {verb}: {}", self.topic, done.join(", "))
        })
    }
}

impl DeleteArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        context.confirm(&format!(
            "delete {} ({}) with all records",
            count(self.topics.len(), "topic"),
            self.topics.join(", ")
        ))?;
        let admin = context.admin().await?;
        let mut deleted = Vec::new();
        for name in &self.topics {
            match admin.delete_topic(name).await {
                Ok(()) => deleted.push((name, true)),
                Err(error) if self.if_exists && error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                    deleted.push((name, false));
                }
                Err(error) => return Err(error.into()),
            }
        }
        let list: Vec<_> = deleted
            .iter()
            .map(|(name, is_deleted)| json!({ "name": name, "is_deleted": is_deleted }))
            .collect();
        context
            .output
            .document("topic.delete", json!({ "topics": list }), || {
                let lines: Vec<String> = deleted
                    .iter()
                    .map(|(name, is_deleted)| {
                        let verb = if *is_deleted { "deleted" } else { "was not there" };
                        format!("topic '{name}' {verb}")
                    })
                    .collect();
                lines.join("\n")
            })
    }
}

impl TrimArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let before = match self.before {
            Some(offset) => format!("before offset {offset}"),
            None => "up to the end".to_owned(),
        };
        context.confirm(&format!("delete the records of topic '{}' {before}", self.topic))?;
        let admin = context.admin().await?;
        let topic = admin.describe_topic(&self.topic).await?;
        let wanted: Vec<_> = topic
            .partitions
            .iter()
            .filter(|it| self.partition.is_none_or(|index| it.index == index))
            .map(|it| (self.topic.clone(), it.index, self.before.map(Offset)))
            .collect();
        if wanted.is_empty() {
            return Err(CliError::failed(format!(
                "topic '{}' has no partition {}: it has {}, numbered from 0",
                self.topic,
                or_dash(self.partition),
                topic.partitions.len()
            )));
        }
        let starts = admin.delete_records(&wanted).await?;
        let mut rows = Rows::new(&["PARTITION", "START"]);
        let mut list = Vec::new();
        for ((_, index), start) in &starts {
            rows.push([index.to_string(), start.to_string()]);
            list.push(json!({ "partition": index, "log_start_offset": start.0 }));
        }
        let fields = json!({ "name": self.topic, "partitions": list });
        context.output.document("topic.trim", fields, || rows.render())
    }
}
