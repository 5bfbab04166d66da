//! The addresses in `geo.seeds`: who answers there, and what a new region learns from it.

use std::sync::Arc;

use meridian_geo_mirror::Hello;
use meridian_types::{RegionEpoch, RegionNumber};

use super::settings::GeoSettings;
use super::source;
use crate::region::Inner;

/// What a region that is to be founded learns from the one that answers at a seed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Learned {
    pub(crate) cluster_id: String,
    pub(crate) shards: u32,
    /// Whom it mirrors until it hears otherwise.
    pub(crate) owner: RegionNumber,
}

/// Asks each seed once who it is. Errors: why none tells, for the operator.
pub(crate) async fn learn(inner: &Inner, geo: &GeoSettings) -> Result<Learned, String> {
    let own = Hello {
        cluster_id: String::new(),
        region: inner.settings.peer.region.clone(),
        number: geo.number,
        node: inner.node(),
        shards: 0,
        region_epoch: RegionEpoch(0),
        feature_level: inner.settings.feature_level_max,
    };
    let mut reasons = Vec::new();
    for seed in &geo.seeds {
        let asked = meridian_geo_mirror::ask(
            &geo.transport,
            &geo.tls,
            Arc::clone(&geo.network),
            own.clone(),
            seed,
        );
        match asked.await {
            Ok(there) if there.number == geo.number => reasons.push(format!(
                "{seed} is of region {} ('{}'), and so is this node: give every region a number of its own (region.number)",
                there.number, there.region
            )),
            Ok(there) if there.cluster_id.is_empty() => {
                reasons.push(format!("{seed} is not founded yet"));
            }
            Ok(there) => {
                return Ok(Learned {
                    cluster_id: there.cluster_id,
                    shards: there.shards,
                    owner: there.number,
                });
            }
            Err(error) => reasons.push(error.to_string()),
        }
    }
    Err(reasons.join("; "))
}

/// Finds out whose the seeds are that nobody has answered at yet.
pub(super) async fn ask(inner: &Inner) {
    let (Some(mirror), Some(geo)) = (inner.mirror(), inner.settings.geo.as_ref()) else {
        return;
    };
    for seed in &geo.seeds {
        if mirror.seeds.lock().iter().any(|(.., address)| address == seed) {
            continue;
        }
        let own = source::hello(inner);
        let asked =
            meridian_geo_mirror::ask(&geo.transport, &geo.tls, Arc::clone(&geo.network), own, seed).await;
        match asked {
            Ok(there) if there.number == inner.number() => {
                tracing::warn!(seed, "a seed is of this region itself");
                mirror
                    .seeds
                    .lock()
                    .push((there.number, there.region, seed.clone()));
            }
            Ok(there) => {
                tracing::info!(seed, region = %there.number, name = there.region, "another region answers");
                mirror
                    .seeds
                    .lock()
                    .push((there.number, there.region, seed.clone()));
            }
            Err(error) => tracing::debug!(seed, %error, "nobody answers at a seed yet"),
        }
    }
}
