//! `meridian group ...`.

use std::collections::{BTreeMap, BTreeSet};

use clap::{Args, Subcommand};
use meridian_client::admin::{CommittedOffset, GroupDescription, OffsetSpec};
use meridian_client::{Admin, AdminError};
use meridian_types::{Offset, TimestampMs};
use meridian_wire::ErrorCode;
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, count, or_dash};
use crate::parse::parse_time;

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List groups
    List,
    /// Show a group's members, and how far it is behind
    Describe(DescribeArgs),
    /// Move a group that has no members to other offsets; shows what it would do without --yes
    Reset(ResetArgs),
    /// Delete groups that have no members, with their offsets
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// The group
    group: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// The groups
    #[arg(required = true, value_name = "GROUP")]
    groups: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  meridian group reset readers --topic orders --to-earliest
  meridian group reset readers --topic orders --partition 0 --to-offset 100 --yes")]
pub(crate) struct ResetArgs {
    /// The group; it is made if it does not exist
    group: String,
    /// A topic; may be given several times. All that the group has offsets for if not given
    #[arg(long = "topic", value_name = "TOPIC")]
    topics: Vec<String>,
    /// Partitions, such as 0,2,5; all of them if not given
    #[arg(long = "partition", value_delimiter = ',', value_name = "N")]
    partitions: Vec<u32>,
    #[command(flatten)]
    target: TargetArgs,
}

/// Where to.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TargetArgs {
    /// To the logs' starts
    #[arg(long)]
    to_earliest: bool,
    /// To the logs' ends
    #[arg(long)]
    to_latest: bool,
    /// To this offset, or as near as the log goes
    #[arg(long, value_name = "OFFSET")]
    to_offset: Option<u64>,
    /// To the first records of this time or later
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    to_datetime: Option<TimestampMs>,
    /// By this many records, back if negative
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    shift_by: Option<i64>,
}

impl GroupCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::List => list(context).await,
            Self::Describe(args) => args.run(context).await,
            Self::Reset(args) => args.run(context).await,
            Self::Delete(args) => args.run(context).await,
        }
    }
}

async fn list(context: &Context) -> Result<(), CliError> {
    let groups = context.admin().await?.list_groups().await?;
    let mut rows = Rows::new(&["GROUP", "STATE", "TYPE"]);
    let mut found = Vec::new();
    for group in &groups {
        let kind = Some(&group.protocol_type).filter(|kind| !kind.is_empty());
        rows.push([group.id.clone(), or_dash(group.state.as_ref()), or_dash(kind)]);
        found.push(json!({ "group": group.id, "state": group.state, "type": kind }));
    }
    context
        .output
        .document("group.list", json!({ "groups": found }), || {
            if groups.is_empty() {
                "no groups".to_owned()
            } else {
                rows.render()
            }
        })
}

/// A partition that a group reads or has read.
struct Lag {
    topic: String,
    partition: u32,
    committed: Option<CommittedOffset>,
    end: Option<Offset>,
    member: Option<usize>,
}

impl Lag {
    /// Records that the group has not read yet.
    fn records(&self) -> Option<u64> {
        let committed = self.committed.as_ref()?.offset;
        Some(self.end?.0.saturating_sub(committed.0))
    }
}

impl DescribeArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let group = admin.describe_group(&self.group).await?;
        let lags = lags(&admin, &group).await?;
        let total: u64 = lags.iter().filter_map(Lag::records).sum();
        let mut by_topic: BTreeMap<&str, u64> = BTreeMap::new();
        for lag in &lags {
            *by_topic.entry(&lag.topic).or_default() += lag.records().unwrap_or(0);
        }
        let member_name = |index: usize| {
            let member = &group.members[index];
            member.instance_id.clone().unwrap_or_else(|| member.id.clone())
        };
        let partitions: Vec<Value> = lags
            .iter()
            .map(|lag| {
                json!({
                    "topic": lag.topic,
                    "partition": lag.partition,
                    "committed_offset": lag.committed.as_ref().map(|it| it.offset.0),
                    "metadata": lag.committed.as_ref().map(|it| &it.metadata),
                    "log_end_offset": lag.end.map(|it| it.0),
                    "lag": lag.records(),
                    "member": lag.member.map(|index| &group.members[index].id),
                })
            })
            .collect();
        let members: Vec<Value> = group
            .members
            .iter()
            .map(|member| {
                json!({
                    "id": member.id,
                    "instance_id": member.instance_id,
                    "client_id": member.client_id,
                    "host": member.client_host,
                    "topics": member.topics,
                    "partitions": member.partitions.iter()
                        .map(|(topic, index)| json!({ "topic": topic, "partition": index }))
                        .collect::<Vec<_>>(),
                })
            })
            .collect();
        let fields = json!({
            "group": group.id,
            "state": group.state,
            "assignor": group.assignor,
            "lag": total,
            "lag_by_topic": by_topic,
            "members": members,
            "partitions": partitions,
        });
        context.output.document("group.describe", fields, || {
            let mut rows = Rows::new(&["TOPIC", "PARTITION", "COMMITTED", "END", "LAG", "MEMBER", "HOST"]);
            for lag in &lags {
                rows.push([
                    lag.topic.clone(),
                    lag.partition.to_string(),
                    or_dash(lag.committed.as_ref().map(|it| it.offset)),
                    or_dash(lag.end),
                    or_dash(lag.records()),
                    or_dash(lag.member.map(member_name)),
                    or_dash(lag.member.map(|index| &group.members[index].client_host)),
                ]);
            }
            let assignor = if group.assignor.is_empty() {
                String::new()
            } else {
                format!(", assignor {}", group.assignor)
            };
            let table = if lags.is_empty() {
                "no offsets are stored".to_owned()
            } else {
                rows.render()
            };
            format!(
                "group {}: {}, {}{assignor}, {total} records behind\n\n{table}",
                group.id,
                group.state,
                count(group.members.len(), "member"),
            )
        })
    }
}

async fn lags(admin: &Admin, group: &GroupDescription) -> Result<Vec<Lag>, CliError> {
    let committed = admin.group_offsets(&group.id).await?;
    let mut readers: BTreeMap<(String, u32), usize> = BTreeMap::new();
    for (index, member) in group.members.iter().enumerate() {
        for partition in &member.partitions {
            readers.insert(partition.clone(), index);
        }
    }
    let all: BTreeSet<_> = committed.keys().chain(readers.keys()).cloned().collect();
    let ends = ends_of_existing(admin, &all, OffsetSpec::Latest).await?;
    Ok(all
        .into_iter()
        .map(|key| Lag {
            committed: committed.get(&key).cloned(),
            end: ends.get(&key).copied().flatten(),
            member: readers.get(&key).copied(),
            topic: key.0,
            partition: key.1,
        })
        .collect())
}

/// Positions in those of `partitions` that exist: a group keeps offsets of topics that are gone.
async fn ends_of_existing(
    admin: &Admin,
    partitions: &BTreeSet<(String, u32)>,
    spec: OffsetSpec,
) -> Result<BTreeMap<(String, u32), Option<Offset>>, CliError> {
    let topics: BTreeSet<&str> = partitions.iter().map(|(topic, _)| topic.as_str()).collect();
    let names: Vec<&str> = topics.into_iter().collect();
    let known = admin.cluster().refresh(Some(&names)).await?.metadata.topics;
    let wanted: Vec<_> = partitions
        .iter()
        .filter(|(topic, index)| {
            let partition = known.get(topic).and_then(|it| it.partitions.get(*index as usize));
            partition.is_some_and(|it| it.leader.is_some())
        })
        .map(|(topic, index)| (topic.clone(), *index, spec))
        .collect();
    let found = admin.list_offsets(&wanted).await?;
    Ok(found
        .into_iter()
        .map(|(key, listed)| (key, listed.offset))
        .collect())
}

impl ResetArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        self.refuse_members(&admin).await?;
        let committed = match admin.group_offsets(&self.group).await {
            Ok(committed) => committed,
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => BTreeMap::new(),
            Err(error) => return Err(error.into()),
        };
        let partitions = self.partitions(&admin, &committed).await?;
        let targets = self.targets(&admin, &partitions, &committed).await?;
        let is_done = context.is_agreed();
        if is_done {
            admin.alter_group_offsets(&self.group, &targets).await?;
        }
        let mut rows = Rows::new(&["TOPIC", "PARTITION", "FROM", "TO"]);
        let mut list = Vec::new();
        for ((topic, index), to) in &targets {
            let from = committed.get(&(topic.clone(), *index)).map(|it| it.offset);
            rows.push([topic.clone(), index.to_string(), or_dash(from), to.to_string()]);
            list.push(json!({
                "topic": topic,
                "partition": index,
                "from": from.map(|it| it.0),
                "to": to.0,
            }));
        }
        let fields = json!({ "group": self.group, "is_done": is_done, "partitions": list });
        context.output.document("group.reset", fields, || {
            let note = if is_done {
                format!("group '{}' is moved", self.group)
            } else {
                "nothing is done yet: add --yes to move the group".to_owned()
            };
            format!("{}\n\n{note}", rows.render())
        })
    }

    /// Members would go on from where they are, and store that.
    async fn refuse_members(&self, admin: &Admin) -> Result<(), CliError> {
        match admin.describe_group(&self.group).await {
            Ok(group) if !group.members.is_empty() => Err(CliError::failed(format!(
                "group '{}' has {}",
                self.group,
                count(group.members.len(), "member")
            ))
            .advise("stop them first; `meridian group describe` names them")),
            Ok(_) => Ok(()),
            Err(error) if error.code() == Some(ErrorCode::GroupIdNotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn partitions(
        &self,
        admin: &Admin,
        committed: &BTreeMap<(String, u32), CommittedOffset>,
    ) -> Result<BTreeSet<(String, u32)>, CliError> {
        let mut all = BTreeSet::new();
        if self.topics.is_empty() {
            all.extend(committed.keys().cloned());
            if all.is_empty() {
                return Err(
                    CliError::failed(format!("group '{}' has stored no offsets", self.group))
                        .advise("name the topics with --topic"),
                );
            }
        }
        for name in &self.topics {
            let topic = admin.describe_topic(name).await?;
            all.extend(
                topic
                    .partitions
                    .iter()
                    .map(|partition| (name.clone(), partition.index)),
            );
        }
        if !self.partitions.is_empty() {
            for index in &self.partitions {
                if !all.iter().any(|(_, existing)| existing == index) {
                    return Err(CliError::usage(format!("there is no partition {index} to reset")));
                }
            }
            all.retain(|(_, index)| self.partitions.contains(index));
        }
        Ok(all)
    }

    async fn targets(
        &self,
        admin: &Admin,
        partitions: &BTreeSet<(String, u32)>,
        committed: &BTreeMap<(String, u32), CommittedOffset>,
    ) -> Result<BTreeMap<(String, u32), Offset>, CliError> {
        let starts = ends_of_existing(admin, partitions, OffsetSpec::Earliest).await?;
        let ends = ends_of_existing(admin, partitions, OffsetSpec::Latest).await?;
        let by_time = match self.target.to_datetime {
            Some(time) => ends_of_existing(admin, partitions, OffsetSpec::AtTime(time)).await?,
            None => BTreeMap::new(),
        };
        let mut targets = BTreeMap::new();
        for key in partitions {
            let (Some(Some(start)), Some(Some(end))) = (starts.get(key), ends.get(key)) else {
                return Err(AdminError::NoLeader {
                    topic: key.0.clone(),
                    partition: key.1,
                }
                .into());
            };
            let target = &self.target;
            let to = if target.to_earliest {
                *start
            } else if target.to_latest {
                *end
            } else if let Some(offset) = target.to_offset {
                Offset(offset)
            } else if target.to_datetime.is_some() {
                by_time.get(key).copied().flatten().unwrap_or(*end)
            } else if let Some(by) = target.shift_by {
                let from = committed.get(key).ok_or_else(|| {
                    CliError::failed(format!(
                        "group '{}' has stored no offset for partition {} of topic '{}' to shift from",
                        self.group, key.1, key.0
                    ))
                })?;
                Offset(from.offset.0.saturating_add_signed(by))
            } else {
                return Err(CliError::usage("no target was given"));
            };
            targets.insert(key.clone(), to.clamp(*start, *end));
        }
        Ok(targets)
    }
}

impl DeleteArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        context.confirm(&format!(
            "delete {} ({}) with stored offsets",
            count(self.groups.len(), "group"),
            self.groups.join(", ")
        ))?;
        let admin = context.admin().await?;
        for group in &self.groups {
            admin.delete_group(group).await?;
        }
        let fields = json!({ "groups": self.groups });
        context.output.document("group.delete", fields, || {
            let lines: Vec<String> = self
                .groups
                .iter()
                .map(|group| format!("group '{group}' deleted"))
                .collect();
            lines.join("\n")
        })
    }
}
