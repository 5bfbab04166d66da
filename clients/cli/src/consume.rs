//! `meridian consume TOPIC`.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use clap::Args;
use meridian_client::admin::OffsetSpec;
use meridian_client::{Admin, Consumer, ConsumerSettings, Fetched, StartAt, Token};
use meridian_types::{Offset, TimestampMs};
use tokio::time::timeout;

use crate::context::Context;
use crate::error::CliError;
use crate::output::with_schema;
use crate::parse::{parse_duration, parse_time};
use crate::text_format::{LETTERS, Printed, TextFormat, json_fields};

/// Read records
#[derive(Debug, Args)]
#[command(after_help = format!("\
Letters of --format:
{LETTERS}

Examples:
  meridian consume orders                           everything there is, then end
  meridian consume orders --follow                  everything, and what comes
  meridian consume orders --from latest --follow    only what comes
  meridian consume orders --from -10                the last ten of each partition
  meridian consume orders --rack asia --after $TOKEN  next door, with what was written under the token
  meridian consume orders --from 2026-11-21T09:00:00Z --format '%T %k %s\\n'"))]
pub(crate) struct ConsumeArgs {
    /// The topic
    topic: String,
    /// Where to begin: earliest, latest, an offset, -N for the last N of each partition, or a time
    #[arg(long, short, default_value = "earliest", value_parser = parse_start, allow_hyphen_values = true)]
    from: StartAt,
    /// Where to end: an offset, or a time; neither belongs to what is read
    #[arg(long, value_parser = parse_until)]
    until: Option<Until>,
    /// Partitions to read, such as 0,2,5; all of them if not given
    #[arg(long = "partition", short, value_delimiter = ',', value_name = "N")]
    partitions: Vec<u32>,
    /// Wait for what comes after the end
    #[arg(long, alias = "follow-forever")]
    follow: bool,
    /// End after this many records
    #[arg(long, short = 'n', visible_alias = "limit", value_name = "N")]
    count: Option<u64>,
    /// With --follow, end when nothing came for this long
    #[arg(long, value_parser = parse_duration, value_name = "TIME", requires = "follow")]
    idle: Option<Duration>,
    /// How to print a record
    #[arg(long, default_value = "%s\\n", value_parser = TextFormat::parse)]
    format: TextFormat,
    /// Leave out records of transactions that are not committed
    #[arg(long)]
    read_committed: bool,
    /// Read from a replica in this rack or region, where there is one
    #[arg(long, value_name = "RACK")]
    rack: Option<String>,
    /// Read only where the record of this token is, which `meridian produce --token` has printed; a broker gets --timeout
    /// for getting it
    #[arg(long, value_name = "TOKEN", value_delimiter = ',')]
    after: Vec<Token>,
}

/// Where to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Offset(Offset),
    Time(TimestampMs),
}

fn parse_start(text: &str) -> Result<StartAt, String> {
    let expected = || {
        "expected earliest, latest, an offset, -N for the last N, or a time such as 2026-11-21T09:30:00Z"
            .to_owned()
    };
    match text {
        "earliest" | "beginning" => return Ok(StartAt::Earliest),
        "latest" | "end" => return Ok(StartAt::Latest),
        _ => {}
    }
    if let Some(count) = text.strip_prefix('-') {
        return count.parse().map(StartAt::BeforeEnd).map_err(|_| expected());
    }
    if let Some(time) = text.strip_prefix('@') {
        return parse_time(time).map(StartAt::Time);
    }
    if let Ok(offset) = text.parse() {
        return Ok(StartAt::Offset(Offset(offset)));
    }
    parse_time(text).map(StartAt::Time).map_err(|_| expected())
}

fn parse_until(text: &str) -> Result<Until, String> {
    if let Ok(offset) = text.parse() {
        return Ok(Until::Offset(Offset(offset)));
    }
    parse_time(text.strip_prefix('@').unwrap_or(text))
        .map(Until::Time)
        .map_err(|_| "expected an offset, or a time such as 2026-11-21T09:30:00Z".to_owned())
}

/// Where reading stands.
struct Progress {
    /// Partitions that are still read, with the offset they end at.
    ends: BTreeMap<u32, Option<Offset>>,
    printed: u64,
}

impl ConsumeArgs {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        let cluster = context.connect().await?;
        let topic = cluster.topic(&self.topic).await?;
        let there = topic.partitions.len();
        if let Some(wrong) = self.partitions.iter().find(|index| **index as usize >= there) {
            return Err(CliError::usage(format!(
                "topic '{}' has no partition {wrong}: it has {there}, numbered from 0",
                self.topic
            )));
        }
        if let Some(token) = self.after.iter().find(|token| Some(token.topic) != topic.id) {
            return Err(CliError::usage(format!(
                "the token {token} is of another topic than '{}', or of one of this name that was deleted",
                self.topic
            )));
        }
        let chosen: Vec<u32> = if self.partitions.is_empty() {
            topic.partitions.iter().map(|it| it.index).collect()
        } else {
            self.partitions.clone()
        };
        let mut progress = Progress {
            ends: self.ends(&Admin::new(&cluster), &chosen).await?,
            printed: 0,
        };
        let settings = ConsumerSettings {
            read_committed: self.read_committed,
            rack: self.rack.clone(),
            ..ConsumerSettings::default()
        };
        let mut consumer = Consumer::start(&cluster, settings);
        let assignment: Vec<_> = chosen
            .iter()
            .map(|index| (self.topic.clone(), *index, self.from))
            .collect();
        let begins = consumer
            .assign_after(&assignment, &self.after, context.timeout())
            .await?;
        self.drop_finished(&cluster, &consumer, &begins, &mut progress)
            .await?;
        let mut out = std::io::BufWriter::with_capacity(64 << 10, std::io::stdout());
        while !progress.ends.is_empty() && self.count.is_none_or(|count| progress.printed < count) {
            let next = match self.idle {
                Some(idle) => match timeout(idle, consumer.next()).await {
                    Ok(next) => next,
                    Err(_) => break,
                },
                None => tokio::select! {
                    next = consumer.next() => next,
                    _ = tokio::signal::ctrl_c() => break,
                },
            };
            self.print(
                &next?,
                context.output.is_json(),
                &consumer,
                &mut progress,
                &mut out,
            )?;
            // A person who looks on wants to see it now.
            out.flush()?;
        }
        Ok(out.flush()?)
    }

    /// The offset that each partition ends at; `None` where there is no end.
    async fn ends(
        &self,
        admin: &Admin,
        partitions: &[u32],
    ) -> Result<BTreeMap<u32, Option<Offset>>, CliError> {
        let spec = match self.until {
            Some(Until::Offset(offset)) => {
                return Ok(partitions.iter().map(|index| (*index, Some(offset))).collect());
            }
            Some(Until::Time(time)) => OffsetSpec::AtTime(time),
            None if self.follow => return Ok(partitions.iter().map(|index| (*index, None)).collect()),
            None => OffsetSpec::Latest,
        };
        let wanted: Vec<_> = partitions
            .iter()
            .map(|index| (self.topic.clone(), *index, spec))
            .collect();
        let found = admin.list_offsets(&wanted).await?;
        let mut ends: BTreeMap<u32, Option<Offset>> = found
            .into_iter()
            .map(|((_, index), listed)| (index, listed.offset))
            .collect();
        // Nothing of that time or later is there yet: the end is the end of the log, unless it is followed.
        let open: Vec<_> = ends
            .iter()
            .filter(|(_, end)| end.is_none() && !self.follow)
            .map(|(index, _)| (self.topic.clone(), *index, OffsetSpec::Latest))
            .collect();
        for ((_, index), listed) in admin.list_offsets(&open).await? {
            ends.insert(index, listed.offset);
        }
        Ok(ends)
    }

    /// Takes out partitions that have nothing to read: their ends will not be seen in what comes.
    async fn drop_finished(
        &self,
        cluster: &meridian_client::Cluster,
        consumer: &Consumer,
        begins: &BTreeMap<(String, u32), Offset>,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let starts: Vec<_> = progress
            .ends
            .keys()
            .map(|index| (self.topic.clone(), *index, OffsetSpec::Earliest))
            .collect();
        let starts = Admin::new(cluster).list_offsets(&starts).await?;
        let done: Vec<(String, u32)> = progress
            .ends
            .iter()
            .filter(|(index, end)| {
                let key = (self.topic.clone(), **index);
                let start = starts.get(&key).and_then(|it| it.offset).unwrap_or_default();
                let position = begins.get(&key).copied().unwrap_or_default();
                // A position behind the log's end is left for the server to refuse: a wrong offset must not look
                // like an empty partition.
                end.is_some_and(|end| {
                    end <= start || end == position || (self.until.is_some() && end < position)
                })
            })
            .map(|(index, _)| (self.topic.clone(), *index))
            .collect();
        for (_, index) in &done {
            progress.ends.remove(index);
        }
        consumer.unassign(&done);
        Ok(())
    }

    fn print(
        &self,
        fetched: &Fetched,
        is_json: bool,
        consumer: &Consumer,
        progress: &mut Progress,
        out: &mut impl Write,
    ) -> Result<(), CliError> {
        let index = fetched.partition();
        let Some(end) = progress.ends.get(&index).copied() else {
            return Ok(());
        };
        for record in fetched.records() {
            let record = record?;
            if end.is_some_and(|end| record.offset >= end) {
                break;
            }
            if self.count.is_some_and(|count| progress.printed >= count) {
                return Ok(());
            }
            let printed = Printed {
                topic: fetched.topic(),
                partition: index,
                record: &record,
            };
            if is_json {
                writeln!(out, "{}", with_schema("consume.record", json_fields(&printed)))?;
            } else {
                self.format.write(out, &printed)?;
            }
            progress.printed += 1;
        }
        if end.is_some_and(|end| fetched.next_offset() >= end) {
            progress.ends.remove(&index);
            consumer.unassign(&[(self.topic.clone(), index)]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starting_points_are_read() {
        for (text, start) in [
            ("earliest", StartAt::Earliest),
            ("latest", StartAt::Latest),
            ("17", StartAt::Offset(Offset(17))),
            ("-5", StartAt::BeforeEnd(5)),
            ("@1000", StartAt::Time(TimestampMs(1000))),
            ("1970-01-02", StartAt::Time(TimestampMs(86_400_000))),
        ] {
            assert_eq!(parse_start(text), Ok(start), "{text}");
        }
        for text in ["", "-", "soon", "1.5", "--5"] {
            assert!(parse_start(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_until("1970-01-02"),
            Ok(Until::Time(TimestampMs(86_400_000)))
        );
    }
}
