//! `meridian region list`.

use clap::Args;
use meridian_client::admin::{MirrorDescription, MirrorRegion};
use serde_json::{Value, json};

use crate::context::Context;
use crate::error::CliError;
use crate::output::{Rows, or_dash, time_text};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {}

impl ListArgs {
    pub(super) async fn run(self, context: &Context) -> Result<(), CliError> {
        let mirror = context.admin().await?.describe_mirror(false).await?;
        let regions: Vec<Value> = mirror
            .regions
            .iter()
            .map(|region| region_json(&mirror, region))
            .collect();
        let fields = json!({
            "cluster_id": mirror.cluster_id,
            "region_epoch": mirror.region_epoch.0,
            "owner": mirror.owner,
            "draining_to": mirror.draining_to,
            "regions": regions,
        });
        context.output.document("region.list", fields, || {
            let mut rows = Rows::new(&["NUMBER", "NAME", "ROLE", "STATE", "HEARD", "ADDRESSES", "BROKERS"]);
            for region in &mirror.regions {
                let brokers: Vec<String> = region.nodes.iter().map(|(_, at)| at.to_string()).collect();
                rows.push([
                    region.number.to_string(),
                    or_dash(Some(&region.name).filter(|name| !name.is_empty())),
                    role(&mirror, region).to_owned(),
                    state(region).to_owned(),
                    or_dash(region.heard.map(time_text)),
                    or_dash(Some(region.addresses.join(",")).filter(|it| !it.is_empty())),
                    or_dash(Some(brokers.join(",")).filter(|it| !it.is_empty())),
                ]);
            }
            rows.render()
        })
    }
}

fn role(mirror: &MirrorDescription, region: &MirrorRegion) -> &'static str {
    match (region.number == mirror.owner, mirror.draining_to) {
        (true, Some(_)) => "owner, draining",
        (true, None) => "owner",
        (false, Some(to)) if to == region.number => "mirror, to be owner",
        (false, _) => "mirror",
    }
}

fn state(region: &MirrorRegion) -> &'static str {
    match (region.has_answered, region.heard.is_some(), region.is_registered) {
        (true, _, _) => "up",
        (false, true, _) => "heard by others",
        (false, false, true) => "not heard",
        (false, false, false) => "unknown",
    }
}

fn region_json(mirror: &MirrorDescription, region: &MirrorRegion) -> Value {
    let brokers: Vec<Value> = region
        .nodes
        .iter()
        .map(|(id, at)| json!({ "id": id.0, "address": at.to_string() }))
        .collect();
    json!({
        "number": region.number,
        "name": region.name,
        "is_owner": region.number == mirror.owner,
        "is_registered": region.is_registered,
        "is_up": region.has_answered,
        "heard_ms": region.heard.map(|heard| heard.as_millis()),
        "region_epoch": region.region_epoch.map(|epoch| epoch.0),
        "addresses": region.addresses,
        "brokers": brokers,
    })
}
