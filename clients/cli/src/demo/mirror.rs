//! What the regions of a demo say of one another: who owns, and how far the mirrors are behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meridian_client::admin::MirrorDescription;
use meridian_client::{Admin, Cluster, ClusterSettings, Endpoint};
use tokio::time::{Instant, sleep};

use super::stage::Stage;

/// Pause between looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A switchover that does not finish in this time is taken back.
const SWITCHOVER_TIMEOUT: Duration = Duration::from_secs(10);

/// Until it is known whether it was: whoever decides may be elected anew.
const GRACE: Duration = Duration::from_secs(15);

/// Looks again and again, until it is aborted.
pub(super) async fn watch(stage: Arc<Stage>) {
    let servers: Vec<Endpoint> = stage.regions.iter().flat_map(|region| region.servers()).collect();
    let mut admin = None;
    let mut owner = None;
    loop {
        if admin.is_none() {
            admin = connect(&servers).await.ok();
        }
        if let Some(asked) = &admin {
            match asked.describe_mirror(false).await {
                Ok(mirror) => {
                    let name = mirror.name_of(mirror.owner);
                    if owner.as_ref() != Some(&name) {
                        stage.tell(&format!(
                            "region {name} owns, under region epoch {}",
                            mirror.region_epoch
                        ));
                        owner = Some(name);
                    }
                    show(&stage, &mirror);
                }
                Err(_) => admin = None,
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}

fn show(stage: &Stage, mirror: &MirrorDescription) {
    let behind = staleness(mirror);
    let mut picture = stage.picture.lock();
    let owner = mirror.name_of(mirror.owner);
    for region in &mut picture.regions {
        region.is_owner = Some(region.name == owner);
    }
    for link in &mut picture.links {
        let shown = behind
            .iter()
            .filter(|((from, to), _)| link.name.joins(from, to))
            .map(|(_, staleness)| *staleness);
        link.staleness = shown.max();
    }
}

/// For each pair of a source and its mirror, how far the shard that is furthest behind is.
fn staleness(mirror: &MirrorDescription) -> BTreeMap<(String, String), Duration> {
    let mut behind = BTreeMap::new();
    for shard in &mirror.shards {
        if let (Some(source), Some(staleness)) = (shard.follows, shard.staleness) {
            let pair = (mirror.name_of(source), mirror.name_of(shard.region));
            let furthest = behind.entry(pair).or_insert(staleness);
            *furthest = staleness.max(*furthest);
        }
    }
    behind
}

/// Moves ownership, and waits until it is moved. Gives what happened, for people. Errors: why it was not moved.
pub(super) async fn switch_over(servers: &[Endpoint], to: &str) -> Result<String, String> {
    let admin = connect(servers).await?;
    let (owner, target) = until_registered(&admin, to).await?;
    if owner == target {
        return Err(format!("region {to} owns already"));
    }
    let started = Instant::now();
    let ended = admin
        .switch_over(&target.to_string(), SWITCHOVER_TIMEOUT)
        .await
        .map_err(|error| error.to_string())?;
    while started.elapsed() < SWITCHOVER_TIMEOUT + GRACE {
        sleep(LOOK_INTERVAL / 5).await;
        // In the middle of it nodes may be busy with it.
        let Ok(mirror) = admin.describe_mirror(false).await else {
            continue;
        };
        if mirror.region_epoch > ended && mirror.draining_to.is_none() {
            let took = started.elapsed().as_secs_f64();
            return if mirror.owner == target {
                Ok(format!("region {to} owns, after {took:.2} s"))
            } else {
                Err(format!(
                    "taken back after {took:.2} s: region {to} did not have everything in time"
                ))
            };
        }
    }
    Err("neither done nor taken back".to_owned())
}

/// Waits until region `to` is known to the others: one that was founded a moment ago may not be yet.
/// Gives the owner's number and its own.
async fn until_registered(admin: &Admin, to: &str) -> Result<(u16, u16), String> {
    let started = Instant::now();
    loop {
        let mirror = admin
            .describe_mirror(false)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(region) = mirror.region(to) {
            return Ok((mirror.owner, region.number));
        }
        if started.elapsed() > GRACE {
            return Err(format!(
                "region {to} is not registered with the owner yet: is a node of it up?"
            ));
        }
        sleep(LOOK_INTERVAL / 5).await;
    }
}

async fn connect(servers: &[Endpoint]) -> Result<Admin, String> {
    let settings = ClusterSettings {
        request_timeout: Duration::from_secs(3),
        operation_timeout: Duration::from_secs(5),
        ..ClusterSettings::new(servers.to_vec())
    };
    let cluster = Cluster::connect(settings)
        .await
        .map_err(|error| error.to_string())?;
    Ok(Admin::new(&cluster))
}
