//! `meridian failover ...`: moves ownership between regions.

use std::time::Duration;

use clap::{Args, Subcommand};
use meridian_client::admin::MirrorDescription;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::context::Context;
use crate::error::CliError;
use crate::output::time_text;

/// Pause between looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Beyond its own time a switchover is watched so long: whoever decides about it may be elected anew.
const GRACE: Duration = Duration::from_secs(15);

#[derive(Debug, Subcommand)]
pub(crate) enum FailoverCommand {
    /// Move ownership to another region as planned, without loss: status 1 if it was taken back
    Switchover(SwitchoverArgs),
}

impl FailoverCommand {
    pub(crate) async fn run(self, context: &Context) -> Result<(), CliError> {
        match self {
            Self::Switchover(args) => args.run(context).await,
        }
    }
}

/// Once the other region follows every log, writes stop, it takes the rest, and then it owns. Clients follow by themselves. If the other region
/// does not have everything within --timeout, the present owner goes on.
#[derive(Debug, Args)]
pub(crate) struct SwitchoverArgs {
    /// Name or number of the region that is to own
    #[arg(long, value_name = "REGION")]
    to: String,
}

impl SwitchoverArgs {
    async fn run(self, context: &Context) -> Result<(), CliError> {
        let admin = context.admin().await?;
        let before = admin.describe_mirror(false).await?;
        let target = before.region(&self.to).ok_or_else(|| {
            CliError::failed(format!("there is no region {}", self.to))
                .advise("`meridian region list` lists the regions")
        })?;
        let (target, name) = (target.number, before.name_of(target.number));
        if before.owner == target && before.draining_to.is_none() {
            return context
                .output
                .document("failover.switchover", outcome(&before, target, None), || {
                    format!("region {name} owns already")
                });
        }
        let started = Instant::now();
        let ended_epoch = match before.draining_to {
            // It was asked for before, by this command perhaps: go on watching.
            Some(to) if to == target => before.region_epoch,
            _ => admin.switch_over(&target.to_string(), context.timeout()).await?,
        };
        let deadline = started + context.timeout() + GRACE;
        loop {
            match admin.describe_mirror(false).await {
                Ok(mirror) if mirror.region_epoch > ended_epoch && mirror.draining_to.is_none() => {
                    let took = started.elapsed();
                    if mirror.owner != target {
                        return Err(CliError::failed(format!(
                            "taken back after {}: region {name} did not have everything in time; region {} goes on",
                            time_text(took),
                            mirror.name_of(mirror.owner)
                        ))
                        .advise("`meridian mirror status --shards` shows what is behind"));
                    }
                    // Decided; done once its shards take writes.
                    if is_taken_over(&mirror, target) {
                        return context.output.document(
                            "failover.switchover",
                            outcome(&mirror, target, Some(took)),
                            || format!("region {name} owns, after {}", time_text(took)),
                        );
                    }
                }
                Ok(_) => {}
                // In the middle of it nodes may be busy with it.
                Err(error) if Instant::now() >= deadline => return Err(error.into()),
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                return Err(CliError::failed(format!(
                    "neither done nor taken back after {}",
                    time_text(started.elapsed())
                ))
                .advise("`meridian mirror status --shards` shows how far it is; asking again is safe"));
            }
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// Whether every shard of the region is its owner under the present epoch.
fn is_taken_over(mirror: &MirrorDescription, region: u16) -> bool {
    let mut shards = mirror
        .shards
        .iter()
        .filter(|shard| shard.region == region)
        .peekable();
    shards.peek().is_some()
        && shards.all(|shard| shard.role == "owner" && shard.region_epoch == mirror.region_epoch)
}

fn outcome(mirror: &MirrorDescription, region: u16, took: Option<Duration>) -> serde_json::Value {
    json!({
        "owner": region,
        "owner_name": mirror.name_of(region),
        "region_epoch": mirror.region_epoch.0,
        "took_ms": took.map(|took| took.as_millis()),
    })
}
