//! The topic that a benchmark works on.

use std::time::Duration;

use clap::Args;
use meridian_client::admin::NewTopic;
use meridian_client::{Admin, Cluster};
use meridian_wire::ErrorCode;

use crate::context::Context;
use crate::error::CliError;
use crate::parse::{parse_bytes, parse_setting};

/// The topic, made if it is not there.
#[derive(Clone, Debug, Args)]
pub(crate) struct TargetArgs {
    /// The topic; created if it is not there
    #[arg(long, default_value = "meridian-bench")]
    pub(super) topic: String,
    /// How many partitions to create, and to use
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) partitions: u32,
    /// How many copies of each; the server's default if not given
    #[arg(long)]
    pub(super) replicas: Option<u16>,
    /// A setting of the topic when it is created; may be given several times
    #[arg(long = "config", value_name = "NAME=VALUE", value_parser = parse_setting)]
    pub(super) configs: Vec<(String, String)>,
}

/// What the records are like.
#[derive(Clone, Debug, Args)]
pub(crate) struct RecordArgs {
    /// Bytes of each record's value
    #[arg(long, default_value = "1024", value_parser = parse_bytes, value_name = "BYTES")]
    pub(super) size: u64,
    /// Bytes of a batch before compression
    #[arg(long, default_value = "64KiB", value_parser = parse_bytes, value_name = "BYTES")]
    pub(super) batch_bytes: u64,
    /// Compression of the batches: none, gzip, snappy, lz4 or zstd
    #[arg(long, default_value = "none", value_parser = crate::parse::parse_compression)]
    pub(super) compression: meridian_wire::batch::Compression,
    /// Who must have a record before it counts as written: 0 nobody, 1 the leader, all a quorum
    #[arg(long, default_value = "all", value_parser = crate::parse::parse_acks)]
    pub(super) acks: meridian_client::Acks,
}

impl RecordArgs {
    /// Bytes of each record's value.
    pub(super) fn value_bytes(&self) -> usize {
        usize::try_from(self.size).unwrap_or(usize::MAX)
    }

    /// Checks what the options cannot check one by one.
    pub(super) fn check(&self) -> Result<(), CliError> {
        let min = super::content::VALUE_BYTES_MIN as u64;
        if !(min..=64 << 20).contains(&self.size) {
            return Err(CliError::usage(format!(
                "--size {} is out of range: a benchmark record has {min} bytes to 64 MiB",
                self.size
            )));
        }
        if !(1..=512 << 20).contains(&self.batch_bytes) {
            return Err(CliError::usage(format!(
                "--batch-bytes {} is out of range: expected 1 byte to 512 MiB",
                self.batch_bytes
            )));
        }
        Ok(())
    }
}

impl TargetArgs {
    /// Connects, and sees that the topic is there with as many partitions as are to be used.
    pub(super) async fn prepare(&self, context: &Context) -> Result<Cluster, CliError> {
        let settings = meridian_client::ClusterSettings {
            operation_timeout: context.timeout().max(Duration::from_secs(60)),
            request_timeout: context.timeout().max(Duration::from_secs(60)),
            ..context.cluster_settings()
        };
        let cluster = Cluster::connect(settings).await?;
        let admin = Admin::new(&cluster);
        let created = admin
            .create_topic(
                &NewTopic {
                    name: self.topic.clone(),
                    partitions: Some(self.partitions),
                    replicas: self.replicas,
                    configs: self.configs.clone(),
                },
                false,
            )
            .await;
        match created {
            Ok(_) => {}
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => {}
            Err(error) => return Err(error.into()),
        }
        self.await_leaders(&cluster).await?;
        // A leader that is named may not know yet that it is one; this asks each until it does.
        super::verify::ends(&cluster, &self.topic, self.partitions).await?;
        Ok(cluster)
    }

    /// Waits until every partition has a leader: at first there may be none.
    async fn await_leaders(&self, cluster: &Cluster) -> Result<(), CliError> {
        let deadline = super::driver::now() + Duration::from_secs(60);
        loop {
            // A failure here passes when the topic has spread to the broker that was asked.
            let update = cluster.refresh(Some(&[&self.topic])).await?;
            let known = update.metadata.topics.get(&self.topic);
            let partitions = known.map_or(0, |topic| topic.partitions.len());
            let used = self.partitions as usize;
            if let Some(topic) = known.filter(|topic| topic.partitions.len() >= used) {
                if topic.partitions.iter().take(used).all(|it| it.leader.is_some()) {
                    return Ok(());
                }
            } else if partitions > 0 {
                return Err(CliError::failed(format!(
                    "topic '{}' has {partitions} partitions, and {used} are to be used",
                    self.topic
                ))
                .advise(format!(
                    "give --partitions {partitions}, another --topic, or add partitions with `meridian topic alter`"
                )));
            }
            if super::driver::now() >= deadline {
                return Err(CliError::failed(format!(
                    "topic '{}' has partitions without a leader for a minute",
                    self.topic
                ))
                .advise("`meridian topic describe` names them"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
